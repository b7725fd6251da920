//! The state directory: where pipelines keep checkpoints, keyed state and dead letters.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_core::{Result, Sink, SinkCapabilities, SinkPlan, Store};
use millstream_runtime::{Plan, RunOptions, StateSpec};
use millstream_state::{DeadLetterLog, EmbeddedStore, Memory, MemoryStore, dead_letter_capabilities};

/// A state directory. Each pipeline has a folder of its own in it, found by the pipeline's name.
#[derive(Clone, Debug)]
pub struct Home {
    directory: PathBuf,
    memory: Memory,
}

impl Home {
    /// The state directory at this path; nothing is made until a pipeline runs.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Home { directory: directory.into(), memory: Memory::new() }
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
            StateSpec::Embedded => Box::new(EmbeddedStore::new(folder.clone())),
            StateSpec::Memory => Box::new(MemoryStore::new(self.memory.clone())),
        };
        RunOptions::new(store, Arc::new(DeadLetters { folder }))
    }
}

/// The dead-letter sink of the state directory.
#[derive(Debug)]
struct DeadLetters {
    folder: PathBuf,
}

impl SinkPlan for DeadLetters {
    fn capabilities(&self) -> SinkCapabilities {
        dead_letter_capabilities()
    }

    fn describe(&self) -> String {
        self.folder.join("dead-letters").display().to_string()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(DeadLetterLog::new(self.folder.clone())))
    }
}
