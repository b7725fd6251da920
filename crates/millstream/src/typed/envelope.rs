//! What is around a value: key, time, headers.

use std::ops::Deref;

use millstream_core::{
    Batch, Column, ColumnBuilder, Envelope, Headers, HeadersBuilder, Output, RecordRef, Rows, ShardKey, Times,
    Timestamp,
};

use super::{Data, ToBytes, rows::view, typed};
use crate::made::Made;

/// A record with its value: what is known of it beside what it says.
#[derive(Clone, Copy, Debug)]
pub struct RecordOf<'a, T> {
    value: &'a T,
    record: RecordRef<'a>,
}

impl<'a, T> RecordOf<'a, T> {
    pub(crate) fn new(value: &'a T, record: RecordRef<'a>) -> Self {
        RecordOf { value, record }
    }

    /// The value; the record itself derefs to it.
    pub fn value(&self) -> &'a T {
        self.value
    }

    /// Key.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.record.key()
    }

    /// Headers in order: name, and value if there is one.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a, T> {
        self.record.headers()
    }

    /// The first header of this name that has a value.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find_map(|(other, value)| value.filter(|_| other == name))
    }

    /// Event time.
    pub fn time(&self) -> Option<Timestamp> {
        self.record.time()
    }

    /// Where it was read.
    pub fn origin(&self) -> &'a ShardKey {
        self.record.origin()
    }

    /// Its position there.
    pub fn sequence(&self) -> u128 {
        self.record.sequence()
    }

    /// How often the system has handed it out, this time included; 1 where it does not count.
    pub fn deliveries(&self) -> u32 {
        self.record.deliveries()
    }

    /// How often this step has failed on it; 0 at the first try.
    pub fn attempts(&self) -> u32 {
        self.record.attempts()
    }

    /// `stream/shard@sequence`, and `#index` for a derived one: for logs.
    pub fn id(&self) -> String {
        self.record.id()
    }
}

impl<T> Deref for RecordOf<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
    }
}

pub(crate) fn key_by<T: Data, K: ToBytes, F: Fn(&T) -> K + Send + Sync + 'static>(key: F) -> Made {
    Made::transform("key_by", key, |key, batch, out| {
        reshape::<T>(batch, out, key, |_, envelope, column| envelope.keys = Some(column));
    })
}

pub(crate) fn time_by<T: Data, I: Into<Option<Timestamp>>, F: Fn(&T) -> I + Send + Sync + 'static>(time: F) -> Made {
    Made::transform("time_by", time, |time, batch, out| {
        let Some(batch) = typed::<T>(batch, out) else { return };
        let (times, failed) = view::<T>(&batch).collect(|value| time(value).into());
        let Some(good) = (if failed.is_empty() { Some(batch) } else { out.fail_rows(&batch, failed) }) else { return };
        let mut envelope = good.gather_envelope();
        envelope.times = Times::Each(times.into());
        // They are not those at which a system took the records.
        envelope.told.appended = false;
        out.emit(0, good.with_envelope(envelope));
    })
}

pub(crate) fn header<T: Data, V: ToBytes, F: Fn(&T) -> V + Send + Sync + 'static>(name: String, value: F) -> Made {
    Made::transform("header", (name, value), |(name, value), batch, out| {
        reshape::<T>(batch, out, value, |batch, envelope, column| {
            envelope.headers = Some(with_header(batch, name, &column));
        });
    })
}

/// Makes a byte string for each value, and puts them into the envelope.
fn reshape<T: Data>(
    batch: Batch,
    out: &mut Output,
    make: &impl ToBytesOf<T>,
    place: impl FnOnce(&Batch, &mut Envelope, Column),
) {
    let Some(batch) = typed::<T>(batch, out) else { return };
    let mut column = ColumnBuilder::with_capacity(batch.len(), 16 * batch.len());
    let (mut rows, mut written) = (Vec::with_capacity(batch.len()), 0u32);
    let failed = view::<T>(&batch).each(|_, value| {
        let present = column.push_with(|bytes| make.append_of(value, bytes));
        rows.push(present.then_some(written));
        written += 1;
        Ok(())
    });
    let column = column.finish();
    let column = if rows.iter().all(Option::is_some) {
        column
    } else {
        let extents = column.extents();
        let extent = |row: &Option<u32>| row.and_then(|row| extents.get(row as usize).copied());
        Column::new(
            column.data().clone(),
            rows.iter().map(|row| extent(row).unwrap_or(millstream_core::Extent::ABSENT)).collect(),
        )
    };
    let good = if failed.is_empty() { Some(batch) } else { out.fail_rows(&batch, failed) };
    let Some(good) = good else { return };
    let mut envelope = good.gather_envelope();
    place(&good, &mut envelope, column);
    out.emit(0, good.with_envelope(envelope));
}

/// A user's function from values to byte strings.
trait ToBytesOf<T> {
    fn append_of(&self, value: &T, bytes: &mut Vec<u8>) -> bool;
}

impl<T, B: ToBytes, F: Fn(&T) -> B> ToBytesOf<T> for F {
    fn append_of(&self, value: &T, bytes: &mut Vec<u8>) -> bool {
        self(value).append(bytes)
    }
}

/// The headers of the records with one more, which replaces those of its name.
fn with_header(batch: &Batch, name: &str, values: &Column) -> Headers {
    let mut headers = HeadersBuilder::default();
    debug_assert_eq!(values.len(), Rows::all(batch.len()).len());
    for (row, record) in batch.iter().enumerate() {
        let new = values.get(row).map(|value| (name, Some(value)));
        headers.push(record.headers().filter(|(other, _)| *other != name).chain(new));
    }
    headers.finish()
}
