//! The one write that decides an epoch, in our store or in a host's transaction; then everybody is told.

use millstream_core::{
    CHECKPOINT_VERSION, Checkpoint, Companion, Epoch, Error, ErrorKind, Hosted, Last, Segment, Timestamp,
};

use crate::{
    coordinate::{Coordinator, Open, forget_committed},
    dead_letter_task::DeadLetterCommand,
    ending::too_late,
    handle::Happening,
    open::{DEAD_LETTERS, failure},
    probe::Step,
    run::Ended,
    sink_task::SinkCommand,
    source_task::SourceCommand,
    stage_task::sleep,
    task::{AfterFailure, Failure, bug},
};

impl Coordinator<'_> {
    /// The deciding write of the oldest epoch; an answer if the pipeline was told to stop meanwhile.
    pub(crate) async fn decide(&mut self) -> Result<Option<Ended>, Failure> {
        let Some(mut open) = self.epochs.pop_front() else { return Ok(None) };
        let epoch = open.barrier.epoch;
        for (sink, token) in std::mem::take(&mut open.tokens) {
            self.tokens.entry(sink).or_default().push((epoch, token));
        }
        let probe = self.lasting.options.probe.clone();
        probe.reach(Step::BeforeRecord, epoch);
        let cannot = |error: Error| failure("state")(error.context(format!("cannot commit epoch {epoch}")));
        let changed = !open.state.is_empty();
        if changed {
            let segment = Segment { epoch, stages: std::mem::take(&mut open.state) };
            let hash = self.lasting.store.write(segment).await.map_err(cannot)?;
            self.segment = Some((epoch, hash));
        }
        let companions = std::mem::take(&mut open.companions);
        let cut_at = open.cut_at;
        let checkpoint = self.checkpoint(open);
        if let Some(system) = checkpoint.host.clone() {
            if changed {
                self.lasting.store.sync().await.map_err(cannot)?;
            }
            probe.reach(Step::BeforeHost, epoch);
            let stopped = self.host(&system, &checkpoint, &companions).await?;
            if stopped.is_some() {
                return Ok(stopped);
            }
            probe.reach(Step::AfterHost, epoch);
        }
        self.lasting.store.decide(checkpoint, self.decided).await.map_err(cannot)?;
        self.decided = epoch;
        self.lasting.shared.metrics.decided(epoch);
        self.lasting.shared.metrics.epochs.add(1);
        self.lasting.shared.metrics.epoch_ns.add_time(cut_at.elapsed());
        self.lasting.shared.tell(Happening::Committed(epoch, cut_at.elapsed()));
        probe.reach(Step::AfterRecord, epoch);
        self.tell(epoch);
        Ok(None)
    }

    fn checkpoint(&self, open: Open) -> Checkpoint {
        let plan = &self.lasting.plan;
        Checkpoint {
            version: CHECKPOINT_VERSION,
            store_id: self.lasting.store.id(),
            plan: plan.fingerprint(),
            epoch: open.barrier.epoch,
            sources: open.sources,
            sinks: self.tokens.clone(),
            segments: self.segment.into_iter().collect(),
            finished: open.barrier.last == Last::Finished,
            drained: open.barrier.last == Last::Drained,
            host: plan.host().map(|(system, _)| system),
            decided_at: Timestamp::now(),
        }
    }

    /// The deciding write in a host's transaction. It may wait long for its system, and a stop must not.
    async fn host(
        &mut self,
        system: &str,
        checkpoint: &Checkpoint,
        companions: &[(String, Companion)],
    ) -> Result<Option<Ended>, Failure> {
        let failed = |error, then| Err(Failure { stage: system.to_owned(), error, then });
        // Recovery makes a new one where this one is dropped in the middle.
        let Some(mut host) = self.lasting.host.take() else {
            return failed(bug("there is no host"), AfterFailure::Stop);
        };
        let hosted = {
            let mut commit = std::pin::pin!(host.commit(checkpoint, companions));
            loop {
                tokio::select! {
                    biased;
                    hosted = &mut commit => break hosted,
                    Some(control) = self.control.recv() => if let Some(stopped) = self.obey(control) {
                        return Ok(Some(stopped));
                    },
                    () = sleep(self.abort_at) => return Err(too_late()),
                }
            }
        };
        self.lasting.host = Some(host);
        let context = |error: Error| error.context(format!("cannot commit epoch {}", checkpoint.epoch));
        match hosted {
            Hosted::Committed => Ok(None),
            // The same again may help, but not for ever.
            Hosted::Aborted(error) if !error.facts().retry => failed(context(error), AfterFailure::Restart),
            Hosted::Aborted(error) | Hosted::Unknown(error) => failed(context(error), AfterFailure::Retry),
            Hosted::Fenced(error) => failed(fenced(error), AfterFailure::Stop),
        }
    }

    fn tell(&mut self, epoch: Epoch) {
        let ends = &self.opened.ends;
        // Tasks that have gone are noticed by their joins.
        for (_, sink) in &ends.sinks {
            let _ = sink.send(SinkCommand::Decided(epoch));
        }
        for (_, source) in &ends.sources {
            let _ = source.send(SourceCommand::Decided(epoch));
        }
        if let Some(letters) = &ends.dead_letters {
            let _ = letters.send(DeadLetterCommand::Decided(epoch));
        }
        forget_committed(self.tokens.get_mut(DEAD_LETTERS), epoch);
        self.unacknowledged += ends.sinks.len() + ends.sources.len() + 1;
        for (_, waiting) in self.waiting.extract_if(.., |(of, _)| *of <= epoch) {
            let _ = waiting.send(epoch);
        }
    }
}

/// Only this kind ends a runner for good.
fn fenced(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Fenced => error,
        _ => {
            Error::new(ErrorKind::Fenced, "cannot go on: another runner has taken over this pipeline").caused_by(error)
        }
    }
}
