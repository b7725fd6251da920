//! The files that are written, and what happens to them. Everything here blocks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use millstream_codec::ss::{HEADER_BYTES, Header, SsWriter};
use millstream_core::{Epoch, Error, ErrorKind, Last, Result, ShardKey, Timestamp, Token};

use super::token::SsToken;
use crate::{
    sink::files::{Files, Op, Place},
    ss::options::Fsync,
};

/// What to write, and how; fixed when the pipeline is planned.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) stream: Option<String>,
    pub(super) shard: Option<u64>,
    pub(super) beacon_interval: u32,
    /// Bytes that a file that does not rotate may have.
    pub(super) size_max: Option<u64>,
    pub(super) fsync: Fsync,
    pub(super) end_of_stream: bool,
}

/// The right to write to a path, and the files that are written.
pub(super) struct Output {
    pub(super) target: Arc<Target>,
    pub(super) files: Files,
    /// Sequences go on behind these.
    pub(super) carried: BTreeMap<ShardKey, u64>,
}

/// Where writing goes on.
pub(super) struct Begun {
    pub(super) writer: SsWriter,
    /// The header of a file that is yet to be made.
    pub(super) out: Vec<u8>,
    /// When the file was begun, if there is one.
    pub(super) started_at: Option<Timestamp>,
}

impl Output {
    /// Takes the lock, and brings the files to where the checkpoint stands. There is no writer if nothing is to be written
    /// unless records come.
    pub(super) fn open(target: &Arc<Target>, resume: &[(Epoch, Token)]) -> Result<(Self, Option<Begun>)> {
        let tokens = resume.iter().map(|(_, token)| token.read()).collect::<Result<Vec<SsToken>>>()?;
        let files = Files::new(target.place.clone());
        let mut output = Output { target: target.clone(), files, carried: BTreeMap::new() };
        let begun = output.recover(&tokens);
        if begun.is_err() {
            output.files.close();
        }
        Ok((output, begun?))
    }

    fn recover(&mut self, tokens: &[SsToken]) -> Result<Option<Begun>> {
        let files: Vec<_> = tokens.iter().map(|token| token.files.clone()).collect();
        self.files.open(&files)?;
        self.carried = tokens.last().map(|token| token.carried.clone()).unwrap_or_default();
        self.carry_retired()?;
        if tokens.is_empty() {
            self.carry_all()?;
        }
        if self.target.place.rotation.is_none() && self.files.part.is_none() {
            return if tokens.is_empty() { self.begin().map(Some) } else { Ok(None) };
        }
        match self.files.part.as_ref().map(|part| part.length) {
            Some(mark) => self.take_up(Some(mark)),
            None => self.not_begun(),
        }
        .map(Some)
    }

    /// A writer whose file is made when the first record comes.
    fn not_begun(&self) -> Result<Begun> {
        let mut out = Vec::new();
        let mut writer = SsWriter::new(&self.target.header("")?, &mut out);
        self.carry(&mut writer)?;
        Ok(Begun { writer, out, started_at: None })
    }

    /// Begins the one file of a sink that does not rotate.
    pub(super) fn begin(&mut self) -> Result<Begun> {
        self.files.begin_single(true)?;
        let begun = self.take_up(None)?;
        // Its header counts, and an end of stream that stood there does not.
        self.files.all_counts()?;
        Ok(begun)
    }

    /// Works the queue off and gives back memory for the next block. What fails stays in the queue; a block is written
    /// whole or not at all.
    pub(super) fn work(&mut self, queue: &mut VecDeque<Op>) -> (Vec<u8>, Result<()>) {
        let mut spare = Vec::new();
        while let Some(op) = queue.front_mut() {
            let done = match op {
                Op::Rotate => self.files.rotate(),
                Op::Data(bytes) => self.put(bytes),
            };
            if done.is_err() {
                return (spare, done);
            }
            if let Some(Op::Data(mut bytes)) = queue.pop_front() {
                bytes.clear();
                spare = bytes;
            }
        }
        (spare, Ok(()))
    }

    fn put(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.files.check()?;
        self.files.begin_rotated()?;
        let Some(part) = &mut self.files.part else {
            return Err(Error::new(ErrorKind::Closed, "the sink is not open"));
        };
        if part.length == 0
            && let Some(header) = bytes.first_chunk_mut::<HEADER_BYTES>()
        {
            // By now it has a name.
            *header = self.target.header(part.rename.as_deref().unwrap_or(&part.name))?.encode();
        }
        part.write(bytes)
    }

    /// How far the files count, once that is decided.
    pub(super) fn prepare(&mut self, last: Last, carried: BTreeMap<ShardKey, u64>) -> Result<Option<Token>> {
        if let Some(part) = &self.files.part {
            part.check_whole()?;
        }
        let files = self.files.prepare(last, self.target.fsync != Fsync::Never)?;
        Token::new(&SsToken { files, carried }).map(Some)
    }

    /// The epoch of the token counts.
    pub(super) fn commit(&mut self, token: &SsToken) -> Result<()> {
        self.files.commit(&token.files)
    }
}

impl Target {
    /// The header of a new file.
    pub(super) fn header(&self, name: &str) -> Result<Header> {
        let now = u64::try_from(Timestamp::now().as_millis()).unwrap_or(0);
        Header::new(name, now, self.beacon_interval)
    }
}
