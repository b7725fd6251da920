//! Who owns the position of a partition that a group gives us: the group, or our checkpoint.

use millstream_core::{Epoch, Error, ErrorKind, Result, ShardKey, Stamp};

/// First word of the metadata that we keep beside an offset: its format.
const FORMAT: &str = "millstream1";

/// The metadata beside an offset: `millstream1 EPOCH STORE PIPELINE`.
pub(crate) fn write(stamp: &Stamp) -> String {
    format!("{FORMAT} {} {} {}", stamp.epoch, stamp.store_id, stamp.pipeline)
}

/// Reads metadata; `None` if it is not ours.
fn read(metadata: &[u8]) -> Option<Stamp> {
    let text = std::str::from_utf8(metadata).ok()?;
    let mut parts = text.splitn(4, ' ');
    if parts.next()? != FORMAT {
        return None;
    }
    let epoch: Epoch = parts.next()?.parse().ok()?;
    Some(Stamp { epoch, store_id: parts.next()?.to_owned(), pipeline: parts.next()?.to_owned() })
}

/// What a group has committed for a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) offset: Option<i64>,
    pub(super) metadata: Option<Vec<u8>>,
}

/// The offset to begin at; `None` where neither knows one.
///
/// The group's wins (others may have gone on, or somebody has reset it), unless its metadata says that we have committed it
/// and our checkpoint knows of that: then ours is the same or newer.
pub(super) fn decide(
    shard: &ShardKey,
    committed: &Committed,
    saved: Option<i64>,
    (us, keyed): (Option<&Stamp>, bool),
) -> Result<Option<i64>> {
    let Some(offset) = committed.offset else { return Ok(saved) };
    let of_pipeline = committed.metadata.as_deref().and_then(read);
    let of_pipeline = of_pipeline.filter(|stamp| us.is_some_and(|us| us.pipeline == stamp.pipeline));
    let Some(stamp) = of_pipeline else { return Ok(Some(offset)) };
    let explained = us.is_some_and(|us| us.store_id == stamp.store_id && stamp.epoch <= us.epoch);
    match explained {
        true => Ok(Some(saved.unwrap_or(offset))),
        false if keyed => Err(Error::new(
            ErrorKind::StateMismatch,
            format!("the group's position of {shard} was committed by this pipeline, but not out of this state"),
        )
        .hint(format!(
            "it is of epoch {} of the store {}; begin anew with `millstream state reset`, or set the group back with \
             `millstream kafka reset URL --group G --to WHERE`",
            stamp.epoch, stamp.store_id
        ))),
        false => Ok(Some(offset)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(pipeline: &str, store_id: &str, epoch: Epoch) -> Stamp {
        Stamp { pipeline: pipeline.into(), store_id: store_id.into(), epoch }
    }

    #[test]
    fn the_group_wins_unless_its_offset_is_ours_and_our_checkpoint_knows_of_it() {
        let shard = ShardKey::new("t", 0);
        let us = stamp("my pipeline", "store", 7);
        let by =
            |stamp: Option<Stamp>| Committed { offset: Some(50), metadata: stamp.map(|stamp| write(&stamp).into()) };
        let decide = |committed, saved, keyed| decide(&shard, &committed, saved, (Some(&us), keyed));
        for keyed in [false, true] {
            // Ours, of this epoch or an older one: the checkpoint.
            assert_eq!(decide(by(Some(stamp("my pipeline", "store", 7))), Some(60), keyed).unwrap(), Some(60));
            assert_eq!(decide(by(Some(stamp("my pipeline", "store", 3))), Some(60), keyed).unwrap(), Some(60));
            // It was given away in an epoch that counts, and comes back.
            assert_eq!(decide(by(Some(stamp("my pipeline", "store", 7))), None, keyed).unwrap(), Some(50));
            // Somebody else's, or reset by Kafka's own tools.
            assert_eq!(decide(by(Some(stamp("other", "store", 3))), Some(60), keyed).unwrap(), Some(50));
            assert_eq!(decide(by(None), Some(60), keyed).unwrap(), Some(50));
            let foreign = Committed { offset: Some(50), metadata: Some(vec![0xff, 0xfe]) };
            assert_eq!(decide(foreign, Some(60), keyed).unwrap(), Some(50));
            // The group knows nothing.
            assert_eq!(decide(Committed::default(), Some(60), keyed).unwrap(), Some(60));
            assert_eq!(decide(Committed::default(), None, keyed).unwrap(), None);
        }
        // Ours, but of another store, or newer than the checkpoint.
        for theirs in [stamp("my pipeline", "other", 3), stamp("my pipeline", "store", 8)] {
            assert_eq!(decide(by(Some(theirs.clone())), Some(60), false).unwrap(), Some(50));
            assert_eq!(decide(by(Some(theirs)), Some(60), true).unwrap_err().kind(), ErrorKind::StateMismatch);
        }
    }
}
