//! Records that a transaction was aborted for. When its epoch is played again they go to their error rule, and not to the
//! sink.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use millstream_core::{Epoch, Error, Record, ShardKey};

/// Records of one sink that may be condemned at once. That many in one epoch are no accident, and each may cost a transaction.
pub(crate) const CONDEMNED_MAX: usize = 10_000;

/// The records that one sink has refused. Outlives the pipeline's tasks.
#[derive(Debug, Default)]
pub(crate) struct Condemned(HashMap<Identity, Sentence>);

/// The same whenever the record comes.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Identity {
    origin: ShardKey,
    sequence: u128,
    index: u64,
    /// Where ways of one record have met, its children may be told apart by nothing but what they say. Two that say the same
    /// are the same to whoever refuses one.
    content: u64,
}

impl Identity {
    fn of(Record { origin, sequence, index, key, value, .. }: &Record) -> Self {
        // The same in each run of a process, and it outlives none.
        let mut hasher = DefaultHasher::new();
        (key, value).hash(&mut hasher);
        Identity { origin: origin.clone(), sequence: *sequence, index: *index, content: hasher.finish() }
    }
}

#[derive(Debug)]
struct Sentence {
    error: Error,
    /// How often it has been refused.
    attempts: u32,
    /// The epoch in which its rule was applied.
    applied: Option<Epoch>,
}

impl Condemned {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A record was refused for the `attempts`th time.
    pub(crate) fn add(&mut self, record: &Record, error: Error, attempts: u32) {
        self.0.insert(Identity::of(record), Sentence { error, attempts, applied: None });
    }

    /// Why a record that is known to have failed `attempts` times must not be given to the sink, and how often it has failed
    /// by now. Its rule is applied in `epoch`.
    pub(crate) fn apply(&mut self, record: &Record, attempts: u32, epoch: Epoch) -> Option<(Error, u32)> {
        let sentence = self.0.get_mut(&Identity::of(record)).filter(|sentence| sentence.attempts > attempts)?;
        sentence.applied = Some(epoch);
        Some((sentence.error.clone(), sentence.attempts))
    }

    /// What was applied up to this epoch counts.
    pub(crate) fn decided(&mut self, epoch: Epoch) {
        self.0.retain(|_, sentence| sentence.applied.is_none_or(|applied| applied > epoch));
    }

    /// The pipeline plays what was not decided again, perhaps in other epochs.
    pub(crate) fn again(&mut self) {
        self.0.values_mut().for_each(|sentence| sentence.applied = None);
    }
}
