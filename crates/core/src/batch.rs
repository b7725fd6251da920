//! The unit that flows: many records in shared buffers.
//!
//! A batch is an [`Envelope`] (who the records are) and a [`Body`] (what they say). Both are shared, and immutable
//! as long as they are; what a batch shows of them is two lists of [`Rows`]. So a filter, a split and a broadcast copy no
//! bytes, and a step that replaces the values leaves the envelope where it is:
//!
//! ```text
//!   envelope rows ──► [ shard | sequence | time | key | headers | original value ]   physical rows of the source batch
//!   logical record i ┤
//!   body rows     ──► [ value bytes  or  a parsed form  or  typed values ]           physical rows of the newest body
//! ```

use std::{fmt, sync::Arc};

use crate::{
    Body, Envelope, Forms, Parsed, Record, Sequences, Shards, Times,
    column::Column,
    record_ref::{RecordRef, Records},
    rows::Rows,
};

/// Most records that a batch should hold: a batch fits the first-level caches' working set and a channel's turn.
pub const BATCH_RECORDS_MAX: usize = 4096;
/// Most bytes that a batch should hold, unless one record alone is larger.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// Many records of one source, in shared buffers. Cheap to clone, and to hand from one to the next: it is one pointer.
#[derive(Clone)]
pub struct Batch(Arc<Parts>);

#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) envelope_rows: Rows,
    pub(crate) body: Body,
    pub(crate) body_rows: Rows,
    /// Values as the source gave them, by physical envelope row, once a step has replaced the body.
    pub(crate) original: Option<Column>,
    /// Which output of its source record each logical record is; absent: all are 0.
    pub(crate) indexes: Option<Arc<Vec<u64>>>,
}

impl Batch {
    /// A batch as a source makes it: row `i` of the envelope says who record `i` of the body is.
    ///
    /// The columns must all have as many rows as the body; [`BatchBuilder`](crate::BatchBuilder) sees to it.
    pub fn new(envelope: Envelope, body: Body) -> Self {
        let rows = Rows::all(body.len());
        Batch::of(Parts {
            envelope: Arc::new(envelope),
            envelope_rows: rows.clone(),
            body,
            body_rows: rows,
            original: None,
            indexes: None,
        })
    }

    fn of(parts: Parts) -> Self {
        Batch(Arc::new(parts))
    }

    /// To be changed: its own, and with what the source gave kept.
    fn parts(&mut self) -> &mut Parts {
        let parts = Arc::make_mut(&mut self.0);
        parts.keep_original();
        parts
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.0.body_rows.len()
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Roughly how many bytes of memory its records hold; what bounds are measured in.
    pub fn size(&self) -> usize {
        let rows = self.0.body.len();
        let per_row = (self.0.body.size() + self.0.envelope.size()).checked_div(rows).unwrap_or(0);
        (per_row + 16) * self.len().min(rows)
    }

    /// About as many bytes as its values have together.
    pub(crate) fn value_bytes(&self) -> usize {
        let all = match &self.0.body {
            Body::Bytes(column, _) => column.data().len(),
            Body::Parsed(parsed) => parsed.size(),
        };
        if self.len() >= self.0.body.len() { all } else { all / self.0.body.len() * self.len() }
    }

    /// Record `i`; panics beyond [`Batch::len`], like a slice.
    pub fn get(&self, i: usize) -> RecordRef<'_> {
        self.records().get(i)
    }

    /// Record `i` by itself, its value as bytes whatever the body is; panics beyond [`Batch::len`], like a slice.
    pub fn record(&self, i: usize) -> Record {
        self.slice(i, i + 1).into_bytes().get(0).to_record()
    }

    /// All records in order.
    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        let records = self.records();
        (0..records.len()).map(move |i| records.get(i))
    }

    /// The records, for a loop over many of them.
    pub fn records(&self) -> Records<'_> {
        Records::of(&self.0)
    }

    /// The body, with the physical rows of it that the records are.
    pub fn body(&self) -> (&Body, &Rows) {
        (&self.0.body, &self.0.body_rows)
    }

    /// The body to be changed in its place, with its rows: if it is parsed, and nobody else has the batch or its body.
    pub fn body_mut(&mut self) -> Option<(&mut dyn Parsed, &Rows)> {
        let parts = Arc::get_mut(&mut self.0)?;
        let Body::Parsed(parsed) = &mut parts.body else { return None };
        Some((Arc::get_mut(parsed)?, &parts.body_rows))
    }

    /// The envelope, with the physical rows of it that the records are.
    pub fn envelope(&self) -> (&Envelope, &Rows) {
        (&self.0.envelope, &self.0.envelope_rows)
    }

    /// The value bytes and forms with their rows, if the body is bytes. Call [`Batch::into_bytes`] first where it may not be.
    pub fn values(&self) -> Option<(&Column, &Forms, &Rows)> {
        match &self.0.body {
            Body::Bytes(column, forms) => Some((column, forms, &self.0.body_rows)),
            Body::Parsed(_) => None,
        }
    }

    /// The same records with their values as bytes: parsed forms are serialised here, once.
    #[must_use]
    pub fn into_bytes(self) -> Batch {
        match &self.0.body {
            Body::Bytes(..) => self,
            Body::Parsed(parsed) => {
                let (column, forms) = parsed.encode(&self.0.body_rows);
                self.with_body(Body::Bytes(column, forms))
            }
        }
    }

    /// The same records with other values: row `i` of `body` belongs to record `i`.
    #[must_use]
    pub fn with_body(mut self, body: Body) -> Batch {
        debug_assert_eq!(body.len(), self.len());
        let parts = self.parts();
        parts.body_rows = Rows::all(body.len());
        parts.body = body;
        self
    }

    /// The same records with a body that has the same physical rows: a parsed form of what is there.
    #[must_use]
    pub fn with_body_in_place(mut self, body: Body) -> Batch {
        debug_assert_eq!(body.len(), self.0.body.len());
        self.parts().body = body;
        self
    }

    /// Some of the records, by their positions in this batch, in any order.
    #[must_use]
    pub fn select(&self, picks: Vec<u32>) -> Batch {
        let indexes = self.0.indexes.as_ref().map(|all| Arc::new(picks.iter().map(|&i| all[i as usize]).collect()));
        let picks = Arc::new(picks);
        let same = self.0.envelope_rows.same(&self.0.body_rows);
        let body_rows = self.0.body_rows.pick(&picks);
        let envelope_rows = if same { body_rows.clone() } else { self.0.envelope_rows.pick(&picks) };
        Batch::of(Parts { envelope_rows, body_rows, indexes, ..(*self.0).clone() })
    }

    /// The records from `start` up to `end`, exclusive; panics outside of [`Batch::len`].
    #[must_use]
    pub fn slice(&self, start: usize, end: usize) -> Batch {
        assert!(start <= end && end <= self.len(), "records {start}..{end} of a batch of {}", self.len());
        Batch::of(Parts {
            envelope_rows: self.0.envelope_rows.slice(start, end),
            body_rows: self.0.body_rows.slice(start, end),
            indexes: self.0.indexes.as_ref().map(|all| Arc::new(all[start..end].to_vec())),
            ..(*self.0).clone()
        })
    }

    /// Records derived from these: record `i` of the result has value `i` of `body`, and comes from record `parents[i]`.
    ///
    /// Outputs of one parent must be next to each other; they are told apart by their index.
    #[must_use]
    pub fn derive(mut self, parents: Vec<u32>, body: Body) -> Batch {
        debug_assert_eq!(body.len(), parents.len());
        let parts = self.parts();
        let mut indexes = Vec::with_capacity(parents.len());
        let (mut last, mut nth) = (u32::MAX, 0u64);
        for &parent in &parents {
            nth = if parent == last { nth + 1 } else { 0 };
            last = parent;
            let above = parts.indexes.as_ref().map_or(0, |all| all[parent as usize]);
            indexes.push(if above == 0 { nth } else { mix(above, nth) });
        }
        parts.envelope_rows = parts.envelope_rows.pick(&Arc::new(parents));
        parts.body_rows = Rows::all(body.len());
        parts.body = body;
        parts.indexes = Some(Arc::new(indexes));
        self
    }

    /// The same records under another envelope, whose row `i` belongs to record `i`.
    #[must_use]
    pub fn with_envelope(mut self, envelope: Envelope) -> Batch {
        let parts = self.parts();
        if let Some(original) = &parts.original {
            parts.original = Some(original.gather(&parts.envelope_rows));
        }
        parts.envelope_rows = Rows::all(parts.body_rows.len());
        parts.envelope = Arc::new(envelope);
        self
    }

    /// The envelope's columns gathered so that row `i` belongs to record `i`: for steps that change one of them.
    pub fn gather_envelope(&self) -> Envelope {
        let (envelope, rows) = (&*self.0.envelope, &self.0.envelope_rows);
        if rows.is_all(self.len()) {
            return envelope.clone();
        }
        let shards = match &envelope.shards {
            Shards::Same(shard) => Shards::Same(shard.clone()),
            Shards::Each(dictionary, indexes) => {
                Shards::Each(dictionary.clone(), Arc::new(rows.iter().map(|row| indexes[row]).collect()))
            }
        };
        let base = rows.iter().map(|row| envelope.sequence(row)).min().unwrap_or_default();
        let offsets = rows.iter().map(|row| u64::try_from(envelope.sequence(row) - base).unwrap_or(u64::MAX)).collect();
        let times = match &envelope.times {
            Times::Each(times) => Times::Each(Arc::new(rows.iter().map(|row| times[row]).collect())),
            constant => constant.clone(),
        };
        Envelope {
            shards,
            sequences: Sequences::Each(base, Arc::new(offsets)),
            times,
            keys: envelope.keys.as_ref().map(|keys| keys.gather(rows)),
            headers: envelope.headers.as_ref().map(|headers| headers.gather(rows)),
            told: envelope.told.gather(rows),
        }
    }

    /// The same records as they come to a step that has not failed on them.
    #[must_use]
    pub fn without_attempts(mut self) -> Batch {
        if self.0.envelope.told.attempts.is_some() {
            let mut envelope = (*self.0.envelope).clone();
            envelope.told.attempts = None;
            Arc::make_mut(&mut self.0).envelope = Arc::new(envelope);
        }
        self
    }

    /// Whether its records are less than an eighth of the rows that it keeps alive.
    pub fn is_sparse(&self) -> bool {
        self.len() * 8 < self.0.body.len()
    }

    /// A copy that holds only its own bytes, so that a few records do not keep large buffers alive.
    #[must_use]
    pub fn compact(&self) -> Batch {
        let original = self.0.original.as_ref().map(|column| column.gather(&self.0.envelope_rows).copied());
        let mut envelope = self.gather_envelope();
        envelope.keys = envelope.keys.map(|keys| keys.copied());
        envelope.headers = envelope.headers.map(|headers| headers.copied());
        let body = match &self.0.body {
            Body::Bytes(column, forms) => {
                let forms = match forms {
                    Forms::Same(form) => Forms::Same(*form),
                    Forms::Each(each) => Forms::Each(Arc::new(self.0.body_rows.iter().map(|row| each[row]).collect())),
                };
                Body::Bytes(column.gather(&self.0.body_rows).copied(), forms)
            }
            Body::Parsed(parsed) => match parsed.gather(&self.0.body_rows) {
                Some(parsed) => Body::Parsed(parsed),
                None => {
                    let (column, forms) = parsed.encode(&self.0.body_rows);
                    Body::Bytes(column, forms)
                }
            },
        };
        let mut compact = Batch::new(envelope, body);
        let parts = Arc::make_mut(&mut compact.0);
        (parts.original, parts.indexes) = (original, self.0.indexes.clone());
        compact
    }

    /// One batch with the records of all, in order; copies their bytes.
    #[must_use]
    pub fn concat(batches: &[Batch]) -> Batch {
        let mut builder = crate::BatchBuilder::new();
        for batch in batches {
            let batch = batch.clone().into_bytes();
            batch.iter().for_each(|record| builder.push_ref(&record));
        }
        builder.finish()
    }

    /// The same records as outputs of their source records: record `i` is output `indexes[i]`. For records that were stored.
    #[must_use]
    pub fn with_indexes(mut self, indexes: Vec<u64>) -> Batch {
        debug_assert_eq!(indexes.len(), self.len());
        Arc::make_mut(&mut self.0).indexes = Some(Arc::new(indexes));
        self
    }

    pub(crate) fn attach(&mut self, original: Option<Column>, indexes: Option<Vec<u64>>) {
        let parts = Arc::make_mut(&mut self.0);
        (parts.original, parts.indexes) = (original, indexes.map(Arc::new));
    }
}

impl Parts {
    fn keep_original(&mut self) {
        if self.original.is_none()
            && let Body::Bytes(column, _) = &self.body
            && self.envelope_rows.same(&self.body_rows)
        {
            self.original = Some(column.clone());
        }
    }
}

/// One index out of two levels of derivation; deterministic, and as good as unique.
fn mix(above: u64, nth: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&above.to_le_bytes());
    bytes[8..].copy_from_slice(&nth.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes) | 1 << 63
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.iter().take(8).map(|record| record.value().map(String::from_utf8_lossy));
        f.debug_struct("Batch").field("records", &self.len()).field("values", &values.collect::<Vec<_>>()).finish()
    }
}
