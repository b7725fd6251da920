//! The thread that reads: blocks in, batches out.
//!
//! Reading a pipe or a terminal blocks, and cannot be called off. A thread of its own, not one of the async runtime's, may
//! hang there without keeping the program from ending.

use std::{collections::VecDeque, io, time::Duration};

use bytes::{Bytes, BytesMut};
use millstream_codec::log::LogDecoder;
use millstream_core::{
    Batch, Decoder, Envelope, Error, ErrorKind, Form, Frames, Read, Result, Sequences, ShardKey, Shards, Times, Told,
};

/// How much is read at once: four times what a pipe holds by default.
pub(super) const BLOCK_BYTES: usize = 256 << 10;

/// Blocks remembered, to be used again when the batches over them have gone: what is on its way in a pipeline, and 8 MiB
/// at most. Memory that is new each time costs more than reading into it.
const BLOCKS_REMEMBERED: usize = 32;

/// How long to wait where the input was set to not block (some terminals are) and has nothing.
const NOT_READY: Duration = Duration::from_millis(10);

/// What cuts blocks into records.
pub(super) enum Cutter {
    /// Lines, perhaps with headers.
    Lines(Box<LogDecoder>),
    /// Any other codec.
    Codec { decoder: Box<dyn Decoder>, form: Form, shard: ShardKey, read: u128 },
}

impl Cutter {
    /// Cuts records from the front of `block`: bytes done with, and the records.
    fn cut(&mut self, block: &Bytes, end: bool) -> (usize, Option<Read>) {
        match self {
            Cutter::Lines(decoder) => {
                let got = decoder.decode(block, end);
                (got.taken, got.read)
            }
            Cutter::Codec { decoder, form, shard, read } => {
                let mut frames = Frames::default();
                let taken = decoder.decode(block, end, &mut frames);
                if frames.is_empty() {
                    return (taken, None);
                }
                let (body, failed) = frames.take(&block.slice(..taken), *form);
                let first = *read + 1;
                *read += body.len() as u128;
                let failed = failed.into_iter().map(|(row, error)| {
                    (row, error.context(format!("cannot read record {}", first + u128::from(row))))
                });
                let envelope = Envelope {
                    shards: Shards::Same(shard.clone()),
                    sequences: Sequences::Run(first),
                    times: Times::Absent,
                    keys: None,
                    headers: None,
                    told: Told::default(),
                };
                (taken, Some(Read::new(Batch::new(envelope, body), failed.collect())))
            }
        }
    }
}

/// Reads until the end, or until `deliver` says `false`. `before` is called before each block is cut.
pub(super) fn read_all(
    input: &mut dyn io::Read,
    cutter: &mut Cutter,
    mut before: impl FnMut(&mut Cutter),
    mut deliver: impl FnMut(Result<Read>) -> bool,
) {
    let mut blocks = Blocks::default();
    let mut buffer = blocks.empty();
    // The front of the buffer is the beginning of a record that is not complete.
    let mut kept = 0;
    loop {
        if kept == buffer.len() {
            // Bounded by the codec: beyond `bytes_max` it takes what it is given.
            buffer.resize(buffer.len() * 2, 0);
        }
        let filled = match input.read(&mut buffer[kept..]) {
            Ok(read) => kept + read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(NOT_READY);
                continue;
            }
            Err(error) => match deliver(Err(Error::io("cannot read the input", error))) {
                true => continue,
                false => return,
            },
        };
        let end = filled == kept;
        let mut block = blocks.give(&mut buffer, filled);
        before(cutter);
        loop {
            let (taken, read) = cutter.cut(&block, end);
            if taken == 0 && read.is_none() {
                break;
            }
            block = block.slice(taken..);
            if let Some(read) = read
                && !deliver(Ok(read))
            {
                return;
            }
        }
        if end {
            if !block.is_empty() {
                let error = Error::new(ErrorKind::Bug, "a codec left something over at the end of the input");
                deliver(Err(error));
            }
            return;
        }
        kept = block.len();
        if buffer.len() < kept + BLOCK_BYTES / 2 {
            buffer.resize((kept * 2).max(BLOCK_BYTES), 0);
        }
        buffer[..kept].copy_from_slice(&block);
    }
}

/// Blocks that were handed out.
#[derive(Default)]
struct Blocks(VecDeque<Bytes>);

impl Blocks {
    /// The filled part as a block. A full buffer is given away and replaced; a few bytes are copied, and the buffer stays.
    fn give(&mut self, buffer: &mut BytesMut, filled: usize) -> Bytes {
        if filled < buffer.len() / 2 {
            return Bytes::copy_from_slice(&buffer[..filled]);
        }
        let full = std::mem::replace(buffer, self.empty()).freeze();
        if full.len() == BLOCK_BYTES {
            if self.0.len() == BLOCKS_REMEMBERED {
                self.0.pop_front();
            }
            self.0.push_back(full.clone());
        }
        full.slice(..filled)
    }

    /// A buffer to read into: a block that nobody needs any more, or a new one.
    fn empty(&mut self) -> BytesMut {
        // Batches go in order: if the oldest block is not free, the others are not either.
        let free = self.0.pop_front_if(|oldest| oldest.is_unique()).and_then(|oldest| oldest.try_into_mut().ok());
        free.unwrap_or_else(|| BytesMut::zeroed(BLOCK_BYTES))
    }
}
