//! The blocking half of the source: blocks from the file, messages out of blocks, batches out of messages.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use millstream_codec::{
    MessageCodec,
    ss::{Block, Damage, HEADER_BYTES, Message, Payload, SsReader, Step, StreamId},
};
use millstream_core::{BATCH_RECORDS_MAX, Error, ErrorKind, Extent, Read, Result, ShardKey, Timestamp};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    blocks::{BLOCK_BYTES, Blocks},
    damaged::{self, Whose},
    mark::{Gates, Mark},
    rows::{Row, Rows},
};
use crate::{
    error::failed,
    published::Published,
    ss::view::{Opened, PROOF_BYTES, proof},
};

/// Longest message that is read; offsets in a batch have 32 bits, and a value may be there twice.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// How a source reads.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) path: PathBuf,
    /// The path as written: it names the position.
    pub(super) name: String,
    /// All, if none are named.
    pub(super) streams: Option<Vec<String>>,
    pub(super) follow: bool,
    pub(super) value: MessageCodec,
    /// Values are looked at whether they are what they should be.
    pub(super) checks: bool,
}

impl Reading {
    /// Whether a stream is asked for.
    pub(super) fn has(&self, stream: &str) -> bool {
        self.streams.as_ref().is_none_or(|streams| streams.iter().any(|name| name == stream))
    }
}

/// What the source says next, and where it then stands.
pub(super) struct Item {
    pub(super) added: Vec<ShardKey>,
    pub(super) read: Option<Read>,
    pub(super) mark: Mark,
}

/// What to do behind a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// There is more.
    More,
    /// Wait until something changes.
    Wait,
    /// All is read.
    End,
}

/// What a turn of reading came to.
pub(super) struct Turn {
    pub(super) items: Vec<Item>,
    pub(super) then: Result<Then>,
    /// Where the file ends, as far as it may be read.
    pub(super) end: u64,
    pub(super) opened: Option<Arc<Opened>>,
    pub(super) damaged: u64,
}

/// Reads a file from a mark on.
pub(super) struct Scanner {
    reading: Arc<Reading>,
    opened: Option<Arc<Opened>>,
    /// Where reading stops for good, if it does not go on with the file.
    until: Option<u64>,
    follow: bool,
    checks: bool,
    reader: Option<SsReader>,
    /// By the reader's number of the stream.
    lanes: Vec<Lane>,
    gates: Arc<Gates>,
    /// The message boundary reached.
    at: u64,
    /// Shards that were announced.
    known: HashSet<ShardKey>,
    /// Shards of rows, and their places.
    dictionary: Arc<Vec<ShardKey>>,
    places: HashMap<ShardKey, u32>,
    blocks: Blocks,
    /// Bytes that the next message needs.
    want: u64,
    end: u64,
    damaged: u64,
}

/// What becomes of the records of a stream.
#[derive(Clone, Copy, Debug)]
enum Lane {
    Skipped,
    /// Handed over, with this place in the dictionary.
    Open(u32),
    /// Not yet.
    Gated(u32),
}

/// Why a block was left.
enum Left {
    /// All of it is read.
    Done,
    /// What follows is not whole yet.
    Short,
    /// Nothing will follow.
    Ended,
}

/// What is gathered in a block.
struct Gathered {
    rows: Rows,
    /// Batches that wait for the block to be frozen, and items between them.
    cut: Vec<(Rows, Vec<ShardKey>, Mark)>,
    /// Values that beacons have cut.
    extra: Vec<u8>,
    added: Vec<ShardKey>,
}

impl Scanner {
    /// Reads on from `mark`; `until_end`: only as far as the file goes now.
    pub(super) fn new(reading: Arc<Reading>, opened: Option<Arc<Opened>>, mark: &Mark, until: Option<u64>) -> Self {
        let reader = opened.as_ref().map(|opened| SsReader::at(&opened.header, mark.offset.max(HEADER_BYTES as u64)));
        Scanner {
            follow: reading.follow && until.is_none(),
            checks: reading.checks,
            reading,
            opened,
            until,
            reader,
            lanes: Vec::new(),
            gates: mark.gates.clone(),
            at: mark.offset.max(HEADER_BYTES as u64),
            known: HashSet::new(),
            dictionary: Arc::default(),
            places: HashMap::new(),
            blocks: Blocks::default(),
            want: 0,
            end: 0,
            damaged: 0,
        }
    }

    /// Shards that need no announcement.
    pub(super) fn knows(&mut self, shards: impl IntoIterator<Item = ShardKey>) {
        self.known.extend(shards);
    }

    /// Reads about a block.
    pub(super) fn turn(&mut self) -> Turn {
        let mut items = Vec::new();
        let then = self.read(&mut items);
        let damaged = std::mem::take(&mut self.damaged);
        Turn { items, then, end: self.end, opened: self.opened.clone(), damaged }
    }

    fn read(&mut self, items: &mut Vec<Item>) -> Result<Then> {
        if self.opened.is_none() && !self.begin()? {
            return Ok(Then::Wait);
        }
        let Some(opened) = self.opened.clone() else { return Ok(Then::Wait) };
        let mut gone = false;
        loop {
            self.look(&opened)?;
            let left = self.block(&opened, items)?;
            match left {
                Left::Ended => return Ok(Then::End),
                _ if !items.is_empty() => return Ok(Then::More),
                Left::Done => {}
                Left::Short if gone || !self.follow => return Ok(Then::End),
                Left::Short => {
                    gone = opened.is_gone(&self.reading.path);
                    if !gone {
                        return Ok(Then::Wait);
                    }
                    // One more look: the last bytes may have come just before.
                }
            }
        }
    }

    /// Opens a file that was not there.
    fn begin(&mut self) -> Result<bool> {
        match Opened::open(&self.reading.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
            Ok(None) => Ok(false),
            Ok(Some(opened)) => {
                self.reader = Some(SsReader::new(&opened.header));
                self.at = HEADER_BYTES as u64;
                self.opened = Some(Arc::new(opened));
                Ok(true)
            }
        }
    }

    /// Looks how far the file may be read.
    fn look(&mut self, opened: &Opened) -> Result<()> {
        let path = &self.reading.path;
        let len = opened.file.metadata().map_err(|error| failed("read", path, error))?.len();
        if len < self.at {
            let text = format!("`{}` was cut to {len} bytes, and {} of it have been read", path.display(), self.at);
            return Err(Error::new(ErrorKind::StateMismatch, text).hint(
                "its writer has recovered from a crash; seek to go on, or let it write with `delivery: exactly_once`",
            ));
        }
        self.end = match self.until {
            Some(until) => until.min(len),
            None => len.min(Published::limit(path, opened.id)),
        };
        Ok(())
    }

    /// Reads a block from where the reader stands.
    fn block(&mut self, opened: &Opened, items: &mut Vec<Item>) -> Result<Left> {
        let Some(mut reader) = self.reader.take() else { return Ok(Left::Short) };
        let offset = reader.offset();
        let there = self.end.saturating_sub(offset);
        if there == 0 {
            self.reader = Some(reader);
            return Ok(Left::Short);
        }
        let want = usize::try_from(there.min(self.want.max(BLOCK_BYTES as u64))).unwrap_or(BLOCK_BYTES);
        let bytes = self.blocks.read(&opened.file, offset, want);
        let bytes = bytes.map_err(|error| failed("read", &self.reading.path, error));
        let result = bytes.and_then(|bytes| {
            let block = Block { bytes: &bytes, offset, last: !self.follow && offset + bytes.len() as u64 >= self.end };
            let mut gathered = Gathered {
                rows: Rows::with_capacity(BATCH_RECORDS_MAX.min(bytes.len() / 64)),
                cut: Vec::new(),
                extra: Vec::new(),
                added: Vec::new(),
            };
            let before = self.at;
            let left = self.messages(&mut reader, block, &mut gathered);
            // What was read before an error is handed over; the error comes again with the next turn.
            let moved = self.at != before;
            self.cut(block, &mut gathered, moved)?;
            self.hand_over(bytes, gathered, items);
            left
        });
        self.reader = Some(reader);
        if items.is_empty() { result } else { Ok(result.unwrap_or(Left::Done)) }
    }

    /// Takes all messages out of a block.
    fn messages(&mut self, reader: &mut SsReader, block: Block<'_>, out: &mut Gathered) -> Result<Left> {
        self.want = 0;
        loop {
            match reader.next(block) {
                Step::Message(message) => {
                    self.at = message.end;
                    let lane = match self.lanes.get(message.stream.0 as usize) {
                        Some(lane) => *lane,
                        None => self.meet(reader, message.stream, out),
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
                Step::EndOfStream { .. } => return Ok(Left::Ended),
                Step::FileEnd => return Ok(Left::Ended),
                Step::Torn { offset } => {
                    let path = self.reading.path.display();
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
            let path = self.reading.path.display();
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
        if !self.gates.of(&shard).lets_in(message) {
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
                let unasked = !self.reading.has(key);
                let gate = self.gates.of(&shard);
                if unasked || offset < gate.offset || sequence < gate.sequence || time_ms < gate.time_ms {
                    return;
                }
                let value = payload.map_or(Extent::ABSENT, |payload| extent(payload.start, payload.end));
                Row { shard: self.place(shard), sequence, time: Some(time(time_ms)), value }
            }
            None => {
                let file = ShardKey::new(self.reading.name.as_str(), 0);
                Row { shard: self.place(file), sequence: offset, time: None, value: Extent::ABSENT }
            }
        };
        let path = self.reading.path.display();
        if self.damaged == 0 {
            tracing::warn!(%path, offset, what = %damage, "the file is damaged; reading goes on behind");
        }
        self.damaged += 1;
        out.rows.push(row);
        out.rows.fail(damage.error(offset).context(format!("cannot read all of `{path}`")));
    }

    /// Ends a batch. `moved`: where it ends is news, even if it has no row.
    fn cut(&mut self, block: Block<'_>, out: &mut Gathered, moved: bool) -> Result<()> {
        if out.rows.is_empty() && out.added.is_empty() && !moved {
            return Ok(());
        }
        let mark = self.mark(Some(block))?;
        let more = if out.rows.len() >= BATCH_RECORDS_MAX { BATCH_RECORDS_MAX } else { 0 };
        let rows = std::mem::replace(&mut out.rows, Rows::with_capacity(more));
        out.cut.push((rows, std::mem::take(&mut out.added), mark));
        Ok(())
    }

    /// Where reading stands.
    pub(super) fn mark(&self, block: Option<Block<'_>>) -> Result<Mark> {
        let Some(opened) = &self.opened else { return Ok(Mark::nowhere((*self.gates).clone())) };
        let in_block = block.and_then(|block| {
            let end = usize::try_from(self.at.checked_sub(block.offset)?).ok()?;
            block.bytes.get(end.checked_sub(PROOF_BYTES as usize)?..end)
        });
        let proof = match in_block {
            Some(bytes) => xxh3_64(bytes),
            None => {
                let proof =
                    proof(&opened.file, self.at).and_then(|proof| proof.ok_or(io::ErrorKind::UnexpectedEof.into()));
                proof.map_err(|error| failed("read", &self.reading.path, error))?
            }
        };
        let created_at = opened.header.created_at_ms();
        Ok(Mark { offset: self.at, proof, created_at, gates: self.gates.clone() })
    }

    fn hand_over(&mut self, mut bytes: Vec<u8>, gathered: Gathered, items: &mut Vec<Item>) {
        bytes.extend_from_slice(&gathered.extra);
        let data: Bytes = self.blocks.freeze(bytes);
        let form = self.reading.value.form();
        for (rows, added, mark) in gathered.cut {
            let read = (!rows.is_empty()).then(|| rows.finish(&data, form, &self.dictionary));
            items.push(Item { added, read, mark });
        }
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
        self.shards.insert(shard, super::mark::Gate::OPEN);
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
