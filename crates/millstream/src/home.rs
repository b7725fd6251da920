//! The state directory: where pipelines keep checkpoints, keyed state and dead letters.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use millstream_core::{Result, Sink, SinkCapabilities, SinkPlan, Store};
use millstream_runtime::{Plan, RunOptions, StateSpec};
use millstream_state::{DEAD_LETTER_CAPABILITIES, DeadLetterLog, EmbeddedStore, Memory, MemoryStore, inspect::View};

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
