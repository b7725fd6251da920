//! The blocking half of the source: blocks from files, messages out of blocks, batches out of messages.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use millstream_codec::ss::{Block, HEADER_BYTES, SsReader};
use millstream_core::{BATCH_RECORDS_MAX, Error, ErrorKind, Result, ShardKey};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    blocks::{BLOCK_BYTES, Blocks},
    mark::{Gates, LastSequences, Mark},
    messages::{Gathered, Lane, Left},
    onward::Next,
    reading::{Item, Reading, Then, Turn, Until},
    rows::Rows,
};
use crate::{
    error::failed,
    ss::{
        series::{Name, Series},
        view::{Opened, PROOF_BYTES, proof},
    },
};

/// Reads files from a mark on.
pub(super) struct Scanner {
    pub(super) reading: Arc<Reading>,
    pub(super) opened: Option<Arc<Opened>>,
    /// The files that it is one of, if it is.
    pub(super) series: Option<Series>,
    /// Which of them is read, or was last.
    pub(super) file: Name,
    pub(super) until: Option<Until>,
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
    /// The end-of-stream message was met.
    pub(super) ended: bool,
    /// All that is in the file counts, whatever is still published beside it.
    pub(super) finished: bool,
    /// All of the file was read, and no more will come.
    pub(super) over: Option<Arc<LastSequences>>,
    /// Where that was so. A writer that knows nothing of `.part` may have gone on.
    pub(super) over_at: u64,
    /// Where sequences stood at the end of the file before.
    pub(super) before: Option<Arc<LastSequences>>,
    pub(super) damaged: u64,
}

impl Scanner {
    /// Reads on from `mark`.
    pub(super) fn new(
        reading: Arc<Reading>,
        opened: Option<Arc<Opened>>,
        series: Option<Series>,
        mark: &Mark,
        until: Option<Until>,
    ) -> Self {
        let at = mark.offset.max(HEADER_BYTES as u64);
        let reader = opened.as_ref().map(|opened| SsReader::at(&opened.header, at));
        Scanner {
            follow: reading.follow && until.is_none(),
            checks: reading.checks,
            reading,
            opened,
            series,
            file: mark.file.clone(),
            until,
            reader,
            lanes: Vec::new(),
            gates: mark.gates.clone(),
            at,
            known: HashSet::new(),
            dictionary: Arc::default(),
            places: HashMap::new(),
            blocks: Blocks::default(),
            want: 0,
            end: 0,
            ended: false,
            finished: false,
            before: mark.over.clone(),
            over: mark.over.clone(),
            over_at: at,
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
        let folders = self.series.as_ref().map(|series| series.folders().clone()).unwrap_or_default();
        Turn { items, then, end: self.end, later: self.later(), folders, opened: self.opened.clone(), damaged }
    }

    /// The path of the file that is read.
    pub(super) fn path(&self) -> &Path {
        self.opened.as_ref().map_or_else(|| self.reading.path(), |opened| &opened.path)
    }

    fn read(&mut self, items: &mut Vec<Item>) -> Result<Then> {
        // Nothing will come into the file: it is left after one more look, as the last bytes may have come just before.
        let mut last_look = false;
        loop {
            if self.opened.is_none() && !self.begin(items)? {
                return Ok(if self.follow { Then::Wait } else { Then::End });
            }
            let Some(opened) = self.opened.clone() else { return Ok(Then::Wait) };
            self.look(&opened)?;
            let left = self.block(&opened, items)?;
            self.ended |= left == Left::EndOfStream;
            let next = match left {
                Left::Done if items.is_empty() => continue,
                Left::Ended | Left::EndOfStream if self.series.is_none() => return Ok(Then::End),
                _ if !items.is_empty() => return Ok(Then::More),
                _ if self.series.is_some() => self.onward(&opened, left, last_look, items)?,
                _ if last_look || !self.follow => return Ok(Then::End),
                _ if opened.is_gone() => Next::LastLook,
                _ => return Ok(Then::Wait),
            };
            match next {
                Next::LastLook => last_look = true,
                Next::File => last_look = false,
                Next::Then(then) => return Ok(then),
            }
        }
    }

    /// Opens a file that was not there.
    fn begin(&mut self, items: &mut Vec<Item>) -> Result<bool> {
        if self.series.is_some() {
            return self.begin_next(items);
        }
        match Opened::open(self.reading.path(), Name::default()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
            Ok(None) => Ok(false),
            Ok(Some(opened)) => {
                self.enter(opened);
                Ok(true)
            }
        }
    }

    /// Begins to read a file.
    pub(super) fn enter(&mut self, opened: Opened) {
        self.reader = Some(SsReader::new(&opened.header));
        (self.at, self.want, self.over) = (HEADER_BYTES as u64, 0, None);
        (self.ended, self.finished) = (false, false);
        self.file = opened.name.clone();
        self.lanes.clear();
        self.opened = Some(Arc::new(opened));
    }

    /// Looks how far the file may be read.
    fn look(&mut self, opened: &Opened) -> Result<()> {
        let (len, end) = opened.end()?;
        // Of a file that was taken back before anything of it was read another one takes the place.
        let unread = self.series.is_some() && self.at <= HEADER_BYTES as u64;
        if len < self.at && !unread {
            let path = opened.path.display();
            let text = format!("`{path}` was cut to {len} bytes, and {} of it have been read", self.at);
            return Err(Error::new(ErrorKind::StateMismatch, text).hint(
                "its writer has recovered from a crash; seek to go on, or let it write with `delivery: exactly_once`",
            ));
        }
        self.end = match &self.until {
            Some(Until { file, offset: Some(offset) }) if *file == opened.name => (*offset).min(len),
            _ if self.finished => len,
            _ => end,
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
        let bytes = bytes.map_err(|error| failed("read", &opened.path, error));
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
                proof.map_err(|error| failed("read", &opened.path, error))?
            }
        };
        let over = self.over.clone().filter(|_| self.over_at == self.at);
        let (file, created_at) = (opened.name.clone(), opened.header.created_at_ms());
        Ok(Mark { file, offset: self.at, proof, created_at, gates: self.gates.clone(), over })
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
