//! Blocks to batches, sharing their bytes. Nothing here trusts a length.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use millstream_core::{
    Batch, Body, Column, Envelope, Extent, Form, Forms, Headers, HeadersBuilder, Sequences, ShardKey, Shards, Times,
    Timestamp, Told,
};

use crate::format::{BLOCK_HEADER_BYTES, BlockHeader, Id, block_check, flag};

/// What lies at the front of some bytes of a log.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// A good block: its records, its length with the header.
    Block(Batch, BlockHeader),
    /// A good gap: what a repair has made of damage.
    Gap(BlockHeader),
    /// The block is longer than the bytes: so many are needed.
    More(u64),
    /// No block, and why.
    Bad(&'static str),
}

/// Reads the block at the front of `bytes`, which lies at `offset`; at most `most` bytes belong to blocks.
pub(crate) fn decode(bytes: &Bytes, id: Id, offset: u64, most: u64) -> Decoded {
    let Some(header) = BlockHeader::decode(bytes) else {
        return match most < BLOCK_HEADER_BYTES as u64 {
            true => Decoded::Bad("a block is cut short"),
            false => Decoded::More(BLOCK_HEADER_BYTES as u64),
        };
    };
    if header.total() > most {
        return Decoded::Bad("a block's length is wrong");
    }
    if header.total() > bytes.len() as u64 {
        return Decoded::More(header.total());
    }
    // Within bounds by the comparison above.
    let body = bytes.slice(BLOCK_HEADER_BYTES..header.total() as usize);
    if block_check(id, offset, &bytes[..24], &body) != header.check {
        return Decoded::Bad("a block's checksum is wrong");
    }
    if header.is_gap() {
        return Decoded::Gap(header);
    }
    if !header.is_plausible() {
        return Decoded::Bad("a block is of a kind that this build does not know");
    }
    match records(body, &header) {
        Some(batch) => Decoded::Block(batch, header),
        None => Decoded::Bad("a block's contents do not fit together"),
    }
}

/// The records of a body; `None` where its parts do not fit.
fn records(body: Bytes, header: &BlockHeader) -> Option<Batch> {
    let rows = header.records as usize;
    // Each record has four bytes for its value's length, so a wrong count asks for no memory.
    if rows.checked_mul(4)? > body.len() {
        return None;
    }
    let has = |flag: u16| header.flags & flag != 0;
    let mut parts = Parts { rest: body };
    let forms = match has(flag::FORMS_EACH) {
        false => Forms::Same(form(parts.take(1)?[0])?),
        true => Forms::Each(Arc::new(parts.take(rows)?.iter().map(|&code| form(code)).collect::<Option<_>>()?)),
    };
    let shards = parts.shards(rows, has(flag::SHARDS_EACH))?;
    let base = parts.rest.try_get_u128_le().ok()?;
    let sequences = match has(flag::SEQUENCES_EACH) {
        false => Sequences::Run(base),
        true => Sequences::Each(base, Arc::new(parts.u64s(rows)?)),
    };
    let times = parts.times(rows, has(flag::TIME_SAME), has(flag::TIMES_EACH))?;
    let indexes = if has(flag::INDEXES) { Some(parts.u64s(rows)?) } else { None };
    let deliveries = if has(flag::DELIVERIES) { Some(Arc::new(parts.u32s(rows)?)) } else { None };
    let told = Told { appended: has(flag::APPENDED), deliveries, ..Told::default() };
    let key_lengths = if has(flag::KEYS) { Some(parts.u32s(rows)?) } else { None };
    let value_lengths = parts.u32s(rows)?;
    let original_lengths = if has(flag::ORIGINALS) { Some(parts.u32s(rows)?) } else { None };
    let headers = if has(flag::HEADERS) { Some(parts.headers(rows)?) } else { None };
    let keys = match key_lengths {
        Some(lengths) => Some(parts.column(&lengths)?),
        None => None,
    };
    let both = parts.rest.clone();
    let values = parts.column(&value_lengths)?;
    let originals = match original_lengths {
        Some(lengths) => Some(parts.originals(&lengths, &values, both)?),
        None => None,
    };
    if !parts.rest.is_empty() {
        return None;
    }
    let envelope = Envelope { shards, sequences, times, keys, headers, told };
    let batch = match originals {
        // A body that is replaced stays as the original.
        Some(originals) => {
            Batch::new(envelope, Body::Bytes(originals, forms.clone())).with_body(Body::Bytes(values, forms))
        }
        None => Batch::new(envelope, Body::Bytes(values, forms)),
    };
    Some(match indexes {
        Some(indexes) => batch.with_indexes(indexes),
        None => batch,
    })
}

fn form(code: u8) -> Option<Form> {
    match code {
        0 => Some(Form::Bytes),
        1 => Some(Form::Text),
        2 => Some(Form::Json),
        _ => None,
    }
}

/// What is left of a body.
struct Parts {
    rest: Bytes,
}

impl Parts {
    fn take(&mut self, bytes: usize) -> Option<Bytes> {
        (bytes <= self.rest.len()).then(|| self.rest.split_to(bytes))
    }

    fn u32s(&mut self, count: usize) -> Option<Vec<u32>> {
        let bytes = self.take(count.checked_mul(4)?)?;
        Some(bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    fn u64s(&mut self, count: usize) -> Option<Vec<u64>> {
        let bytes = self.take(count.checked_mul(8)?)?;
        Some(bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
    }

    fn text(&mut self, length: u32) -> Option<String> {
        String::from_utf8(self.take(length as usize)?.to_vec()).ok()
    }

    fn shards(&mut self, rows: usize, each: bool) -> Option<Shards> {
        let count = self.rest.try_get_u32_le().ok()? as usize;
        // A shard has twelve bytes or more.
        let mut all = Vec::with_capacity(count.min(self.rest.len() / 12));
        for _ in 0..count {
            let length = self.rest.try_get_u32_le().ok()?;
            let stream = self.text(length)?;
            all.push(ShardKey::new(stream, self.rest.try_get_u64_le().ok()?));
        }
        if !each {
            return <[ShardKey; 1]>::try_from(all).ok().map(|[only]| Shards::Same(only));
        }
        let indexes = self.u32s(rows)?;
        indexes.iter().all(|&index| (index as usize) < all.len()).then_some(())?;
        Some(Shards::Each(Arc::new(all), Arc::new(indexes)))
    }

    fn times(&mut self, rows: usize, same: bool, each: bool) -> Option<Times> {
        if same {
            return Some(Times::Same(Timestamp(self.rest.try_get_i64_le().ok()?)));
        }
        if !each {
            return Some(Times::Absent);
        }
        let present = self.take(rows)?;
        let all = self.u64s(rows)?;
        let times = all.into_iter().zip(&present[..]).map(|(time, &is)| (is != 0).then_some(Timestamp(time as i64)));
        Some(Times::Each(Arc::new(times.collect())))
    }

    /// Byte strings one behind the other, by their lengths plus one.
    fn column(&mut self, lengths: &[u32]) -> Option<Column> {
        let mut end = 0u32;
        let mut extents = Vec::with_capacity(lengths.len());
        for &plus_one in lengths {
            extents.push(match plus_one {
                0 => Extent::ABSENT,
                _ => {
                    let start = end;
                    end = end.checked_add(plus_one - 1)?;
                    Extent { start, end }
                }
            });
        }
        Some(Column::new(self.take(end as usize)?, extents))
    }

    /// Originals behind the values; `both` begins where the values do.
    fn originals(&mut self, lengths: &[u32], values: &Column, both: Bytes) -> Option<Column> {
        let mut end = u32::try_from(values.data().len()).ok()?;
        let mut extents = Vec::with_capacity(lengths.len());
        for (&code, value) in lengths.iter().zip(values.extents()) {
            extents.push(match code {
                0 => Extent::ABSENT,
                1 => *value,
                _ => {
                    let start = end;
                    end = end.checked_add(code - 2)?;
                    Extent { start, end }
                }
            });
        }
        self.take(end as usize - values.data().len())?;
        Some(Column::new(both.slice(..end as usize), extents))
    }

    fn headers(&mut self, rows: usize) -> Option<Headers> {
        let counts = self.u32s(rows)?;
        let total = counts.iter().try_fold(0u32, |sum, &count| sum.checked_add(count))? as usize;
        let (names, values) = (self.u32s(total)?, self.u32s(total)?);
        let names = names.into_iter().map(|length| length.checked_add(1)).collect::<Option<Vec<u32>>>()?;
        let (names, values) = (self.column(&names)?, self.column(&values)?);
        let mut builder = HeadersBuilder::default();
        let mut at = 0;
        for count in counts {
            let mut entries = Vec::with_capacity(count as usize);
            for entry in at..at + count as usize {
                entries.push((std::str::from_utf8(names.get(entry)?).ok()?, values.get(entry)));
            }
            at += count as usize;
            builder.push(entries);
        }
        Some(builder.finish())
    }
}
