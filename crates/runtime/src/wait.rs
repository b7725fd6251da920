//! What a source does while it waits: for records, for room downstream, for the next try. Its claims are renewed, and it hears
//! what becomes of its shards.

use std::{
    future::{Future, poll_fn},
    task::Poll,
};

use millstream_core::{Event, Result, Source};
use tokio::time::Instant;

use crate::{
    pace::Gates,
    source_task::{Progress, SourceTask},
    stage_task::sleep,
    task::Halt,
};

impl SourceTask {
    /// Does work that may wait for room downstream. What the source must do and hear does not wait with it.
    pub(crate) async fn meanwhile<T>(
        &mut self,
        at: &mut Progress,
        work: impl Future<Output = Result<T, Halt>> + Send,
    ) -> Result<T, Halt> {
        let mut work = std::pin::pin!(work);
        // The common case: there is room.
        if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            return done;
        }
        loop {
            let (keep_alive_at, look_at) = (at.keep_alive_at, at.look_at);
            let source = self.lease.source()?;
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = sleep(keep_alive_at) => self.keep_alive(at).await?,
                () = sleep(look_at) => self.look(at)?,
                news = source.news() => self.told(news, at)?,
            }
        }
    }

    /// Renews the claim on what has been read. A failure is no reason to stop: the claim holds for longer than one interval.
    pub(crate) async fn keep_alive(&mut self, at: &mut Progress) -> Result<(), Halt> {
        let Some(every) = self.capabilities.keep_alive else { return Ok(()) };
        at.keep_alive_at = Some(Instant::now() + every);
        let source = &self.context.name;
        match tokio::time::timeout(every, self.lease.source()?.keep_alive()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%source, error = %error.chain(), "cannot renew the claim on what was read")
            }
            Err(_) => tracing::warn!(%source, "renewing the claim on what was read takes longer than {every:?}"),
        }
        Ok(())
    }
}

/// The next event; where no records are wanted, or not yet, only news of the shards.
pub(crate) async fn hear(
    source: &mut dyn Source,
    wanted: bool,
    retry_at: Option<Instant>,
    gates: &Gates,
) -> Result<Event> {
    if !wanted {
        return Ok(source.news().await);
    }
    if retry_at.is_some() || !gates.is_open() {
        let ready = async {
            match retry_at {
                Some(when) => tokio::time::sleep_until(when).await,
                None => gates.opened().await,
            }
        };
        tokio::select! {
            biased;
            () = ready => {}
            news = source.news() => return Ok(news),
        }
    }
    source.next().await
}
