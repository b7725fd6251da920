//! Where to begin: shuts older runners out, reads what was decided, here and by a host, and says which of it counts.

use millstream_core::{
    Checkpoint, Delivery, Epoch, Error, ErrorKind, Result, Role, Share, Sink, SinkPlan, Stamp, Token,
};

use crate::{
    open::{DEAD_LETTERS, Lasting, failure, opening},
    plan::Planned,
    run::Start,
    task::Failure,
};

/// Where to begin.
pub(crate) struct Recovered {
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) start: Start,
    /// What the sinks of a host join.
    pub(crate) share: Option<Share>,
    /// What was there before is forgotten on purpose.
    pub(crate) anew: bool,
}

impl Lasting {
    /// Fences, reads the checkpoint, brings the store to it, and decides where to begin. Also after a failure in this
    /// process: a deciding write whose outcome is unknown is settled here.
    pub(crate) async fn recover(&mut self) -> Result<Recovered, Failure> {
        let failed = failure("state");
        self.store.fence().await.map_err(&failed)?;
        let hosted = self.fence_host().await?;
        let share = self.host.as_ref().map(|host| host.share());
        let local = self.store.load().await.map_err(&failed)?;
        // What a host holds under our new identity came after the reset.
        let older = hosted.as_ref().is_some_and(|hosted| hosted.store_id != self.store.id());
        let reset = local.is_none() && self.store.was_reset();
        if self.options.fresh || reset && older {
            // What does not fit together is forgotten with the rest.
            if let Some(checkpoint) = hosted.or(local) {
                self.begin_anew(&checkpoint, share.as_ref(), Start::Fresh).await?;
            }
            self.options.fresh = false;
            return Ok(Recovered { checkpoint: None, start: Start::Fresh, share, anew: true });
        }
        let system = self.plan.host().map(|(system, _)| system);
        let exact = self.plan.delivery == Delivery::ExactlyOnce;
        let Some((checkpoint, by)) = truth(local, hosted, system.as_deref(), exact).map_err(&failed)? else {
            return Ok(Recovered { checkpoint: None, start: Start::Fresh, share, anew: reset });
        };
        self.check_fingerprint(&checkpoint).map_err(&failed)?;
        // A restart inside the process does not run the pipeline twice.
        if checkpoint.finished && !self.options.go_on && self.start.is_none() {
            self.begin_anew(&checkpoint, share.as_ref(), Start::Anew).await?;
            return Ok(Recovered { checkpoint: None, start: Start::Anew, share, anew: true });
        }
        if by == By::Host {
            self.store.adopt(checkpoint.clone()).await.map_err(&failed)?;
        }
        let start = Start::Resuming(checkpoint.epoch);
        Ok(Recovered { checkpoint: Some(checkpoint), start, share, anew: false })
    }

    /// Shuts out the runner before us, and reads what the host has decided.
    async fn fence_host(&mut self) -> Result<Option<Checkpoint>, Failure> {
        let Some((system, plan)) = self.plan.host() else { return Ok(None) };
        let failed = failure(&system);
        let mut host = match self.host.take() {
            Some(host) => host,
            None => plan.host().map_err(&failed)?,
        };
        host.introduce(&Stamp { pipeline: self.plan.name.clone(), store_id: self.store.id(), epoch: 0 });
        let fenced = host.fence().await;
        self.host = Some(host);
        fenced.map_err(failed)
    }

    /// Forgets what was decided. On a fresh start that may be what no longer fits the world outside.
    async fn begin_anew(
        &mut self,
        checkpoint: &Checkpoint,
        share: Option<&Share>,
        start: Start,
    ) -> Result<(), Failure> {
        let plan = self.plan.clone();
        let stamp =
            Stamp { pipeline: plan.name.clone(), store_id: checkpoint.store_id.clone(), epoch: checkpoint.epoch };
        let nodes = plan.nodes.iter().filter_map(|node| match &node.component {
            Planned::Sink(sink) => Some((node.name.as_str(), sink)),
            _ => None,
        });
        // What was decided must count before anything begins anew: a rename may be missing. Our own letters only grow.
        for (name, sink) in nodes.chain(plan.dead_letter.iter().map(|sink| (DEAD_LETTERS, sink))) {
            let share = share.filter(|_| self.plan.joins(&**sink));
            match open_sink(name, &**sink, &stamp, share, Some(checkpoint)).await {
                Ok(mut sink) => sink.close().await.map_err(failure(name))?,
                Err(Failure { error, .. }) if start == Start::Fresh && error.kind() == ErrorKind::StateMismatch => {
                    tracing::warn!(sink = name, error = %error.chain(), "begins anew all the same");
                }
                Err(failure) => return Err(failure),
            }
        }
        // Ours first: it remembers the wish, should we die before the host has forgotten, too.
        self.store.reset().await.map_err(failure("state"))?;
        match &mut self.host {
            Some(host) => host.reset().await.map_err(failure("state")),
            None => Ok(()),
        }
    }

    /// For each node, whether its end by the checkpoint is one for this run, too: behind the end of a bounded source neither a
    /// crash nor a drain may let it be told twice, but the end of `until_end` or `count` is none for the run after a drain.
    pub(crate) fn still_ended(&self, checkpoint: Option<&Checkpoint>) -> Vec<bool> {
        let options = &self.options;
        let checkpoint = checkpoint.filter(|_| !options.go_on);
        let same_run = checkpoint.is_some_and(|checkpoint| !checkpoint.drained);
        let mut ended: Vec<bool> = Vec::new();
        // Each node stands behind what it reads.
        for node in &self.plan.nodes {
            let still = match &node.component {
                Planned::Source(source) => {
                    let by_itself = checkpoint
                        .and_then(|checkpoint| checkpoint.sources.get(&node.name))
                        .is_some_and(|saved| saved.ended);
                    let read = self.shared.metrics.stage(&node.name).records_in;
                    by_itself && (source.capabilities().bounded || options.until_end && same_run)
                        || same_run && options.count.is_some_and(|most| read >= most)
                }
                _ => node.inputs.iter().all(|&(from, _)| ended[from]),
            };
            ended.push(still);
        }
        ended
    }

    /// State whose stage is gone, and tokens whose sink is gone, are not forgotten by accident.
    fn check_fingerprint(&self, checkpoint: &Checkpoint) -> Result<()> {
        let now = self.plan.fingerprint();
        let kept = |part: &&str| now.split(',').any(|other| other == *part);
        let stage = checkpoint.plan.split(',').filter(|part| !part.is_empty()).find(|part| !kept(part));
        let sinks = || self.plan.role(Role::Sink).map(|(_, node)| node.name.as_str());
        let sink = checkpoint.sinks.keys().find(|name| *name != DEAD_LETTERS && !sinks().any(|sink| sink == *name));
        let gone = stage.map(|part| format!("the stage `{}`", part.split(':').next().unwrap_or_default()));
        match gone.or(sink.map(|name| format!("the sink `{name}`"))) {
            Some(what) if !self.options.allow_dropped_state => Err(Error::new(
                ErrorKind::StateMismatch,
                format!("the saved state belongs to {what}, which the pipeline no longer has"),
            )
            .hint("give it its name back, or drop that state with --allow-dropped-state, or begin anew with --fresh")),
            _ => Ok(()),
        }
    }
}

/// A sink that stands where `checkpoint` stands, and joins `share`.
pub(crate) async fn open_sink(
    name: &str,
    plan: &dyn SinkPlan,
    stamp: &Stamp,
    share: Option<&Share>,
    checkpoint: Option<&Checkpoint>,
) -> Result<Box<dyn Sink>, Failure> {
    let tokens: Option<&Vec<(Epoch, Token)>> = checkpoint.and_then(|checkpoint| checkpoint.sinks.get(name));
    opening(name, async {
        let mut sink = plan.create()?;
        sink.introduce(name, stamp);
        if let Some(share) = share {
            sink.join(share)?;
        }
        sink.open(tokens.map_or(&[], Vec::as_slice)).await?;
        Ok(sink)
    })
    .await
}

/// Who knows the checkpoint that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Our store.
    Store,
    /// Only the host: our store is to be brought to it.
    Host,
}

/// Which checkpoint counts, of what our store and the host have: the newest, if the one that decided it still knows of it.
/// `system` names the host of the plan; `exact` is its promise.
fn truth(
    local: Option<Checkpoint>,
    hosted: Option<Checkpoint>,
    system: Option<&str>,
    exact: bool,
) -> Result<Option<(Checkpoint, By)>> {
    let local = match (local, hosted) {
        (None, hosted) => return Ok(hosted.map(|hosted| (hosted, By::Host))),
        (Some(local), Some(hosted)) if local.store_id != hosted.store_id => {
            let what = format!("the checkpoint in {} belongs to another store", system.unwrap_or_default());
            return Err(mismatch(what, &local));
        }
        (Some(local), Some(hosted)) if local.epoch < hosted.epoch => return Ok(Some((hosted, By::Host))),
        (Some(local), Some(hosted)) if local.epoch == hosted.epoch => {
            if local.decided_at != hosted.decided_at {
                let what = format!("{} has decided another epoch {} than we", system.unwrap_or_default(), local.epoch);
                return Err(mismatch(what, &local));
            }
            return Ok(Some((local, By::Store)));
        }
        (Some(local), _) => local,
    };
    // Ours is the newest. What another system has decided is the last of it only where that run came to its end.
    let last = local.drained || local.finished;
    match &local.host {
        Some(host) if system == Some(host.as_str()) => {
            let what =
                format!("epoch {} was decided by {host}, which does not know of it: it has gone back", local.epoch);
            Err(mismatch(what, &local))
        }
        Some(host) if exact && !last => {
            let what = format!("epoch {} was decided by {host}, which may know of a newer one", local.epoch);
            let hint = "run the pipeline as it was and drain it first";
            Err(mismatch(what, &local).hint(hint))
        }
        _ => Ok(Some((local, By::Store))),
    }
}

fn mismatch(what: String, local: &Checkpoint) -> Error {
    Error::new(ErrorKind::StateMismatch, format!("cannot resume epoch {}: {what}", local.epoch))
        .hint("bring back what is missing, or begin anew with --fresh or `millstream state reset`")
}

#[cfg(test)]
mod tests {
    use millstream_core::{CHECKPOINT_VERSION, Timestamp};

    use super::*;

    const HOST: &str = "kafka://b1";

    fn at(epoch: Epoch, host: Option<&str>) -> Option<Checkpoint> {
        Some(Checkpoint {
            version: CHECKPOINT_VERSION,
            store_id: "store".to_owned(),
            plan: String::new(),
            epoch,
            sources: Default::default(),
            sinks: Default::default(),
            segments: Vec::new(),
            finished: false,
            drained: false,
            host: host.map(str::to_owned),
            decided_at: Timestamp(epoch as i64),
        })
    }

    fn found(local: Option<Checkpoint>, hosted: Option<Checkpoint>, system: Option<&str>) -> Option<(Epoch, By)> {
        truth(local, hosted, system, true).unwrap().map(|(checkpoint, by)| (checkpoint.epoch, by))
    }

    fn refused(local: Option<Checkpoint>, hosted: Option<Checkpoint>, system: Option<&str>) {
        assert_eq!(truth(local, hosted, system, true).unwrap_err().kind(), ErrorKind::StateMismatch);
    }

    #[test]
    fn the_newest_checkpoint_counts() {
        assert_eq!(found(None, None, Some(HOST)), None);
        assert_eq!(found(None, at(7, Some(HOST)), Some(HOST)), Some((7, By::Host)));
        assert_eq!(found(at(6, Some(HOST)), at(7, Some(HOST)), Some(HOST)), Some((7, By::Host)));
        assert_eq!(found(at(7, Some(HOST)), at(7, Some(HOST)), Some(HOST)), Some((7, By::Store)));
        // Decided here since: without a host for a while, or moved on purpose.
        assert_eq!(found(at(9, None), at(7, Some(HOST)), Some(HOST)), Some((9, By::Store)));
        assert_eq!(found(at(9, None), None, Some(HOST)), Some((9, By::Store)));
    }

    #[test]
    fn a_host_that_has_gone_back_is_a_mismatch() {
        refused(at(7, Some(HOST)), None, Some(HOST));
        refused(at(7, Some(HOST)), at(6, Some(HOST)), Some(HOST));
        let other = at(7, Some(HOST)).map(|checkpoint| Checkpoint { decided_at: Timestamp(0), ..checkpoint });
        refused(at(7, Some(HOST)), other, Some(HOST));
        let other = at(7, Some(HOST)).map(|checkpoint| Checkpoint { store_id: "other".to_owned(), ..checkpoint });
        refused(at(6, Some(HOST)), other, Some(HOST));
    }

    #[test]
    fn a_pipeline_moves_from_one_host_to_another_after_a_drain() {
        refused(at(7, Some(HOST)), None, Some("kafka://b2"));
        refused(at(7, Some(HOST)), None, None);
        let drained = || at(7, Some(HOST)).map(|checkpoint| Checkpoint { drained: true, ..checkpoint });
        assert_eq!(found(drained(), None, Some("kafka://b2")), Some((7, By::Store)));
        assert_eq!(found(drained(), None, None), Some((7, By::Store)));
        let loosely = truth(at(7, Some(HOST)), None, None, false).unwrap();
        assert!(loosely.is_some(), "at least once may repeat");
    }
}
