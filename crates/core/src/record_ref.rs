//! The records of a batch, one by one.

use std::fmt;

use bytes::Bytes;

use crate::{Body, Form, Record, ShardKey, Timestamp, batch::Parts, column::Extent, record::record_id, rows::Rows};

/// The records of a batch, with what leads to their values looked up once and not for each.
#[derive(Clone, Copy)]
pub struct Records<'a> {
    parts: &'a Parts,
    len: usize,
    /// Body row of record 0, where rows are not picked one by one.
    first: usize,
    picked: Option<&'a [u32]>,
    data: &'a [u8],
    /// None where the body is not bytes.
    extents: &'a [Extent],
}

impl<'a> Records<'a> {
    pub(crate) fn of(parts: &'a Parts) -> Self {
        let (data, extents) = match &parts.body {
            Body::Bytes(column, _) => (&column.data()[..], column.extents()),
            Body::Parsed(_) => (&[][..], &[][..]),
        };
        let (first, picked) = match &parts.body_rows {
            Rows::Range(first, _) => (*first as usize, None),
            Rows::Picked(rows) => (0, Some(rows.as_slice())),
        };
        Records { parts, len: parts.body_rows.len(), first, picked, data, extents }
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Record `i`; panics beyond [`Batch::len`](crate::Batch::len), like a slice.
    #[inline]
    pub fn get(&self, i: usize) -> RecordRef<'a> {
        assert!(i < self.len, "record {i} of a batch of {}", self.len);
        let body_row = match self.picked {
            None => self.first + i,
            Some(rows) => rows[i] as usize,
        };
        self.record(i, body_row, self.extents.get(body_row))
    }

    /// Calls `each` with the records from `from` on, each with its number and an item of `beside`.
    #[inline(always)]
    pub(crate) fn each<T>(
        &self,
        from: usize,
        beside: impl Iterator<Item = T>,
        mut each: impl FnMut(usize, RecordRef<'a>, T),
    ) {
        let first = self.first + from;
        let extents = match self.picked {
            None => self.extents.get(first..self.first + self.len),
            Some(_) => None,
        };
        match extents {
            Some(extents) => {
                for (i, (extent, item)) in extents.iter().zip(beside).enumerate() {
                    each(from + i, self.record(from + i, first + i, Some(extent)), item);
                }
            }
            None => (from..self.len).zip(beside).for_each(|(i, item)| each(i, self.get(i), item)),
        }
    }

    #[inline(always)]
    fn record(&self, logical: usize, body_row: usize, extent: Option<&Extent>) -> RecordRef<'a> {
        // An absent extent has its start behind its end, which `get` answers with `None`.
        let value = extent.and_then(|at| self.data.get(at.start as usize..at.end as usize));
        RecordRef { parts: self.parts, logical, body_row, value }
    }
}

/// One record of a batch.
#[derive(Clone, Copy)]
pub struct RecordRef<'a> {
    parts: &'a Parts,
    logical: usize,
    body_row: usize,
    value: Option<&'a [u8]>,
}

impl<'a> RecordRef<'a> {
    /// Looked up only when asked for: most steps look at values alone.
    fn envelope_row(&self) -> usize {
        self.parts.envelope_rows.get(self.logical)
    }

    /// Value bytes; `None` for a tombstone, and for a body that is not bytes: see
    /// [`Batch::into_bytes`](crate::Batch::into_bytes).
    #[inline]
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// What the value's bytes are.
    pub fn form(&self) -> Form {
        match &self.parts.body {
            Body::Bytes(_, forms) => forms.get(self.body_row),
            Body::Parsed(_) => Form::Json,
        }
    }

    /// Key.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.parts.envelope.keys.as_ref().and_then(|keys| keys.get(self.envelope_row()))
    }

    /// Headers in order: name, and value if there is one.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        let row = self.envelope_row();
        self.parts.envelope.headers.as_ref().into_iter().flat_map(move |headers| headers.get(row))
    }

    /// Event time.
    pub fn time(&self) -> Option<Timestamp> {
        self.parts.envelope.time(self.envelope_row())
    }

    /// Where it was read.
    pub fn origin(&self) -> &'a ShardKey {
        self.parts.envelope.shard(self.envelope_row())
    }

    /// Its position there.
    pub fn sequence(&self) -> u128 {
        self.parts.envelope.sequence(self.envelope_row())
    }

    /// Which of the outputs of that source record it is.
    pub fn index(&self) -> u64 {
        self.parts.indexes.as_ref().map_or(0, |all| all[self.logical])
    }

    /// How often the system has handed it out, this time included; 1 where it does not count.
    pub fn deliveries(&self) -> u32 {
        self.parts.envelope.told.deliveries(self.envelope_row())
    }

    /// How often the step before which it stands has failed on it.
    pub fn attempts(&self) -> u32 {
        self.parts.envelope.told.attempts(self.envelope_row())
    }

    /// The value as the source gave it.
    pub fn original(&self) -> Option<&'a [u8]> {
        match &self.parts.original {
            Some(original) => original.get(self.envelope_row()),
            None => self.value(),
        }
    }

    /// `stream/shard@sequence`, and `#index` for a derived one.
    pub fn id(&self) -> String {
        record_id(self.origin(), self.sequence(), self.index())
    }

    /// A copy that owns its bytes. The value is absent if the body is not bytes.
    pub fn to_record(&self) -> Record {
        let own = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        Record {
            origin: self.origin().clone(),
            sequence: self.sequence(),
            index: self.index(),
            time: self.time(),
            key: self.key().map(own),
            headers: self.headers().map(|(name, value)| (name.to_owned(), value.map(own))).collect(),
            value: self.value().map(own),
            form: self.form(),
            original: self.parts.original.as_ref().and_then(|original| original.get(self.envelope_row())).map(own),
            deliveries: self.deliveries(),
            attempts: self.attempts(),
        }
    }

    pub(crate) fn kept_original(&self) -> Option<Option<&'a [u8]>> {
        self.parts.original.as_ref().map(|original| original.get(self.envelope_row()))
    }
}

impl fmt::Debug for RecordRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.id(), self.value().map(String::from_utf8_lossy))
    }
}
