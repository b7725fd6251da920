//! The store on disk: a checkpoint log, and fjall where there is keyed state.
//!
//! ```text
//! <state-dir>/<pipeline>/
//!   lock                 locked while a runner owns it; holds the runner's pid
//!   checkpoints.log      segments and checkpoints, in order; the store's identity is in its header
//!   keyed/               fjall; made with the first key
//! ```
//!
//! An epoch takes one sync, that of `decide`:
//!
//! ```text
//! write(N)    append segment N                                    not yet durable
//! decide(N)   append checkpoint N ─► fdatasync ─► answer          both are durable: N counts
//!             then, behind the answer: mark, fill fjall with N in one batch, cut the log if it is long
//! ```
//!
//! Where a host decides it takes two: `sync` before the host's decision, so that no checkpoint names what is not durable, and
//! `decide` behind it. After a crash between them `adopt` does what `decide` did not.
//!
//! A crash before the sync leaves epoch N-1 and a torn tail; one behind it leaves a log that knows more than fjall, which
//! `load` fills again. The log is cut only when fjall has synced what it would lose.

mod engine;
mod keyed;
mod ledger;
mod open;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use millstream_core::{Change, Checkpoint, Epoch, Error, ErrorKind, Result, Segment, Store};

pub(crate) use engine::{Engine, LOG};
pub(crate) use keyed::Keyed;
pub(crate) use ledger::Ledger;

use crate::inspect::View;

/// Keeps checkpoints and keyed state in a directory.
///
/// All work runs on tokio's blocking threads; call it inside a tokio runtime. It holds two file descriptors and no thread
/// between calls; with keyed state also fjall's one thread, which sleeps while nothing changes.
///
/// **Cancel safety**: a call that is dropped goes on in the background and has its effect. So after dropping `decide` the
/// outcome is unknown, as after a crash: go on with `fence` and `load`, which wait for what is still under way.
///
/// **Errors**: `Locked` names the process that owns the directory; `Corrupt` names file and offset; `StateMismatch` says what
/// the checkpoint names and the directory does not hold; a full disk is `Unavailable`, with the log as it was before.
/// An error of `decide` other than `Fenced` leaves the outcome open until `load`.
#[derive(Debug)]
pub struct EmbeddedStore {
    engine: Arc<Mutex<Engine>>,
    id: String,
}

impl EmbeddedStore {
    /// The store of one pipeline, in its own directory `<state-dir>/<pipeline>`. Does nothing before `fence`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        EmbeddedStore { engine: Arc::new(Mutex::new(Engine::new(dir.into()))), id: String::new() }
    }

    /// Looks into it while somebody else works with it.
    pub fn view(&self) -> View {
        let dir = self.engine.lock().unwrap_or_else(PoisonError::into_inner).dir().to_owned();
        View { dir, engine: Arc::downgrade(&self.engine) }
    }

    /// Cuts the log when it is longer than this.
    #[cfg(test)]
    pub(crate) fn with_limit(self, bytes: u64) -> Self {
        self.engine.lock().unwrap().limits = (bytes, bytes);
        self
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static) -> Result<T> {
        let engine = self.engine.clone();
        let work = move || work(&mut *engine.lock().map_err(|_| gone())?);
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(gone()))
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn fence(&mut self) -> Result<()> {
        // A panic of an earlier call left the engine half done; `fence` begins from what is on disk.
        self.engine.clear_poison();
        self.id = self.run(Engine::fence).await?;
        Ok(())
    }

    fn id(&self) -> String {
        self.id.clone()
    }

    async fn load(&mut self) -> Result<Option<Checkpoint>> {
        self.run(Engine::load).await
    }

    fn was_reset(&self) -> bool {
        // Poisoned: `load` has yet to be called again.
        self.engine.lock().is_ok_and(|mut engine| engine.was_reset())
    }

    async fn adopt(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let id = checkpoint.store_id.clone();
        let adopted = self.run(move |engine| {
            engine.adopt(checkpoint)?;
            engine.settle();
            Ok(())
        });
        adopted.await?;
        self.id = id;
        Ok(())
    }

    async fn scan(&mut self, stage: &str) -> Result<Vec<Change>> {
        let stage = stage.to_owned();
        self.run(move |engine| engine.scan(&stage)).await
    }

    async fn write(&mut self, pending: Segment) -> Result<u64> {
        self.run(move |engine| engine.write(&pending)).await
    }

    async fn sync(&mut self) -> Result<()> {
        self.run(Engine::sync).await
    }

    async fn decide(&mut self, checkpoint: Checkpoint, expected: Epoch) -> Result<()> {
        let (answer, decided) = tokio::sync::oneshot::channel();
        let engine = self.engine.clone();
        tokio::task::spawn_blocking(move || {
            let Ok(mut engine) = engine.lock() else { return };
            let decision = engine.decide(checkpoint, expected);
            let counts = decision.is_ok();
            // Nobody listens if the caller was dropped; the decision stands all the same.
            let _ = answer.send(decision);
            if counts {
                // Still under the lock: the next call waits, which bounds what fjall can fall behind.
                engine.settle();
            }
        });
        decided.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn reset(&mut self) -> Result<()> {
        self.id = self.run(Engine::reset).await?;
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        self.run(Engine::close).await
    }
}

/// The blocking thread panicked, in this call or an earlier one, or the runtime is going down.
fn gone() -> Error {
    Error::new(ErrorKind::Bug, "cannot use the store: its thread was stopped in the middle of its work")
        .hint("restart the pipeline: `fence` and `load` go on from the last checkpoint")
}
