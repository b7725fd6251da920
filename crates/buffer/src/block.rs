//! Batches to blocks.

use std::{collections::HashMap, ops::Range};

use millstream_core::{Batch, Form, RecordRef, Rows, Sequences, ShardKey, Shards, Times, Timestamp};

use crate::format::{BLOCK_HEADER_BYTES, BlockHeader, Id, KIND_RECORDS, VERSION, flag};

/// Most bytes of a block, unless one record alone is larger: what a reader holds at once.
pub(crate) const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Cuts a batch whose body is bytes into runs of records that make blocks of at most `most` bytes.
pub(crate) fn cut(batch: &Batch, most: usize) -> Vec<Range<usize>> {
    if batch.size() <= most / 2 {
        return std::iter::once(0..batch.len()).collect();
    }
    let (mut runs, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (row, record) in batch.iter().enumerate() {
        let more = record_bytes(&record);
        if bytes + more > most && row > start {
            runs.push(start..row);
            (start, bytes) = (row, 0);
        }
        bytes += more;
    }
    runs.push(start..batch.len());
    runs
}

/// About as many bytes as a record takes; headers by their contents.
fn record_bytes(record: &RecordRef<'_>) -> usize {
    let headers: usize = record.headers().map(|(name, value)| 8 + name.len() + value.map_or(0, <[u8]>::len)).sum();
    let original = if keeps_original(record) { record.original().map_or(0, <[u8]>::len) } else { 0 };
    48 + headers + original + record.key().map_or(0, <[u8]>::len) + record.value().map_or(0, <[u8]>::len)
}

/// Whether the source gave something else than the value.
fn keeps_original(record: &RecordRef<'_>) -> bool {
    match (record.value(), record.original()) {
        (None, None) => false,
        // The same bytes in memory are the rule.
        (Some(value), Some(original)) => !std::ptr::eq(value, original) && value != original,
        _ => true,
    }
}

/// Appends the block of records `rows` of `batch`, which lies at `offset` of the log. The body must be bytes.
pub(crate) fn encode(batch: &Batch, rows: &Range<usize>, id: Id, offset: u64, at: Timestamp, out: &mut Vec<u8>) {
    let batch = if *rows == (0..batch.len()) { batch.clone() } else { batch.slice(rows.start, rows.end) };
    let start = out.len();
    out.reserve(BLOCK_HEADER_BYTES + batch.size() + 8 * batch.len());
    out.resize(start + BLOCK_HEADER_BYTES, 0);
    let mut flags = 0;
    forms(&batch, &mut flags, out);
    shards(&batch, &mut flags, out);
    sequences(&batch, &mut flags, out);
    times(&batch, &mut flags, out);
    told(&batch, &mut flags, out);
    contents(&batch, &mut flags, out);
    let body = out.len() - start - BLOCK_HEADER_BYTES;
    let header = BlockHeader {
        // Records are far smaller than 4 GiB; see `BufferSpec::record_bytes_max`.
        length: u32::try_from(body).unwrap_or(u32::MAX),
        version: VERSION as u8,
        kind: KIND_RECORDS,
        flags,
        records: u32::try_from(batch.len()).unwrap_or(u32::MAX),
        written_at: at.0,
        check: 0,
    };
    let header = header.encode(id, offset, &out[start + BLOCK_HEADER_BYTES..]);
    out[start..start + BLOCK_HEADER_BYTES].copy_from_slice(&header);
}

fn forms(batch: &Batch, flags: &mut u16, out: &mut Vec<u8>) {
    let code = |form| match form {
        Form::Bytes => 0,
        Form::Text => 1,
        Form::Json => 2,
    };
    let first = batch.iter().next().map(|record| record.form()).unwrap_or_default();
    if batch.iter().all(|record| record.form() == first) {
        return out.push(code(first));
    }
    *flags |= flag::FORMS_EACH;
    out.extend(batch.iter().map(|record| code(record.form())));
}

fn shards(batch: &Batch, flags: &mut u16, out: &mut Vec<u8>) {
    let (envelope, rows) = batch.envelope();
    let Shards::Each(..) = &envelope.shards else {
        return dictionary(&[envelope.shard(0)], out);
    };
    let (mut all, mut index, mut numbers): (Vec<&ShardKey>, HashMap<&ShardKey, u32>, Vec<u32>) = Default::default();
    for row in rows.iter() {
        let shard = envelope.shard(row);
        numbers.push(*index.entry(shard).or_insert_with(|| {
            all.push(shard);
            all.len() as u32 - 1
        }));
    }
    dictionary(&all, out);
    if all.len() > 1 {
        *flags |= flag::SHARDS_EACH;
        numbers.into_iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    }
}

fn dictionary(shards: &[&ShardKey], out: &mut Vec<u8>) {
    length(shards.len(), out);
    for shard in shards {
        length(shard.stream.len(), out);
        out.extend_from_slice(shard.stream.as_bytes());
        out.extend_from_slice(&shard.shard.to_le_bytes());
    }
}

fn sequences(batch: &Batch, flags: &mut u16, out: &mut Vec<u8>) {
    let (envelope, rows) = batch.envelope();
    if let (Sequences::Run(base), Rows::Range(first, _)) = (&envelope.sequences, rows) {
        return out.extend_from_slice(&(base + u128::from(*first)).to_le_bytes());
    }
    let all = || rows.iter().map(|row| envelope.sequence(row));
    let first = all().next().unwrap_or_default();
    if all().zip(first..).all(|(sequence, expected)| sequence == expected) {
        return out.extend_from_slice(&first.to_le_bytes());
    }
    *flags |= flag::SEQUENCES_EACH;
    let base = all().min().unwrap_or_default();
    out.extend_from_slice(&base.to_le_bytes());
    // Sequences of one batch lie within 2^64 of each other.
    all().for_each(|sequence| out.extend_from_slice(&(sequence - base).to_le_bytes()[..8]));
}

fn times(batch: &Batch, flags: &mut u16, out: &mut Vec<u8>) {
    let (envelope, rows) = batch.envelope();
    match &envelope.times {
        Times::Absent => {}
        Times::Same(time) => {
            *flags |= flag::TIME_SAME;
            out.extend_from_slice(&time.0.to_le_bytes());
        }
        Times::Each(_) => {
            *flags |= flag::TIMES_EACH;
            out.extend(rows.iter().map(|row| u8::from(envelope.time(row).is_some())));
            let all = rows.iter().map(|row| envelope.time(row).unwrap_or_default());
            all.for_each(|time| out.extend_from_slice(&time.0.to_le_bytes()));
        }
    }
}

/// What the runtime and the system told of each record.
fn told(batch: &Batch, flags: &mut u16, out: &mut Vec<u8>) {
    if batch.iter().any(|record| record.index() != 0) {
        *flags |= flag::INDEXES;
        batch.iter().for_each(|record| out.extend_from_slice(&record.index().to_le_bytes()));
    }
    let told = &batch.envelope().0.told;
    if told.deliveries.is_some() {
        *flags |= flag::DELIVERIES;
        batch.iter().for_each(|record| out.extend_from_slice(&record.deliveries().to_le_bytes()));
    }
    if told.appended {
        *flags |= flag::APPENDED;
    }
}

/// Keys, values, originals and headers: lengths first, then bytes.
fn contents(batch: &Batch, flags: &mut u16, out: &mut Vec<u8>) {
    let envelope = batch.envelope().0;
    let keys = envelope.keys.is_some();
    let originals = batch.iter().any(|record| keeps_original(&record));
    let plus_one = |bytes: Option<&[u8]>| bytes.map_or(0, |bytes| bytes.len() + 1);
    if keys {
        *flags |= flag::KEYS;
        batch.iter().for_each(|record| length(plus_one(record.key()), out));
    }
    batch.iter().for_each(|record| length(plus_one(record.value()), out));
    if originals {
        *flags |= flag::ORIGINALS;
        for record in batch.iter() {
            let code = match record.original() {
                _ if !keeps_original(&record) => 1,
                original => original.map_or(0, |bytes| bytes.len() + 2),
            };
            length(code, out);
        }
    }
    if envelope.headers.is_some() {
        *flags |= flag::HEADERS;
        headers(batch, out);
    }
    if keys {
        batch.iter().filter_map(|record| record.key()).for_each(|key| out.extend_from_slice(key));
    }
    values(batch, out);
    if originals {
        let all = batch.iter().filter(keeps_original).filter_map(|record| record.original());
        all.for_each(|original| out.extend_from_slice(original));
    }
}

/// The values one behind the other; at once where they lie so already.
fn values(batch: &Batch, out: &mut Vec<u8>) {
    if let Some((column, _, Rows::Range(start, end))) = batch.values()
        && let Some(extents) = column.extents().get(*start as usize..*end as usize)
        && let (Some(first), Some(last)) = (extents.first(), extents.last())
        && extents.windows(2).all(|pair| pair[0].end == pair[1].start)
        && extents.iter().all(|extent| !extent.is_absent())
        && let Some(all) = column.data().get(first.start as usize..last.end as usize)
    {
        return out.extend_from_slice(all);
    }
    batch.iter().filter_map(|record| record.value()).for_each(|value| out.extend_from_slice(value));
}

fn headers(batch: &Batch, out: &mut Vec<u8>) {
    batch.iter().for_each(|record| length(record.headers().count(), out));
    let all = || (0..batch.len()).flat_map(|row| batch.get(row).headers());
    all().for_each(|(name, _)| length(name.len(), out));
    all().for_each(|(_, value)| length(value.map_or(0, |value| value.len() + 1), out));
    all().for_each(|(name, _)| out.extend_from_slice(name.as_bytes()));
    all().filter_map(|(_, value)| value).for_each(|value| out.extend_from_slice(value));
}

/// Contents of a block are far smaller than 4 GiB.
fn length(length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}
