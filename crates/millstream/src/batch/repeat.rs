//! Batches that have failed as a whole, handled again record by record.

use std::{collections::HashSet, future::Future, time::Duration};

use millstream_core::{Error, ErrorKind, Result};

use super::Trigger;
use crate::work::{Apart, Gathered, Outcomes, every};

/// Handles a set; where that fails by what is in it, as a panic does, its records one by one, so that each has an outcome of its
/// own. What is wrong with the system and not with a record, such as that it cannot be reached, is left to the error rules.
pub(super) async fn repeated<U, F>(
    handle: impl Fn(Gathered) -> F,
    set: Gathered,
    limit: Option<Duration>,
    apart: Apart,
) -> Result<Outcomes<U>>
where
    F: Future<Output = Result<Outcomes<U>>> + Send,
{
    match every(handle(set.clone()), limit).await {
        Err(error) if set.rows.len() > 1 && !error.facts().retry => Ok(one_by_one(handle, &set, limit, apart).await),
        handled => handled,
    }
}

/// Where records of a key are handled in order, one behind a record that failed of its key has no outcome: it waits behind it.
async fn one_by_one<U, F>(
    handle: impl Fn(Gathered) -> F,
    set: &Gathered,
    limit: Option<Duration>,
    apart: Apart,
) -> Outcomes<U>
where
    F: Future<Output = Result<Outcomes<U>>> + Send,
{
    let (mut outcomes, mut failed) = (Outcomes::new(), HashSet::new());
    for (index, (batch, row)) in set.rows.iter().enumerate() {
        let Some(batch) = set.batches.get(*batch as usize) else { continue };
        let key = batch.get(*row as usize).key();
        if key.is_some_and(|key| failed.contains(key)) {
            continue;
        }
        let alone = Gathered {
            batches: vec![batch.clone()],
            rows: vec![(0, *row)],
            key: set.key.clone(),
            trigger: Trigger::Retry,
        };
        let outcome = every(handle(alone), limit).await.and_then(only);
        if outcome.is_err() && apart != Apart::No {
            failed.extend(key);
        }
        outcomes.set(index, outcome);
    }
    outcomes
}

/// The outcome of the only record of a set.
fn only<U>(outcomes: Outcomes<U>) -> Result<U> {
    let none = || Error::new(ErrorKind::Bug, "a record has no outcome");
    outcomes.complete(1).next().ok_or_else(none)?
}
