//! Steps that have something to say at the end: one that gathers, whose work may fail then, and one that counts.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_core::{Batch, BatchBuilder, Change, Operator, Output, Record, Result, group};

use super::steps::{Work, text};

/// Gathers records until there are so many, or until the end; then each meets its fate. It lets nothing go by itself.
pub(super) struct Gather {
    work: Work,
    most: usize,
    /// In the order in which they came, by a number that no other worker gives; with the group under which each is saved.
    held: BTreeMap<u64, (u16, Record)>,
    changed: BTreeMap<u64, u16>,
    keyless_group: u16,
}

impl Gather {
    pub(super) fn new(work: Work, most: usize) -> Self {
        Gather { work, most, held: BTreeMap::new(), changed: BTreeMap::new(), keyless_group: 0 }
    }

    fn let_go(&mut self, out: &mut Output) {
        let (mut good, mut behind, mut failed) = (BatchBuilder::new(), BatchBuilder::new(), HashSet::new());
        for (id, (group, record)) in std::mem::take(&mut self.held) {
            self.changed.insert(id, group);
            out.created(1);
            if record.key.as_ref().is_some_and(|key| failed.contains(key)) {
                behind.push(&record);
                continue;
            }
            let mut alone = BatchBuilder::new();
            alone.push(&record);
            let alone = alone.finish();
            match self.work.world.meet(self.work.step, &text(&alone, 0)) {
                Ok(true) => good.push(&record),
                Ok(false) => out.filtered(1),
                Err(error) => {
                    failed.extend(record.key);
                    out.fail(&alone, 0, error);
                }
            }
        }
        out.emit(0, good.finish());
        out.give_back(behind.finish());
    }
}

#[async_trait]
impl Operator for Gather {
    fn keyless_group(&mut self, group: u16) {
        self.keyless_group = group;
    }

    async fn restore(&mut self, state: Vec<Change>) -> Result<()> {
        self.work.world.opened();
        for Change { group, key, value } in state {
            let id = u64::from_be_bytes(key[..].try_into().unwrap());
            self.held.insert(id, (group, rmp_serde::from_slice(&value.unwrap()).unwrap()));
        }
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        out.absorbed(batch.len());
        for record in batch.into_bytes().iter() {
            let (id, group) = (self.work.world.number(), record.key().map_or(self.keyless_group, group));
            self.changed.insert(id, group);
            self.held.insert(id, (group, record.to_record()));
        }
        if self.held.len() >= self.most {
            self.let_go(out);
        }
        Ok(())
    }

    async fn end(&mut self, out: &mut Output) -> Result<()> {
        self.let_go(out);
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        let change = |(id, group): (u64, u16)| {
            let value = self.held.get(&id).map(|(_, record)| rmp_serde::to_vec_named(record).unwrap().into());
            Change { group, key: Bytes::copy_from_slice(&id.to_be_bytes()), value }
        };
        Ok(std::mem::take(&mut self.changed).into_iter().map(change).collect())
    }

    async fn close(&mut self) -> Result<()> {
        self.work.world.closed();
        Ok(())
    }
}

/// Counts the records of each key, and says so at the end.
pub(super) struct Tally {
    work: Work,
    counts: BTreeMap<Bytes, u64>,
    changed: BTreeSet<Bytes>,
}

impl Tally {
    pub(super) fn new(work: Work) -> Self {
        Tally { work, counts: BTreeMap::new(), changed: BTreeSet::new() }
    }
}

/// What it says of a key.
pub(super) fn tallied(key: &str, count: u64) -> String {
    format!("{key}:{count}:")
}

#[async_trait]
impl Operator for Tally {
    async fn restore(&mut self, state: Vec<Change>) -> Result<()> {
        self.work.world.opened();
        self.counts = state
            .into_iter()
            .map(|change| (change.key, u64::from_be_bytes(change.value.unwrap()[..].try_into().unwrap())))
            .collect();
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        for record in batch.into_bytes().iter() {
            match record.key() {
                Some(key) => {
                    let key = Bytes::copy_from_slice(key);
                    *self.counts.entry(key.clone()).or_default() += 1;
                    self.changed.insert(key);
                    out.absorbed(1);
                }
                None => out.filtered(1),
            }
        }
        Ok(())
    }

    async fn end(&mut self, out: &mut Output) -> Result<()> {
        let mut builder = BatchBuilder::new();
        for (key, count) in &self.counts {
            let value = tallied(&String::from_utf8_lossy(key), *count);
            builder.push(&Record { key: Some(key.clone()), ..Record::new("tally", value) });
        }
        out.created(self.counts.len());
        out.emit(0, builder.finish());
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        let change = |key: Bytes| {
            let value = self.counts[&key].to_be_bytes();
            Change { group: group(&key), value: Some(Bytes::copy_from_slice(&value)), key }
        };
        Ok(std::mem::take(&mut self.changed).into_iter().map(change).collect())
    }

    async fn close(&mut self) -> Result<()> {
        self.work.world.closed();
        Ok(())
    }
}
