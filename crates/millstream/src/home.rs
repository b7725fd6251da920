//! The state directory: where pipelines keep checkpoints, keyed state and dead letters.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use millstream_core::{Batch, DeadLetter, Error, ErrorKind, Result, Sink, SinkCapabilities, SinkPlan, Size, Store};
use millstream_runtime::{Plan, RunOptions, StateSpec};
use millstream_state::{DEAD_LETTER_CAPABILITIES, DeadLetterLog, EmbeddedStore, Memory, MemoryStore, inspect::View};

use crate::kept::{Full, Keeping, Kept};

/// A state directory. Each pipeline has a folder of its own in it, found by the pipeline's name.
#[derive(Clone, Debug)]
pub struct Home {
    directory: PathBuf,
    /// State of pipelines that keep it in memory, by their names.
    memory: Arc<Mutex<HashMap<String, Memory>>>,
    /// Into the stores of pipelines that run, by their names.
    views: Arc<Mutex<HashMap<String, View>>>,
}

impl Home {
    /// The state directory at this path; nothing is made until a pipeline runs.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Home { directory: directory.into(), memory: Arc::default(), views: Arc::default() }
    }

    /// `$MILLSTREAM_STATE_DIR`, else `.millstream` in the working directory.
    pub fn from_environment() -> Self {
        Home::new(std::env::var_os("MILLSTREAM_STATE_DIR").map_or_else(|| PathBuf::from(".millstream"), PathBuf::from))
    }

    /// Its path.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The folder of a pipeline.
    pub fn pipeline(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Options to run a plan with its store and dead letters here.
    pub fn options(&self, plan: &Plan) -> RunOptions {
        let folder = self.pipeline(&plan.name);
        let store: Box<dyn Store> = match plan.state {
            StateSpec::Embedded => {
                let store = EmbeddedStore::new(folder.clone());
                let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
                views.insert(plan.name.clone(), store.view());
                Box::new(store)
            }
            StateSpec::Memory => Box::new(MemoryStore::new(self.memory_of(&plan.name))),
        };
        RunOptions::new(store, Arc::new(DeadLetters { folder }))
    }

    /// Looks into the state of a pipeline that this process runs with options from here; nothing if its state is in memory.
    pub fn view(&self, name: &str) -> Option<View> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn memory_of(&self, name: &str) -> Memory {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone()
    }
}

/// The dead-letter sink of the state directory.
#[derive(Debug)]
struct DeadLetters {
    folder: PathBuf,
}

impl SinkPlan for DeadLetters {
    fn capabilities(&self) -> SinkCapabilities {
        DEAD_LETTER_CAPABILITIES
    }

    fn describe(&self) -> String {
        self.folder.join("dead-letters").display().to_string()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(DeadLetterLog::new(self.folder.clone())))
    }
}

/// Dead letters of a pipeline that leaves no trace on the disk: the newest of them.
#[derive(Clone)]
pub(crate) struct Letters(Kept<DeadLetter>);

/// Enough for thousands of letters, and little for a process.
const LETTERS_BYTES_MAX: Size = Size(16 << 20);

impl Default for Letters {
    fn default() -> Self {
        Letters(Kept::at_most(LETTERS_BYTES_MAX))
    }
}

impl Letters {
    /// The letters that count, oldest first.
    pub(crate) fn all(&self) -> Vec<DeadLetter> {
        self.0.copies()
    }

    /// The sink that they are written to.
    pub(crate) fn sink(&self) -> Arc<dyn SinkPlan> {
        Arc::new(Keeping { what: "dead letters", kept: self.0.clone(), read: letters, full: Full::Forget })
    }
}

fn letters(batch: Batch) -> Result<Vec<(DeadLetter, usize)>> {
    let letter = |bytes: &[u8]| {
        let letter = rmp_serde::from_slice(bytes)
            .map_err(|cause| Error::new(ErrorKind::Bug, "cannot read a dead letter").caused_by(cause))?;
        Ok((letter, size_of::<DeadLetter>() + bytes.len()))
    };
    batch.into_bytes().iter().map(|record| letter(record.value().unwrap_or_default())).collect()
}
