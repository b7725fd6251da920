//! The body that these steps hand on to each other: values beside the bytes that they were parsed from.
//!
//! A row is parsed when a step first looks inside, and serialised when a sink wants bytes: so a chain of steps parses once
//! and writes once. What a step only reads stays shared; a step that writes takes the rows, without a copy where nobody
//! else has them.

use std::{
    any::Any,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use millstream_core::{Batch, Body, Column, ColumnBuilder, Form, Forms, Parsed, Result, Rows};
use vrl::value::Value;

use crate::{
    changes::{Changes, How},
    json,
    needs::{Needs, Wanted},
};

/// One value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// The bytes that it came as; absent in tombstones and in values that a step made.
    raw: Option<Bytes>,
    /// What these bytes are.
    form: Form,
    /// The value, once somebody has looked.
    seen: OnceLock<Seen>,
    /// The value in full, where somebody looked at more of it than the first one, and could not change `seen`.
    full: OnceLock<Box<Value>>,
    /// How the value differs from the bytes; without bytes, the order of its fields.
    changes: Option<Arc<Changes>>,
}

/// A value, of which perhaps not everything has been parsed.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) value: Value,
    /// What of it is there.
    pub(crate) needs: Needs,
}

static NULL: Value = Value::Null;

impl Row {
    /// A value that is not parsed yet; `None` is a tombstone.
    pub(crate) fn source(raw: Option<Bytes>, form: Form) -> Self {
        Row { raw, form, ..Row::default() }
    }

    /// A value that a step made.
    pub(crate) fn own(value: Value) -> Self {
        if value.is_null() {
            return Row::source(Some(Bytes::from_static(b"null")), Form::Json);
        }
        Row { seen: OnceLock::from(Seen { value, needs: Needs::All }), ..Row::default() }
    }

    /// The value, with at least what is needed of it; parses it the first time. Null for a tombstone.
    pub(crate) fn value(&self, needs: &Needs) -> Result<&Value> {
        let seen = match self.seen.get() {
            Some(seen) => seen,
            None => {
                let Some(raw) = &self.raw else { return Ok(&NULL) };
                let seen = match self.form {
                    Form::Json => Seen { value: json::parse(raw, needs)?, needs: needs.clone() },
                    Form::Text | Form::Bytes => Seen { value: Value::Bytes(raw.clone()), needs: Needs::All },
                };
                return Ok(&self.seen.get_or_init(|| seen).value);
            }
        };
        if seen.needs.covers(needs) {
            return Ok(&seen.value);
        }
        if let Some(full) = self.full.get() {
            return Ok(full);
        }
        let mut full = seen.clone();
        self.complete(&mut full, &Needs::All)?;
        Ok(self.full.get_or_init(|| Box::new(full.value)))
    }

    /// The value, to be worked on; what is left is as it was before somebody looked, or a tombstone.
    pub(crate) fn take_value(&mut self, wanted: &mut Wanted) -> Result<Seen> {
        let full = self.full.take();
        match self.seen.take() {
            Some(seen) if seen.needs.covers(wanted.needs()) => Ok(seen),
            Some(_) if let Some(full) = full => Ok(Seen { value: *full, needs: Needs::All }),
            Some(mut seen) if !self.pristine() => {
                self.complete(&mut seen, wanted.needs())?;
                seen.needs = wanted.with(&seen.needs);
                Ok(seen)
            }
            // Reading only what is needed, again, is less work than reading all.
            _ => {
                self.value(wanted.needs())?;
                Ok(self.seen.take().unwrap_or(Seen { value: Value::Null, needs: Needs::All }))
            }
        }
    }

    /// Parses what is needed of a value and has not been parsed.
    fn complete(&self, seen: &mut Seen, needs: &Needs) -> Result<()> {
        if let (Value::Object(map), Some(raw), Form::Json) = (&mut seen.value, &self.raw, self.form)
            && let Value::Object(more) = json::parse(raw, needs)?
        {
            // What is there may have been assigned or deleted since.
            map.extend(more.into_iter().filter(|(name, _)| !seen.needs.wants(name.as_bytes())));
        }
        Ok(())
    }

    /// Puts back a value that was not changed.
    pub(crate) fn put_back(&mut self, seen: Seen) {
        if self.raw.is_some() || self.changes.is_some() || !seen.value.is_null() {
            self.seen = OnceLock::from(seen);
        }
    }

    /// Puts in a value that differs from the one before by `changes`.
    pub(crate) fn change(&mut self, seen: Seen, changes: Arc<Changes>) {
        let comparable = matches!(seen.value, Value::Object(_) | Value::Array(_)) && self.form == Form::Json;
        if !comparable || changes.how() == How::Written {
            self.raw = None;
        }
        self.seen = OnceLock::from(seen);
        self.changes = Some(changes);
    }

    /// What was changed since the bytes were read.
    pub(crate) fn changes(&self) -> Option<&Arc<Changes>> {
        self.changes.as_ref()
    }

    /// Whether the value can be read again from its bytes.
    pub(crate) fn pristine(&self) -> bool {
        self.raw.is_some() && self.changes.is_none()
    }

    /// The JSON text that the value came as, if there is one; parts of it may have been changed.
    pub(crate) fn json(&self) -> Option<&Bytes> {
        self.raw.as_ref().filter(|_| self.form == Form::Json)
    }

    /// Appends the bytes to `out`; answers what they are, `None` for a tombstone.
    fn encode(&self, out: &mut Vec<u8>) -> Option<Form> {
        match (&self.raw, self.seen.get().map(|seen| &seen.value), self.changes.as_deref()) {
            (Some(raw), _, None) | (Some(raw), None, _) => {
                out.extend_from_slice(raw);
                Some(self.form)
            }
            (Some(raw), Some(value), Some(changes)) => {
                json::write_changed(out, value, raw, changes);
                Some(Form::Json)
            }
            (None, Some(Value::Bytes(bytes)), _) => {
                out.extend_from_slice(bytes);
                Some(if std::str::from_utf8(bytes).is_ok() { Form::Text } else { Form::Bytes })
            }
            (None, Some(Value::String(text)), _) => {
                out.extend_from_slice(text.as_bytes());
                Some(Form::Text)
            }
            (None, Some(value), changes) => {
                json::write_value(out, value, changes);
                Some(Form::Json)
            }
            (None, None, _) => None,
        }
    }
}

/// The values of a batch. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Values(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rows: Vec<Row>,
    size: usize,
    /// The bytes of all rows, as long as none was changed.
    source: Option<(Column, Forms)>,
}

impl Values {
    /// Rows that a step made or changed.
    pub(crate) fn new(rows: Vec<Row>, size: usize) -> Self {
        Values(Arc::new(Inner { rows, size, source: None }))
    }

    fn of_bytes(column: &Column, forms: &Forms, rows: &Rows) -> Self {
        let size = column.size().checked_div(column.len()).unwrap_or(0) * rows.len();
        let source = rows.is_all(column.len()).then(|| (column.clone(), forms.clone()));
        let rows = rows.iter().map(|row| Row::source(column.get_bytes(row), forms.get(row))).collect();
        Values(Arc::new(Inner { rows, size, source }))
    }

    /// A row, by its physical position.
    pub(crate) fn row(&self, row: usize) -> Option<&Row> {
        self.0.rows.get(row)
    }

    /// The value of a row, by its physical position, with at least what is needed of it.
    pub(crate) fn value(&self, row: usize, needs: &Needs) -> Result<&Value> {
        self.row(row).map_or(Ok(&NULL), |row| row.value(needs))
    }

    /// As the body of a batch.
    pub(crate) fn into_body(self) -> Body {
        Body::Parsed(Arc::new(self))
    }
}

impl Parsed for Values {
    fn len(&self) -> usize {
        self.0.rows.len()
    }

    fn size(&self) -> usize {
        self.0.size + 8 * self.0.rows.len()
    }

    fn encode(&self, rows: &Rows) -> (Column, Forms) {
        if let Some((column, forms)) = &self.0.source {
            let forms = match forms {
                Forms::Same(form) => Forms::Same(*form),
                Forms::Each(_) => Forms::Each(Arc::new(rows.iter().map(|row| forms.get(row)).collect())),
            };
            return (column.gather(rows), forms);
        }
        let mut column = ColumnBuilder::with_capacity(rows.len(), self.0.size);
        let mut forms = Vec::with_capacity(rows.len());
        for row in rows.iter() {
            // A tombstone has no bytes; its form is what its neighbour has, so that one form does for all.
            let form = match self.row(row) {
                Some(row) if row.raw.is_some() || row.seen.get().is_some() => column.push_with(|out| row.encode(out)),
                _ => {
                    column.push(None);
                    None
                }
            };
            forms.push(form.or(forms.last().copied()).unwrap_or(Form::Json));
        }
        let forms = match forms.first() {
            Some(first) if forms.iter().any(|form| form != first) => Forms::Each(Arc::new(forms)),
            first => Forms::Same(first.copied().unwrap_or(Form::Json)),
        };
        (column.finish(), forms)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The batch with its values, for reading: row `i` of [`Batch::body`] is record `i`'s.
///
/// What is read of JSON stays with the batch for the steps behind; text stays the bytes that it is.
pub(crate) fn open(batch: Batch) -> (Batch, Values) {
    let batch = if values_of(&batch).is_some() { batch } else { batch.into_bytes() };
    if let Some(values) = values_of(&batch) {
        let values = values.clone();
        return (batch, values);
    }
    let Some((column, forms, rows)) = batch.values() else {
        // `into_bytes` gave bytes.
        return (batch, Values::new(Vec::new(), 0));
    };
    let values = Values::of_bytes(column, forms, rows);
    let body = match forms {
        Forms::Same(Form::Text | Form::Bytes) => Body::Bytes(column.gather(rows), forms.clone()),
        _ => values.clone().into_body(),
    };
    let batch = if rows.is_all(column.len()) { batch.with_body_in_place(body) } else { batch.with_body(body) };
    (batch, values)
}

/// The records' values to be worked on, one row for each record, and the batch without them.
pub(crate) fn take(batch: Batch) -> (Batch, Vec<Row>, usize) {
    let batch = if values_of(&batch).is_some() { batch } else { batch.into_bytes() };
    let len = batch.len();
    let places = batch.body().1.clone();
    if let Some((column, forms, rows)) = batch.values() {
        let values = Values::of_bytes(column, forms, rows);
        let size = values.0.size;
        let rows = Arc::try_unwrap(values.0).map(|inner| inner.rows).unwrap_or_default();
        return (batch.with_body(Hollow::body(len)), rows, size);
    }
    let Some(values) = values_of(&batch).cloned() else { return (batch, Vec::new(), 0) };
    let size = values.0.size.checked_div(values.0.rows.len()).unwrap_or(0) * len;
    let batch = batch.with_body(Hollow::body(len));
    let rows = match Arc::try_unwrap(values.0) {
        Ok(inner) if places.is_all(inner.rows.len()) => inner.rows,
        Ok(mut inner) if increasing(&places) => {
            places.iter().map(|row| inner.rows.get_mut(row).map(std::mem::take).unwrap_or_default()).collect()
        }
        Ok(inner) => places.iter().map(|row| inner.rows.get(row).cloned().unwrap_or_default()).collect(),
        Err(shared) => places.iter().map(|row| shared.rows.get(row).cloned().unwrap_or_default()).collect(),
    };
    (batch, rows, size)
}

/// Whether no row is picked twice, as far as one look at each tells.
fn increasing(rows: &Rows) -> bool {
    rows.iter().zip(rows.iter().skip(1)).all(|(one, next)| one < next)
}

fn values_of(batch: &Batch) -> Option<&Values> {
    match batch.body().0 {
        Body::Parsed(parsed) => parsed.as_any().downcast_ref(),
        Body::Bytes(..) => None,
    }
}

/// Stands in for a body while a step works on its rows.
#[derive(Debug)]
struct Hollow(usize);

impl Hollow {
    fn body(len: usize) -> Body {
        Body::Parsed(Arc::new(Hollow(len)))
    }
}

impl Parsed for Hollow {
    fn len(&self) -> usize {
        self.0
    }

    fn size(&self) -> usize {
        0
    }

    fn encode(&self, rows: &Rows) -> (Column, Forms) {
        let mut column = ColumnBuilder::default();
        column.pad(rows.len());
        (column.finish(), Forms::Same(Form::Bytes))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
