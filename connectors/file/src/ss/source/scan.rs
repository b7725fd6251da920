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
    ss::{Block, HEADER_BYTES, SsReader},
};
use millstream_core::{BATCH_RECORDS_MAX, Error, ErrorKind, Read, Result, ShardKey};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    blocks::{BLOCK_BYTES, Blocks},
    mark::{Gates, Mark},
    messages::{Gathered, Lane, Left},
    rows::Rows,
};
use crate::{
    error::failed,
    published::Published,
    ss::view::{Opened, PROOF_BYTES, proof},
};

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
    pub(super) reading: Arc<Reading>,
    pub(super) opened: Option<Arc<Opened>>,
    /// Where reading stops for good, if it does not go on with the file.
    pub(super) until: Option<u64>,
    pub(super) follow: bool,
    pub(super) checks: bool,
    pub(super) reader: Option<SsReader>,
    /// By the reader's number of the stream.
    pub(super) lanes: Vec<Lane>,
    pub(super) gates: Arc<Gates>,
    /// The message boundary reached.
    pub(super) at: u64,
    /// Shards that were announced.
    pub(super) known: HashSet<ShardKey>,
    /// Shards of rows, and their places.
    pub(super) dictionary: Arc<Vec<ShardKey>>,
    pub(super) places: HashMap<ShardKey, u32>,
    pub(super) blocks: Blocks,
    /// Bytes that the next message needs.
    pub(super) want: u64,
    pub(super) end: u64,
    pub(super) damaged: u64,
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
