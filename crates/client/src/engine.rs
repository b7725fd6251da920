//! The runtime of a streamer: one thread, started when the first consumer or producer is created, or a runtime that was given.
//!
//! Tasks run here, so that the futures of consumers and producers need no runtime around them. Whatever needs the thread
//! holds an [`Engine`]; it ends when the last one is dropped, and nobody waits for it.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use millstream_core::{Error, ErrorKind, Result};
use tokio::{
    runtime::{Builder, Handle},
    sync::mpsc,
};

/// How long blocking work of connectors may go on after the last handle is gone. Only our own thread waits for it.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

/// A hold on the thread, or a way to the runtime that was given.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    handle: Handle,
    alive: Option<mpsc::Sender<Infallible>>,
}

impl Engine {
    /// Tasks run on a runtime of the user's.
    pub(crate) fn on(handle: Handle) -> Self {
        Engine { handle, alive: None }
    }

    /// Starts the thread.
    pub(crate) fn start() -> Result<Self> {
        let cannot = |error| Error::io("cannot start the client's thread", error);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        let handle = runtime.handle().clone();
        let (alive, mut holders) = mpsc::channel(1);
        // A runtime must not be dropped on an async thread, so it can be taken back if there is no thread to drop it on.
        let slot = Arc::new(Mutex::new(Some(runtime)));
        let given = slot.clone();
        let spawned = std::thread::Builder::new().name("millstream-client".to_owned()).spawn(move || {
            let runtime = given.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(runtime) = runtime {
                runtime.block_on(async { while holders.recv().await.is_some() {} });
                runtime.shutdown_timeout(SHUTDOWN_WAIT);
            }
        });
        if let Err(error) = spawned {
            if let Some(runtime) = slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
                runtime.shutdown_background();
            }
            return Err(cannot(error));
        }
        Ok(Engine { handle, alive: Some(alive) })
    }

    /// Runs a task. A thread of our own lives at least as long.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let alive = self.alive.clone();
        self.handle.spawn(async move {
            task.await;
            drop(alive);
        });
    }
}

/// A task has ended without a word: it panics, or its runtime is no more.
pub(crate) fn stopped(what: &str) -> Error {
    let what = format!("the task that {what} has stopped");
    if std::thread::panicking() {
        return Error::new(ErrorKind::Bug, what).hint("please report it");
    }
    Error::new(ErrorKind::Interrupted, what).hint("keep the runtime that it was given as long as what runs on it")
}
