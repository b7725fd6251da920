//! Bytes to values and back.

use millstream_core::{Body, ColumnBuilder, Error, ErrorKind, Form, Forms, Rows, try_each_record};
use std::sync::Arc;

use super::{
    Data,
    children::Children,
    rows::{emit_values, view},
    typed,
};
use crate::{
    Value,
    failure::{Failure, outcome},
    made::Made,
};

/// Bytes to values. A record without a value (a tombstone) fails.
pub(crate) fn decode<T: Data, E: Failure, F>(verb: &'static str, decode: F) -> Made
where
    F: Fn(&[u8]) -> Result<T, E> + Send + Sync + 'static,
{
    Made::transform(verb, decode, |decode, batch, out| {
        let batch = batch.into_bytes();
        let mut values = Vec::with_capacity(batch.len());
        let failed = try_each_record(&batch, |_, record| {
            let bytes = record.value().ok_or_else(tombstone)?;
            let value = outcome(decode(bytes));
            values.push(value.map_err(|error| match error.kind() {
                ErrorKind::Data => error.with_kind(ErrorKind::Decode),
                _ => error,
            })?);
            Ok(())
        });
        emit_values(batch, values, failed, out);
    })
}

fn tombstone() -> Error {
    Error::new(ErrorKind::Decode, "the record has no value").hint("filter tombstones out before they are decoded")
}

/// Bytes to any number of values.
pub(crate) fn split<T: Data, F>(verb: &'static str, split: F) -> Made
where
    F: Fn(&[u8], &mut Vec<T>) -> millstream_core::Result<()> + Send + Sync + 'static,
{
    Made::transform(verb, split, |split, batch, out| {
        let batch = batch.into_bytes();
        let mut children = Children::with_capacity(batch.len());
        let failed = try_each_record(&batch, |row, record| {
            let bytes = record.value().ok_or_else(tombstone)?;
            children.add(row, |values| split(bytes, values))
        });
        children.emit(batch, failed, out);
    })
}

/// Values to bytes of a form.
pub(crate) fn encode<T: Data, E: Failure, F>(verb: &'static str, form: Form, encode: F) -> Made
where
    F: Fn(&T, &mut Value<'_>) -> Result<(), E> + Send + Sync + 'static,
{
    let made = Made::transform(verb, (encode, form), |(encode, form), batch, out| {
        let Some(batch) = typed::<T>(batch, out) else { return };
        let mut column = ColumnBuilder::with_capacity(batch.len(), 64 * batch.len());
        // Rows of the column that were written to their end.
        let mut whole = Vec::with_capacity(batch.len());
        let failed = view::<T>(&batch).each(|_, value| {
            outcome(column.push_with(|bytes| encode(value, &mut Value(bytes))))?;
            whole.push(column.len() as u32 - 1);
            Ok(())
        });
        let mut column = column.finish();
        if whole.len() < column.len() {
            column = column.gather(&Rows::Picked(Arc::new(whole)));
        }
        let good = if failed.is_empty() { Some(batch) } else { out.fail_rows(&batch, failed) };
        if let Some(good) = good {
            out.emit(0, good.with_body(Body::Bytes(column, Forms::Same(*form))));
        }
    });
    Made { form, ..made }
}
