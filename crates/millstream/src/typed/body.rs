//! Values of a Rust type as the body of a batch.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use millstream_core::{
    Batch, Body, Column, ColumnBuilder, Error, ErrorKind, Form, Forms, Output, Parsed, Result, Rows, try_each_record,
};
use serde::Serialize;

use super::Data;
use crate::failure::contained;

/// Values of type `T`, one a row: the body of a batch of a typed pipeline. Made by typed steps, and by the
/// [`SourcePlan`](millstream_core::SourcePlan) of a typed source of your own.
///
/// People and byte sinks see the values as JSON (as MessagePack where JSON cannot say them); a record that waits is saved as
/// MessagePack with names.
pub struct Typed<T> {
    rows: Vec<T>,
    size: OnceLock<usize>,
}

impl<T: Data> Typed<T> {
    /// A body of these values.
    pub fn body(rows: Vec<T>) -> Body {
        Body::Parsed(Arc::new(Typed { rows, size: OnceLock::new() }))
    }

    /// The values.
    pub fn rows(&self) -> &[T] {
        &self.rows
    }

    /// The values, to be changed in their places.
    pub(super) fn rows_mut(&mut self) -> &mut [T] {
        self.size = OnceLock::new();
        &mut self.rows
    }
}

impl<T> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.rows.len(), std::any::type_name::<T>())
    }
}

impl<T: Data> Parsed for Typed<T> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    /// Exact for types that own nothing; for others what a few of the values take when written down stands for all.
    fn size(&self) -> usize {
        let inline = self.rows.len() * size_of::<T>();
        if !std::mem::needs_drop::<T>() {
            return inline;
        }
        *self.size.get_or_init(|| {
            let samples = [0, self.rows.len() / 2];
            let written = samples.iter().filter_map(|&row| self.rows.get(row)).map(written_bytes).sum::<usize>();
            inline + written / samples.len() * self.rows.len()
        })
    }

    fn encode(&self, rows: &Rows) -> (Column, Forms) {
        let mut column = ColumnBuilder::with_capacity(rows.len(), 16 * rows.len());
        let (mut forms, mut shown) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows.iter() {
            let form = self.rows.get(row).and_then(|value| show(value, &mut shown));
            column.push(form.is_some().then_some(&shown));
            forms.push(form.unwrap_or(Form::Bytes));
        }
        let same = forms.iter().all(|form| *form == Form::Json);
        (column.finish(), if same { Forms::Same(Form::Json) } else { Forms::Each(Arc::new(forms)) })
    }

    fn gather(&self, rows: &Rows) -> Option<Arc<dyn Parsed>> {
        let rows = rows.iter().filter_map(|row| self.rows.get(row)).cloned().collect();
        Some(Arc::new(Typed::<T> { rows, size: OnceLock::new() }))
    }

    fn pack(&self, row: usize) -> Result<Option<Bytes>> {
        self.rows.get(row).map(pack).transpose()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Writes a value as people see it; as MessagePack where JSON cannot say it; `None` if it cannot be written down at all.
fn show<T: Serialize>(value: &T, to: &mut Vec<u8>) -> Option<Form> {
    to.clear();
    let json = contained(|| {
        serde_json::to_writer(&mut *to, value).map_err(|cause| unwritten(cause, "cannot write a value as JSON"))
    });
    if json.is_ok() {
        return Some(Form::Json);
    }
    to.clear();
    to.extend_from_slice(&pack(value).ok()?);
    Some(Form::Bytes)
}

/// A value so that it can be read back.
pub(crate) fn pack<T: Serialize>(value: &T) -> Result<Bytes> {
    let packed = contained(|| {
        rmp_serde::to_vec_named(value).map_err(|cause| unwritten(cause, "cannot write a value down to keep it"))
    });
    packed.map(Bytes::from)
}

fn unwritten(cause: impl std::error::Error + Send + Sync + 'static, message: &str) -> Error {
    Error::new(ErrorKind::Data, message).caused_by(cause)
}

/// Reads back what [`pack`] has written.
pub(crate) fn unpack<T: Data>(bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes).map_err(|cause| {
        Error::new(ErrorKind::Corrupt, format!("cannot read back a saved `{}`", std::any::type_name::<T>()))
            .hint("the type has changed since the record was saved: give new fields a `#[serde(default)]`")
            .caused_by(cause)
    })
}

/// Bytes of a value as it is saved.
pub(crate) fn written_bytes<T: Serialize>(value: &T) -> usize {
    /// Counts what is written to it.
    struct Count(usize);

    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    // A value that cannot be written has the size of what could be.
    let _ = catch_unwind(AssertUnwindSafe(|| rmp_serde::encode::write_named(&mut count, value)));
    count.0
}

/// The batch with values of `T`: as it is, or read back where its records come from the saved state. What cannot be read
/// fails.
pub(crate) fn typed<T: Data>(batch: Batch, out: &mut Output) -> Option<Batch> {
    match batch.body().0 {
        Body::Parsed(parsed) if parsed.as_any().is::<Typed<T>>() => return Some(batch),
        Body::Parsed(parsed) => {
            // The builder proves the types, so this is ours.
            let what = format!("a step of `{}` got {parsed:?}", std::any::type_name::<T>());
            let error = Error::new(ErrorKind::Bug, what);
            (0..batch.len()).for_each(|row| out.fail(&batch, row, error.clone()));
            return None;
        }
        Body::Bytes(..) => {}
    }
    let mut values = Vec::with_capacity(batch.len());
    let failed = try_each_record(&batch, |_, record| {
        values.push(unpack::<T>(record.value().unwrap_or_default())?);
        Ok(())
    });
    out.fail_rows(&batch, failed).map(|good| good.with_body(Typed::body(values)))
}
