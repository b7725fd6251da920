//! What a lane has read, as the source hands it over.

use std::{collections::HashMap, sync::Arc};

use millstream_core::{BATCH_RECORDS_MAX, Error, ErrorKind, Read, ShardKey};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    decode::{Rows, Shape},
    place::Place,
    reading::Reading,
};
use crate::{
    id::EntryId,
    resp::{Cursor, Reply},
};

/// A batch, and where its shards stand behind it.
pub(super) struct Handed {
    pub(super) read: Read,
    /// With how many records of the shard there are in the batch.
    pub(super) marks: Vec<(ShardKey, Mark, u64)>,
    /// It goes alone: nobody claims another such record before this is dropped.
    pub(super) alone: Option<OwnedSemaphorePermit>,
}

/// Where a shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Here.
    Place(Place),
    /// Behind so many that a group has handed to us.
    Read(u64),
}

/// How often entries were handed out.
pub(super) type Deliveries = HashMap<EntryId, u32>;

/// Makes batches of entries.
pub(super) struct Assembler<'a> {
    reading: &'a Reading,
    dictionary: &'a Arc<Vec<ShardKey>>,
    reply: &'a Reply,
    rows: Rows,
    /// Ids of the batch so far, by shard.
    ids: Vec<(u32, Vec<EntryId>)>,
    done: Vec<Handed>,
}

impl<'a> Assembler<'a> {
    pub(super) fn new(reading: &'a Reading, dictionary: &'a Arc<Vec<ShardKey>>, reply: &'a Reply) -> Self {
        Assembler { reading, dictionary, reply, rows: Rows::default(), ids: Vec::new(), done: Vec::new() }
    }

    /// The entries of one shard that come next, up to `end`. `None`: the answer has another shape than promised.
    pub(super) fn entries(
        &mut self,
        shard: u32,
        cursor: &mut Cursor<'_>,
        end: Option<EntryId>,
        deliveries: Option<&Deliveries>,
    ) -> Option<()> {
        let count = cursor.array()?;
        for _ in 0..count {
            if cursor.array()? == 0 {
                // An entry that was deleted while it was pending.
                continue;
            }
            let (at, text) = cursor.place()?;
            let id = EntryId::parse(text)?;
            if end.is_some_and(|end| id > end) {
                cursor.skip();
                continue;
            }
            if self.rows.is_full(at, id) {
                self.cut();
            }
            self.rows.push(&self.reading.shape, shard, id, at, cursor)?;
            if let Some(times) = deliveries.and_then(|all| all.get(&id)) {
                self.rows.delivered(*times);
                let most = self.reading.member.as_ref().map_or(u32::MAX, |member| member.group.max_deliveries);
                if *times > most {
                    self.rows.fail(given_up(*times));
                }
            }
            match self.ids.last_mut() {
                Some((last, ids)) if *last == shard => ids.push(id),
                _ => {
                    let mut ids = Vec::with_capacity(count.min(BATCH_RECORDS_MAX));
                    ids.push(id);
                    self.ids.push((shard, ids));
                }
            }
        }
        Some(())
    }

    fn cut(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let shape: &Shape = &self.reading.shape;
        let read = self.rows.finish(shape, self.reply.data(), self.dictionary);
        let mut marks = Vec::with_capacity(self.ids.len());
        for (shard, ids) in self.ids.drain(..) {
            let Some(key) = self.dictionary.get(shard as usize) else { continue };
            let records = ids.len() as u64;
            let mark = match (&self.reading.member, ids.last()) {
                (Some(member), _) if member.keeps() => Mark::Read(member.ledger.note(key, ids)),
                (None, Some(last)) => Mark::Place(Place::seen(*last)),
                _ => continue,
            };
            marks.push((key.clone(), mark, records));
        }
        self.done.push(Handed { read, marks, alone: None });
    }

    /// All batches.
    pub(super) fn finish(mut self) -> Vec<Handed> {
        self.cut();
        self.done
    }
}

fn given_up(times: u32) -> Error {
    Error::new(ErrorKind::Data, format!("the record was handed out {} times and never acknowledged", times - 1))
        .hint("it may end the process that works on it; `max_deliveries` says how often it is tried")
}
