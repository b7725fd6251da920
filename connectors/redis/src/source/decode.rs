//! Entries as records: values stay where the answer was read.

use std::sync::Arc;

use bytes::Bytes;
use millstream_codec::MessageCodec;
use millstream_core::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Batch, Body, Column, ColumnBuilder, Envelope, Error, ErrorKind, Extent, Forms,
    HeadersBuilder, Read, Sequences, ShardKey, Shards, Times, Timestamp, Told,
};

use crate::{
    id::EntryId,
    options::{NULL_FIELD, SourceIds},
    resp::Cursor,
};

/// Answers below this are copied, so that a few records do not keep a whole read buffer alive.
const COPIED_BYTES_MAX: usize = 8 << 10;

/// Which field is what.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) value_field: String,
    pub(crate) key_field: String,
    pub(crate) ids: SourceIds,
    pub(crate) codec: MessageCodec,
}

impl Shape {
    fn time(&self, id: EntryId) -> Option<Timestamp> {
        let half = i64::try_from(id.ms).ok()?;
        match self.ids {
            SourceIds::Milliseconds => half.checked_mul(1_000_000).map(Timestamp),
            SourceIds::Nanoseconds => Some(Timestamp(half)),
        }
    }
}

/// Rows of one batch to be.
#[derive(Default)]
pub(super) struct Rows {
    /// The first byte of the answer that belongs to it, and one past the last.
    span: Option<(usize, usize)>,
    values: Vec<Extent>,
    keys: Option<ColumnBuilder>,
    headers: Option<HeadersBuilder>,
    times: Vec<Option<Timestamp>>,
    sequences: Vec<u128>,
    least: u128,
    shards: Vec<u32>,
    deliveries: Option<Vec<u32>>,
    failed: Vec<(u32, Error)>,
}

/// The fields of one entry, sorted out.
#[derive(Default)]
struct Fields<'a> {
    value: Option<(usize, &'a [u8])>,
    key: Option<&'a [u8]>,
    null: bool,
    headers: Vec<(&'a str, &'a [u8])>,
    wrong: Option<Error>,
}

impl Rows {
    /// Whether the next entry, which begins at this byte of the answer, belongs to another batch.
    pub(super) fn is_full(&self, at: usize, id: EntryId) -> bool {
        let Some((start, _)) = self.span else { return false };
        let sequence = id.sequence();
        let (low, high) = (self.least.min(sequence), self.sequences.last().copied().unwrap_or(0).max(sequence));
        self.sequences.len() >= BATCH_RECORDS_MAX
            || at.saturating_sub(start) >= BATCH_BYTES_MAX
            // A batch keeps sequences as distances of 64 bits.
            || high - low > u128::from(u64::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Appends the entry whose fields come next. `at` is a byte of the answer at or before them.
    pub(super) fn push(
        &mut self,
        shape: &Shape,
        shard: u32,
        id: EntryId,
        at: usize,
        cursor: &mut Cursor<'_>,
    ) -> Option<()> {
        let row = self.sequences.len();
        let fields = read_fields(shape, cursor)?;
        let start = self.span.map_or(at, |(start, _)| start);
        let end = fields.value.map_or(at, |(place, value)| place + value.len());
        self.span = Some((start, end.max(self.span.map_or(0, |(_, end)| end))));
        // Answers are far below 4 GiB, and so is every distance in them.
        let extent =
            |place: usize, len: usize| Extent { start: (place - start) as u32, end: (place - start + len) as u32 };
        let value = if fields.null { None } else { fields.value };
        self.values.push(value.map_or(Extent::ABSENT, |(place, value)| extent(place, value.len())));
        let mut wrong = fields.wrong;
        if let (None, Some((_, value))) = (&wrong, value) {
            wrong = shape.codec.check(value).err();
        }
        self.failed.extend(wrong.map(|error| (row as u32, error)));
        if let Some(key) = fields.key {
            let keys = self.keys.get_or_insert_default();
            keys.pad(row);
            keys.push(Some(key));
        }
        if !fields.headers.is_empty() {
            let headers = self.headers.get_or_insert_default();
            headers.pad(row);
            headers.push(fields.headers.iter().map(|(name, value)| (*name, Some(*value))));
        }
        let sequence = id.sequence();
        self.least = if row == 0 { sequence } else { self.least.min(sequence) };
        self.sequences.push(sequence);
        self.times.push(shape.time(id));
        self.shards.push(shard);
        Some(())
    }

    /// Says how often the newest entry was handed out.
    pub(super) fn delivered(&mut self, times: u32) {
        let rows = self.sequences.len();
        let deliveries = self.deliveries.get_or_insert_default();
        deliveries.resize(rows.saturating_sub(1), 1);
        deliveries.push(times);
    }

    /// Says that the newest entry is at fault, unless that has been said.
    pub(super) fn fail(&mut self, error: Error) {
        let row = self.sequences.len().saturating_sub(1) as u32;
        if self.failed.last().is_none_or(|(last, _)| *last != row) {
            self.failed.push((row, error));
        }
    }

    /// The batch; its entries lie in `data`. Nothing is left.
    pub(super) fn finish(&mut self, shape: &Shape, data: &Bytes, dictionary: &Arc<Vec<ShardKey>>) -> Read {
        let rows = std::mem::take(self);
        let count = rows.sequences.len();
        let (start, end) = rows.span.unwrap_or_default();
        let block = match data.get(start..end) {
            Some(bytes) if bytes.len() < COPIED_BYTES_MAX => Bytes::copy_from_slice(bytes),
            Some(bytes) => data.slice_ref(bytes),
            None => Bytes::new(),
        };
        let first = rows.shards.first().copied().unwrap_or_default();
        let shards = match dictionary.get(first as usize) {
            Some(only) if rows.shards.iter().all(|shard| *shard == first) => Shards::Same(only.clone()),
            _ => Shards::Each(dictionary.clone(), Arc::new(rows.shards)),
        };
        let offset = |sequence: &u128| u64::try_from(sequence - rows.least).unwrap_or(u64::MAX);
        let envelope = Envelope {
            shards,
            sequences: Sequences::Each(rows.least, Arc::new(rows.sequences.iter().map(offset).collect())),
            times: Times::Each(Arc::new(rows.times)),
            keys: rows.keys.map(|mut keys| {
                keys.pad(count);
                keys.finish()
            }),
            headers: rows.headers.map(|mut headers| {
                headers.pad(count);
                headers.finish()
            }),
            told: Told {
                appended: false,
                deliveries: rows.deliveries.map(|mut deliveries| {
                    deliveries.resize(count, 1);
                    Arc::new(deliveries)
                }),
                attempts: None,
            },
        };
        let body = Body::Bytes(Column::new(block, rows.values), Forms::Same(shape.codec.form()));
        Read::new(Batch::new(envelope, body), rows.failed)
    }
}

/// `None`: the answer has another shape than promised.
fn read_fields<'a>(shape: &Shape, cursor: &mut Cursor<'a>) -> Option<Fields<'a>> {
    let mut fields = Fields::default();
    for _ in 0..cursor.array()? / 2 {
        let name = cursor.text()?;
        let (place, value) = cursor.place()?;
        if name == shape.value_field.as_bytes() {
            if fields.value.is_some() {
                fields.wrong = Some(repeated(&shape.value_field));
            } else {
                fields.value = Some((place, value));
            }
        } else if name == shape.key_field.as_bytes() {
            if fields.key.is_some() {
                fields.wrong = Some(repeated(&shape.key_field));
            } else {
                fields.key = Some(value);
            }
        } else if name == NULL_FIELD.as_bytes() {
            fields.null = true;
        } else {
            match std::str::from_utf8(name) {
                Ok(name) => fields.headers.push((name, value)),
                Err(cause) => {
                    let error =
                        Error::new(ErrorKind::Decode, "the name of a field is no UTF-8, so it cannot be a header");
                    fields.wrong = Some(error.caused_by(cause));
                }
            }
        }
    }
    if fields.wrong.is_none() {
        fields.wrong = match (&fields.value, fields.null) {
            (None, false) => Some(
                Error::new(
                    ErrorKind::Decode,
                    format!("the entry has no field `{}`, which holds the value", shape.value_field),
                )
                .hint("name the field that holds it with `value_field`"),
            ),
            (Some(_), true) => Some(Error::new(
                ErrorKind::Decode,
                format!(
                    "the entry has the fields `{}` and `{NULL_FIELD}`, which cannot both be true",
                    shape.value_field
                ),
            )),
            _ => None,
        };
    }
    Some(fields)
}

fn repeated(name: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("the entry has the field `{name}` more than once"))
        .hint("name other fields with `value_field` and `key_field`")
}
