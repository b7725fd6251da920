//! Messages out of a block: which are handed over, as rows of batches, and what is damaged.

use std::sync::Arc;

use millstream_codec::ss::{Block, Damage, Message, Payload, SsReader, Step, StreamId};
use millstream_core::{BATCH_RECORDS_MAX, Error, ErrorKind, Extent, Result, ShardKey, Timestamp};

use super::{
    blocks::BLOCK_BYTES,
    damaged::{self, Whose},
    mark::{Gate, Gates, Mark},
    rows::{Row, Rows},
    scan::Scanner,
};

/// Longest message that is read; offsets in a batch have 32 bits, and a value may be there twice.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// What becomes of the records of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lane {
    Skipped,
    /// Handed over, with this place in the dictionary.
    Open(u32),
    /// Not yet.
    Gated(u32),
}

/// Why a block was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// All of it is read.
    Done,
    /// What follows is not whole yet.
    Short,
    /// Nothing will follow in this file.
    Ended,
    /// Nothing will follow: the writer has said so.
    EndOfStream,
}

/// What is gathered in a block.
pub(super) struct Gathered {
    pub(super) rows: Rows,
    /// Batches that wait for the block to be frozen, and items between them.
    pub(super) cut: Vec<(Rows, Vec<ShardKey>, Mark)>,
    /// Values that beacons have cut.
    pub(super) extra: Vec<u8>,
    pub(super) added: Vec<ShardKey>,
}

impl Scanner {
    /// Takes all messages out of a block.
    pub(super) fn messages(&mut self, reader: &mut SsReader, block: Block<'_>, out: &mut Gathered) -> Result<Left> {
        self.want = 0;
        loop {
            match reader.next(block) {
                Step::Message(message) => {
                    self.at = message.end;
                    let lane = match self.lanes.get(message.stream.0 as usize) {
                        Some(lane) => *lane,
                        None => {
                            let lane = self.meet(reader, message.stream, out);
                            self.check_gap(lane, message.sequence);
                            lane
                        }
                    };
                    match lane {
                        Lane::Open(shard) => self.row(reader, block, &message, shard, out),
                        Lane::Skipped => continue,
                        Lane::Gated(shard) if self.passes(&message, shard) => {
                            self.row(reader, block, &message, shard, out);
                        }
                        Lane::Gated(_) => continue,
                    }
                    if out.rows.len() >= BATCH_RECORDS_MAX {
                        self.cut(block, out, true)?;
                    }
                }
                // Before the message: whoever appends to the file writes over it.
                Step::EndOfStream { .. } => return Ok(Left::EndOfStream),
                Step::FileEnd => return Ok(Left::Ended),
                Step::Torn { offset } => {
                    let path = self.path().display();
                    tracing::warn!(%path, offset, "the file ends in the middle of a record, which is left out");
                    return Ok(Left::Ended);
                }
                Step::NeedMore { bytes } => return self.short(reader, block, bytes),
                Step::Damaged { offset, damage } => {
                    if self.is_blank(block, offset) {
                        return Ok(if self.follow { Left::Short } else { Left::Ended });
                    }
                    reader.resync();
                    self.damage(block, reader, offset, damage, out);
                }
            }
        }
    }

    /// The block ends before the next message does.
    fn short(&mut self, reader: &SsReader, block: Block<'_>, bytes: u64) -> Result<Left> {
        let end = block.offset + block.bytes.len() as u64;
        if bytes > MESSAGE_BYTES_MAX {
            let path = self.path().display();
            let text =
                format!("a record of `{path}` at offset {} has more than {MESSAGE_BYTES_MAX} bytes", reader.offset());
            return Err(Error::new(ErrorKind::TooLarge, text).hint("seek behind it to go on"));
        }
        if reader.offset() > block.offset {
            return Ok(if end < self.end { Left::Done } else { Left::Short });
        }
        // Doubled, so that a message cut by many beacons is not put together at each of them.
        self.want = bytes.max(2 * block.bytes.len() as u64).min(MESSAGE_BYTES_MAX + BLOCK_BYTES as u64);
        Ok(if end < self.end { Left::Done } else { Left::Short })
    }

    /// Zeros up to the end of the file: space that a crash has left unwritten.
    fn is_blank(&self, block: Block<'_>, offset: u64) -> bool {
        let at = usize::try_from(offset.saturating_sub(block.offset)).unwrap_or(usize::MAX);
        let rest = block.bytes.get(at..).unwrap_or_default();
        block.offset + block.bytes.len() as u64 >= self.end && rest.iter().all(|byte| *byte == 0)
    }

    #[inline(always)]
    fn row(&mut self, reader: &SsReader, block: Block<'_>, message: &Message, shard: u32, out: &mut Gathered) {
        let value = match message.payload {
            Payload::InBlock { start, end } => extent(start, end),
            Payload::Assembled { .. } => out.append(block, reader.payload(block, message.payload)),
        };
        out.rows.push(Row { shard, sequence: message.sequence, time: Some(time(message.time_ms)), value });
        if self.checks
            && let Err(error) = self.reading.value.check(reader.payload(block, message.payload))
        {
            out.rows.fail(error);
        }
    }

    /// Decides what becomes of a stream that is met for the first time.
    #[cold]
    fn meet(&mut self, reader: &SsReader, stream: StreamId, out: &mut Gathered) -> Lane {
        while self.lanes.len() <= stream.0 as usize {
            let next = reader.stream(StreamId(self.lanes.len() as u32));
            let lane = match next.filter(|(key, _)| self.reading.has(key)) {
                None => Lane::Skipped,
                Some((key, shard)) => {
                    let shard = ShardKey::new(key, shard);
                    let gated = !self.gates.of(&shard).is_open();
                    if self.known.insert(shard.clone()) {
                        out.added.push(shard.clone());
                    }
                    let place = self.place(shard);
                    if gated { Lane::Gated(place) } else { Lane::Open(place) }
                }
            };
            self.lanes.push(lane);
        }
        // The loop has made it.
        self.lanes.get(stream.0 as usize).copied().unwrap_or(Lane::Skipped)
    }

    fn place(&mut self, shard: ShardKey) -> u32 {
        if let Some(place) = self.places.get(&shard) {
            return *place;
        }
        let dictionary = Arc::make_mut(&mut self.dictionary);
        // There are as many as `StreamId`s, which have 32 bits, and one more.
        let place = dictionary.len() as u32;
        dictionary.push(shard.clone());
        self.places.insert(shard, place);
        place
    }

    /// Whether a record of a gated shard is the first to be handed over.
    fn passes(&mut self, message: &Message, place: u32) -> bool {
        let Some(shard) = self.dictionary.get(place as usize).cloned() else { return false };
        if !self.gates.of(&shard).lets_in(&self.file, message.offset, message.sequence, message.time_ms) {
            return false;
        }
        Arc::make_mut(&mut self.gates).open(shard);
        if let Some(lane) = self.lanes.get_mut(message.stream.0 as usize) {
            *lane = Lane::Open(place);
        }
        true
    }

    /// Reports a damaged place as a record that has failed, unless it surely is of a stream that is not asked for.
    #[cold]
    fn damage(&mut self, block: Block<'_>, reader: &SsReader, offset: u64, damage: Damage, out: &mut Gathered) {
        let interval = self.opened.as_ref().map_or(u32::MAX, |opened| opened.header.beacon_interval());
        let whose = damaged::whose(block, offset, interval, damage);
        if let Damage::Checksum { .. } = damage {
            // The next message follows at once; behind anything else the next boundary is not known yet.
            self.at = reader.offset();
        }
        let row = match whose {
            Some(Whose { key, shard, sequence, time_ms, payload }) => {
                let shard = ShardKey::new(key, shard);
                if !self.reading.has(key) || !self.gates.of(&shard).lets_in(&self.file, offset, sequence, time_ms) {
                    return;
                }
                let value = payload.map_or(Extent::ABSENT, |payload| extent(payload.start, payload.end));
                Row { shard: self.place(shard), sequence, time: Some(time(time_ms)), value }
            }
            None => {
                let name = if self.file.is_empty() { self.reading.name.clone() } else { self.file.to_string() };
                let file = ShardKey::new(name, 0);
                Row { shard: self.place(file), sequence: offset, time: None, value: Extent::ABSENT }
            }
        };
        let path = self.path().display().to_string();
        if self.damaged == 0 {
            tracing::warn!(path, offset, what = %damage, "the file is damaged; reading goes on behind");
        }
        self.damaged += 1;
        out.rows.push(row);
        out.rows.fail(damage.error(offset).context(format!("cannot read all of `{path}`")));
    }

    /// Ends a batch. `moved`: where it ends is news, even if it has no row.
    pub(super) fn cut(&mut self, block: Block<'_>, out: &mut Gathered, moved: bool) -> Result<()> {
        if out.rows.is_empty() && out.added.is_empty() && !moved {
            return Ok(());
        }
        let mark = self.mark(Some(block))?;
        let more = if out.rows.len() >= BATCH_RECORDS_MAX { BATCH_RECORDS_MAX } else { 0 };
        let rows = std::mem::replace(&mut out.rows, Rows::with_capacity(more));
        out.cut.push((rows, std::mem::take(&mut out.added), mark));
        Ok(())
    }
}

impl Gathered {
    /// Puts a value behind the block.
    #[cold]
    fn append(&mut self, block: Block<'_>, value: &[u8]) -> Extent {
        let start = block.bytes.len() + self.extra.len();
        self.extra.extend_from_slice(value);
        extent(start, start + value.len())
    }
}

impl Gates {
    /// Lets a shard in from now on.
    fn open(&mut self, shard: ShardKey) {
        self.shards.insert(shard, Gate::default());
    }
}

#[inline(always)]
fn extent(start: usize, end: usize) -> Extent {
    // A block and what stands behind it have at most thrice `MESSAGE_BYTES_MAX`, which 32 bits hold.
    Extent { start: start as u32, end: end as u32 }
}

#[inline(always)]
fn time(ms: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}
