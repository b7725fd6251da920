//! Containing panics of user code to the record that caused them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Batch, Column, Error, ErrorKind, RecordRef, Result};

/// Calls `handle` for `0..rows`, in order, inside one catch. A panic condemns exactly its row: `condemn` gets it with the
/// cause, and the rows behind it are handled as if nothing had been.
pub fn each_row(rows: usize, mut handle: impl FnMut(usize), mut condemn: impl FnMut(usize, Error)) {
    let mut row = 0;
    while row < rows {
        let first = row;
        let caught = catch_unwind(AssertUnwindSafe(|| {
            for next in first..rows {
                row = next;
                handle(next);
            }
            row = rows;
        }));
        if let Err(panic) = caught {
            condemn(row, panicked(&*panic));
            row += 1;
        }
    }
}

/// The same for the records of a batch and a handler that can fail: answers with the rows that failed or panicked, in
/// order, each with its cause.
#[inline]
pub fn try_each_record<'a>(
    batch: &'a Batch,
    mut handle: impl FnMut(usize, RecordRef<'a>) -> Result<()>,
) -> Vec<(u32, Error)> {
    let mut failed = Vec::new();
    let mut row = 0;
    while row < batch.len() {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            batch.records().each(row, std::iter::repeat(()), |next, record, ()| {
                row = next;
                if let Err(error) = handle(next, record) {
                    failed.push((next as u32, error));
                }
            });
            row = batch.len();
        }));
        if let Err(panic) = caught {
            failed.push((row as u32, panicked(&*panic)));
            row += 1;
        }
    }
    failed
}

/// The end of a value that is not written yet.
const UNWRITTEN: u32 = u32::MAX;

/// New values for the records of a batch, which `write` appends to one buffer, inside one catch. The column has a row for
/// each record that did not fail; those that failed or panicked are answered with their causes.
///
/// A small value is copied in a few nanoseconds, so the loop does for each row what cannot be done for all, and no more:
/// it notes where the value ends.
#[inline]
pub fn try_map_values<'a>(
    batch: &'a Batch,
    mut write: impl FnMut(RecordRef<'a>, &mut Vec<u8>) -> Result<()>,
) -> (Column, Vec<(u32, Error)>) {
    let mut data = Vec::with_capacity(batch.value_bytes());
    let mut ends = vec![UNWRITTEN; batch.len()];
    let mut failed = Vec::new();
    let mut row = 0;
    while row < ends.len() {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            batch.records().each(row, ends[row..].iter_mut(), |row, record, end| {
                if let Err(error) = write(record, &mut data) {
                    failed.push((row as u32, error));
                }
                *end = data.len().min(Column::FAR) as u32;
            });
        }));
        let Err(panic) = caught else { break };
        row += ends[row..].iter().take_while(|end| **end != UNWRITTEN).count();
        failed.push((row as u32, panicked(&*panic)));
        // What it wrote lies between its neighbours.
        ends[row] = data.len().min(Column::FAR) as u32;
        row += 1;
    }
    (Column::touching(data.into(), &ends, failed.iter().map(|(row, _)| *row as usize)), failed)
}

/// The error for a caught panic.
pub fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::new(ErrorKind::Panic, format!("user code panicked: {}", text.unwrap_or("no message")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, Form, ShardKey};

    fn batch(values: &[&str]) -> Batch {
        let mut builder = BatchBuilder::new();
        for (i, value) in values.iter().enumerate() {
            builder.push_value(&ShardKey::new("s", 0), i as u128, None, Form::Text, None, Some(value.as_bytes()));
        }
        builder.finish()
    }

    fn mapped(batch: &Batch) -> (Vec<String>, Vec<u32>) {
        let (column, failed) = try_map_values(batch, |record, out| {
            let value = record.value().unwrap_or_default();
            out.extend_from_slice(value);
            match value {
                b"error" => Err(Error::new(ErrorKind::Decode, "no")),
                b"panic" => panic!("no"),
                _ => {
                    out.push(b'!');
                    Ok(())
                }
            }
        });
        let text = |row| String::from_utf8(column.get(row).unwrap().to_vec()).unwrap();
        let values: Vec<String> = (0..column.len()).map(text).collect();
        assert_eq!(column.bytes(&crate::Rows::all(column.len())), values.iter().map(String::len).sum::<usize>());
        (values, failed.iter().map(|(row, _)| *row).collect())
    }

    #[test]
    fn what_a_failed_row_wrote_is_in_no_value() {
        let all = batch(&["panic", "a", "error", "", "panic", "panic", "b", "error"]);
        assert_eq!(mapped(&all), (vec!["a!".to_owned(), "!".to_owned(), "b!".to_owned()], vec![0, 2, 4, 5, 7]));
        assert_eq!(
            mapped(&all.select(vec![6, 4, 1, 6])),
            (vec!["b!".to_owned(), "a!".to_owned(), "b!".to_owned()], vec![1])
        );
        assert_eq!(mapped(&all.slice(6, 7)), (vec!["b!".to_owned()], vec![]));
        assert_eq!(mapped(&all.slice(4, 6)), (vec![], vec![0, 1]));
        assert_eq!(mapped(&all.slice(0, 0)), (vec![], vec![]));
    }

    #[test]
    fn a_panic_costs_its_record_only() {
        let all = batch(&["a", "panic", "b"]);
        let mut seen = Vec::new();
        let failed = try_each_record(&all, |row, record| {
            assert_ne!(record.value(), Some(&b"panic"[..]));
            seen.push(row);
            Ok(())
        });
        assert_eq!((seen, failed.len(), failed[0].0), (vec![0, 2], 1, 1));
    }
}
