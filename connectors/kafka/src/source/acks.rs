//! Single records that are done, where a program and no pipeline reads with a group: how far each partition is done without a
//! gap is what can be committed of it.

use std::collections::{BTreeMap, VecDeque};

use millstream_core::{Batch, ShardKey};

/// What was handed out of each shard, and what is done of it.
#[derive(Debug, Default)]
pub(super) struct Acks(BTreeMap<ShardKey, Shard>);

#[derive(Debug, Default)]
struct Shard {
    /// Everything before it is done.
    at: i64,
    /// Runs of offsets that were handed out and are not done as a whole: first and last. Between runs there were no records.
    handed: VecDeque<(i64, i64)>,
    /// Runs that are done behind `at`: first, and last.
    done: BTreeMap<i64, i64>,
}

impl Acks {
    /// A shard is read from here.
    pub(super) fn begin(&mut self, shard: &ShardKey, at: i64) {
        self.0.insert(shard.clone(), Shard { at, ..Shard::default() });
    }

    /// A shard is no longer read.
    pub(super) fn end(&mut self, shard: &ShardKey) {
        self.0.remove(shard);
    }

    /// Records were handed out.
    pub(super) fn hand(&mut self, batch: &Batch) {
        for record in batch.iter() {
            let Some(shard) = self.0.get_mut(record.origin()) else { continue };
            let offset = offset(record.sequence());
            match shard.handed.back_mut().filter(|(_, last)| *last + 1 == offset) {
                Some((_, last)) => *last = offset,
                None => shard.handed.push_back((offset, offset)),
            }
        }
    }

    /// Records are done.
    pub(super) fn done(&mut self, records: &Batch) {
        for record in records.iter() {
            if let Some(shard) = self.0.get_mut(record.origin()) {
                shard.done(offset(record.sequence()));
            }
        }
        self.0.values_mut().for_each(Shard::advance);
    }

    /// Everything before this offset is done. Answers with what is done without a gap.
    pub(super) fn done_before(&mut self, shard: &ShardKey, upto: Option<i64>) -> Option<i64> {
        let Some(known) = self.0.get_mut(shard) else { return upto };
        known.at = known.at.max(upto.unwrap_or(known.at));
        known.advance();
        Some(known.at)
    }
}

impl Shard {
    fn done(&mut self, offset: i64) {
        if offset < self.at {
            return;
        }
        let before = self.done.range(..=offset).next_back().map(|(first, last)| (*first, *last));
        let (first, mut last) = match before {
            Some((_, last)) if last >= offset => return,
            Some((first, last)) if last + 1 == offset => (first, offset),
            _ => (offset, offset),
        };
        if let Some(behind) = self.done.remove(&(offset + 1)) {
            last = behind;
        }
        self.done.insert(first, last);
    }

    fn advance(&mut self) {
        while let Some(&(first, last)) = self.handed.front() {
            let next = self.at.max(first);
            let done = self.done.range(..=next).next_back().filter(|(_, end)| **end >= next).map(|(_, end)| *end);
            let at = match done {
                _ if next > last => next,
                Some(end) => end.min(last) + 1,
                None => break,
            };
            self.at = self.at.max(at);
            if self.at <= last {
                break;
            }
            self.handed.pop_front();
        }
        // A run that reaches further was handed out in parts.
        let at = self.at;
        while let Some(entry) = self.done.first_entry().filter(|entry| *entry.get() < at) {
            entry.remove();
        }
    }
}

fn offset(sequence: u128) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use millstream_core::{BatchBuilder, Record};

    use super::*;

    fn batch(offsets: &[i64]) -> Batch {
        let mut builder = BatchBuilder::new();
        for offset in offsets {
            builder.push(&Record { sequence: *offset as u128, ..Record::new("t", "") });
        }
        builder.finish()
    }

    #[test]
    fn a_commit_reaches_up_to_the_first_record_that_is_not_done() {
        let (mut acks, shard) = (Acks::default(), ShardKey::new("t", 0));
        acks.begin(&shard, 3);
        // 7 is a mark of a transaction: nobody is handed it.
        acks.hand(&batch(&[3, 4, 5, 6, 8, 9]));
        assert_eq!(acks.done_before(&shard, None), Some(3));
        acks.done(&batch(&[5, 3]));
        assert_eq!(acks.done_before(&shard, None), Some(4));
        acks.done(&batch(&[4]));
        assert_eq!(acks.done_before(&shard, None), Some(6));
        acks.done(&batch(&[8, 6, 6, 3]));
        assert_eq!(acks.done_before(&shard, None), Some(9));
        assert_eq!(acks.done_before(&shard, Some(10)), Some(10));
        acks.hand(&batch(&[10, 11]));
        acks.done(&batch(&[11]));
        assert_eq!(acks.done_before(&shard, None), Some(10));
        assert_eq!(acks.done_before(&shard, Some(12)), Some(12));
        assert!(acks.0[&shard].handed.is_empty() && acks.0[&shard].done.is_empty());
        assert_eq!(acks.done_before(&ShardKey::new("t", 1), Some(5)), Some(5));
    }
}
