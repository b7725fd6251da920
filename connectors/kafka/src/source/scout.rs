//! The thread that looks for new partitions, where no group does it: asking may take long, and must not hold up reading.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc,
    thread,
    time::Duration,
};

use millstream_core::{Error, ErrorKind, Result, ShardKey};

use super::reader::Command;
use crate::client::Cluster;

/// What it saw.
pub(super) enum Sighting {
    /// The cluster answers.
    Here,
    /// All partitions there are.
    Partitions(Vec<ShardKey>),
    /// A topic that is gone.
    Gone(String),
}

/// What it looks for.
pub(super) struct Scout {
    pub(super) cluster: Cluster,
    pub(super) topics: Vec<String>,
    pub(super) pattern: Option<regex::Regex>,
    pub(super) every: Duration,
    /// The topics that were there at the start, with the one allocation that their shards share.
    pub(super) known: BTreeMap<String, std::sync::Arc<str>>,
}

impl Scout {
    /// Starts the thread; it ends when the sender is dropped.
    pub(super) fn start(mut self, reader: mpsc::Sender<Command>) -> Result<mpsc::Sender<()>> {
        let (stop, stopped) = mpsc::channel();
        let work = move || {
            let mut missed: BTreeSet<String> = BTreeSet::new();
            while stopped.recv_timeout(self.every) == Err(mpsc::RecvTimeoutError::Timeout) {
                for sighting in self.look(&mut missed) {
                    if reader.send(Command::Sighted(sighting)).is_err() {
                        return;
                    }
                }
            }
        };
        let spawned = thread::Builder::new().name("kafka-scout".to_owned()).spawn(work);
        spawned
            .map(|_| stop)
            .map_err(|error| Error::new(ErrorKind::Unavailable, "cannot start a thread").caused_by(error))
    }

    fn look(&mut self, missed: &mut BTreeSet<String>) -> Vec<Sighting> {
        let found: BTreeMap<String, i32> = match &self.pattern {
            Some(pattern) => match self.cluster.matching(pattern) {
                Ok(found) => found,
                Err(_) => return Vec::new(),
            },
            None => {
                let mut found = BTreeMap::new();
                for topic in &self.topics {
                    match self.cluster.partitions(topic) {
                        Ok(Some(count)) => drop(found.insert(topic.clone(), count)),
                        Ok(None) => {}
                        // The cluster does not answer: nothing is known.
                        Err(_) => return Vec::new(),
                    }
                }
                found
            }
        };
        let mut sightings = vec![Sighting::Here];
        for topic in self.known.keys().filter(|topic| !found.contains_key(*topic)) {
            // Once may be a broker that has just started and does not know its topics yet.
            if !missed.insert(topic.clone()) {
                sightings.push(Sighting::Gone(topic.clone()));
            }
        }
        missed.retain(|topic| !found.contains_key(topic));
        let shards = found.iter().flat_map(|(topic, count)| {
            let name = self.known.entry(topic.clone()).or_insert_with(|| topic.as_str().into()).clone();
            (0..*count as u64).map(move |shard| ShardKey { stream: name.clone(), shard })
        });
        sightings.push(Sighting::Partitions(shards.collect()));
        sightings
    }
}
