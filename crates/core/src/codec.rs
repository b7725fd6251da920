//! The contract of a codec: bytes to records and back.

use bytes::Bytes;

use crate::{BATCH_RECORDS_MAX, Batch, Body, Column, Error, Extent, Form, Forms};

/// Bytes to records and back; what the option `codec` becomes. One file per codec in the `codec` crate.
pub trait Codec: Send + Sync + std::fmt::Debug {
    /// What the values of its records are.
    fn form(&self) -> Form;

    /// A decoder for one stream of bytes.
    fn decoder(&self) -> Box<dyn Decoder>;

    /// An encoder for one stream of bytes.
    fn encoder(&self) -> Box<dyn Encoder>;
}

/// Cuts a stream of bytes into records.
pub trait Decoder: Send {
    /// Takes the records that are complete at the front of `block`, until `frames` is full; answers how many bytes it is
    /// done with. The caller gives the rest again, with more behind it. `end`: nothing more will come, the rest is a record.
    ///
    /// `block` begins where the previous call was done. A record that is at fault is a frame too, with an error.
    fn decode(&mut self, block: &Bytes, end: bool, frames: &mut Frames) -> usize;

    /// Told before the first `decode` of a stream that is read from its middle: `head` is the stream's very beginning, such
    /// as the header line of a CSV file. `false`: more of it is needed (never answered at `end`).
    fn preamble(&mut self, head: &[u8], end: bool) -> bool {
        let _ = (head, end);
        true
    }

    /// How many of the bytes that it is done with belong to a record that is not complete. A source's saved position is
    /// that much before them, so that a resumed decoder starts at a record.
    fn unfinished(&self) -> u64 {
        0
    }
}

/// Writes records to a stream of bytes.
pub trait Encoder: Send {
    /// What stands before the first record of a file, such as the header line of a CSV file.
    fn preamble(&mut self, first: &Batch, out: &mut Vec<u8>) {
        let _ = (first, out);
    }

    /// Appends the records of `batch`, whose body is bytes, to `out`, and to `ends` the length of `out` behind each, so that a
    /// file can be cut between records. A record that cannot be written adds nothing, and goes to `rejected`.
    fn encode(&mut self, batch: &Batch, out: &mut Vec<u8>, ends: &mut Vec<usize>, rejected: &mut Vec<(u32, Error)>);
}

/// Records that a decoder has cut: slices of its block, or bytes of its own; not both in one batch.
#[derive(Debug, Default)]
pub struct Frames {
    extents: Vec<Extent>,
    own: Vec<u8>,
    failed: Vec<(u32, Error)>,
}

impl Frames {
    /// A record that is the bytes from `start` up to `end` of the block.
    pub fn slice(&mut self, start: usize, end: usize) {
        // Blocks are far smaller than 4 GiB; beyond that the record reads as absent.
        let extent = match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) => Extent { start, end },
            _ => Extent::ABSENT,
        };
        self.extents.push(extent);
    }

    /// A record whose bytes `write` appends.
    pub fn own(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.own.len();
        write(&mut self.own);
        self.slice(start, self.own.len());
    }

    /// A record without a value.
    pub fn absent(&mut self) {
        self.extents.push(Extent::ABSENT);
    }

    /// Says that the newest record is at fault.
    pub fn fail(&mut self, error: Error) {
        self.failed.push((self.extents.len().saturating_sub(1) as u32, error));
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Whether a batch should be cut here.
    pub fn is_full(&self) -> bool {
        self.len() >= BATCH_RECORDS_MAX || self.own.len() >= crate::BATCH_BYTES_MAX
    }

    /// The values as a body, and the records at fault; empty again.
    pub fn take(&mut self, block: &Bytes, form: Form) -> (Body, Vec<(u32, Error)>) {
        let data = if self.own.is_empty() { block.clone() } else { Bytes::from(std::mem::take(&mut self.own)) };
        let column = Column::new(data, std::mem::take(&mut self.extents));
        (Body::Bytes(column, Forms::Same(form)), std::mem::take(&mut self.failed))
    }
}
