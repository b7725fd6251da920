//! Where partitions begin: offsets out of places and times, and what to do where the records are gone.

use millstream_core::{Error, ErrorKind, OnMissing, Result, SeekTo, ShardKey};

use super::plan::Planned;
use crate::client::{Cluster, Partition};

/// Where reading a partition begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) shard: ShardKey,
    /// The offset to read from.
    pub(super) offset: i64,
    /// Records before this one are passed over: it does not exist yet.
    pub(super) skip_to: i64,
    /// Where the partition ends as it is now.
    pub(super) end: i64,
}

pub(super) fn partition_of(shard: &ShardKey) -> Partition {
    (shard.stream.clone(), i32::try_from(shard.shard).unwrap_or(i32::MAX))
}

/// Begins of partitions: at the saved offset where there is one, else at `start`.
pub(super) fn begins(
    cluster: &Cluster,
    shards: &[(ShardKey, Option<i64>)],
    start: &SeekTo,
    on_missing: OnMissing,
) -> Result<Vec<Begin>> {
    let partitions: Vec<Partition> = shards.iter().map(|(shard, _)| partition_of(shard)).collect();
    let (first, last) = (cluster.beginnings(&partitions)?, cluster.ends(&partitions)?);
    // Where a transaction is open, readers of committed records see an end before it; a position may well be behind that.
    let beyond = shards.iter().zip(&last).any(|((_, saved), last)| saved.is_some_and(|saved| saved > *last));
    let all = if beyond { cluster.ends_of_all(&partitions)? } else { last.clone() };
    let at = match start {
        SeekTo::Time(time) if shards.iter().any(|(_, saved)| saved.is_none()) => {
            cluster.offsets_at(&partitions, *time)?
        }
        SeekTo::End => last.clone(),
        _ => first.clone(),
    };
    let bounds =
        first.into_iter().zip(last).zip(all).zip(at).map(|(((first, last), all), at)| Bounds { first, last, all, at });
    let begins =
        shards.iter().zip(bounds).map(|((shard, saved), bounds)| begin(shard, *saved, start, bounds, on_missing));
    begins.collect()
}

/// Offsets of a partition.
#[derive(Clone, Copy)]
struct Bounds {
    first: i64,
    /// Where it ends, as far as this reader may see.
    last: i64,
    /// Where it ends.
    all: i64,
    /// Where `start` is.
    at: i64,
}

fn begin(
    shard: &ShardKey,
    saved: Option<i64>,
    start: &SeekTo,
    Bounds { first, last, all, at }: Bounds,
    on_missing: OnMissing,
) -> Result<Begin> {
    let begin = |offset, skip_to| Begin { shard: shard.clone(), offset, skip_to, end: last };
    match (saved, start) {
        (Some(saved), _) if (first..=all).contains(&saved) => Ok(begin(saved, saved)),
        (Some(saved), _) => match on_missing {
            OnMissing::Fail => Err(missing(shard, saved, Some((first, all)))),
            OnMissing::Beginning => Ok(begin(first, first)),
            OnMissing::End => Ok(begin(last, last)),
        },
        (None, SeekTo::At(sequence)) => {
            let sequence = i64::try_from(*sequence).unwrap_or(i64::MAX);
            let offset = sequence.clamp(first, last);
            Ok(begin(offset, sequence.max(first)))
        }
        (None, _) => Ok(begin(at, at)),
    }
}

/// The records at a saved position are gone.
pub(super) fn missing(shard: &ShardKey, saved: i64, range: Option<(i64, i64)>) -> Error {
    let there = match range {
        Some((first, last)) if first == last => format!(": the partition is empty, at offset {last}"),
        Some((first, last)) => format!(": there are those from {first} up to {last}"),
        None => String::new(),
    };
    Error::new(ErrorKind::StateMismatch, format!("the records of {shard} at offset {saved} are gone{there}"))
        .hint("they have expired, or the topic was made anew; go on with `on_missing: beginning` or `end`, or seek with `millstream state seek`")
}

/// Only a pattern may lead to no topic.
pub(super) fn no_match(plan: &Planned, kind: ErrorKind) -> Error {
    let pattern = plan.options.pattern.as_deref().unwrap_or_default();
    Error::new(kind, format!("no topic at {} matches `{pattern}`", plan.access.shown)).hint(
        "check the pattern: `millstream kafka topics URL` lists the topics that this user may see; one that comes later is \
         found within `discover`, unless the end is what is waited for",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_begins_at_its_saved_offset_or_at_start() {
        let shard = ShardKey::new("t", 3);
        let range = Bounds { first: 10, last: 20, all: 22, at: 15 };
        let at = |saved, start: SeekTo, on_missing| {
            begin(&shard, saved, &start, range, on_missing).map(|begin| (begin.offset, begin.skip_to))
        };
        for saved in [10, 20, 22] {
            assert_eq!(at(Some(saved), SeekTo::End, OnMissing::Fail).unwrap(), (saved, saved));
        }
        for saved in [9, 23] {
            let error = at(Some(saved), SeekTo::End, OnMissing::Fail).unwrap_err();
            assert!(error.message().contains("t/3") && error.hint_text().is_some(), "{error:?}");
            assert_eq!(at(Some(saved), SeekTo::End, OnMissing::Beginning).unwrap(), (10, 10));
            assert_eq!(at(Some(saved), SeekTo::Beginning, OnMissing::End).unwrap(), (20, 20));
        }
        assert_eq!(at(None, SeekTo::At(0), OnMissing::Fail).unwrap(), (10, 10));
        assert_eq!(at(None, SeekTo::At(12), OnMissing::Fail).unwrap(), (12, 12));
        assert_eq!(at(None, SeekTo::At(99), OnMissing::Fail).unwrap(), (20, 99));
        assert_eq!(at(None, SeekTo::At(u128::MAX), OnMissing::Fail).unwrap(), (20, i64::MAX));
    }
}
