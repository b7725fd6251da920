//! Stateless steps on bytes made of closures.

use bytes::Bytes;
use millstream_core::{Body, Column, Extent, Form, Forms, RecordRef, Result, try_each_record, try_map_values};

use crate::made::Made;

/// Replaces each value.
pub(crate) fn map<F>(map: F) -> Made
where
    F: Fn(RecordRef<'_>, &mut Value<'_>) -> Result<()> + Send + Sync + 'static,
{
    Made::transform("map", map, |map, batch, out| {
        let batch = batch.into_bytes();
        let (values, failed) = try_map_values(&batch, |record, value| map(record, &mut Value(value)));
        let good = if failed.is_empty() { Some(batch) } else { out.fail_rows(&batch, failed) };
        if let Some(batch) = good {
            out.emit(0, batch.with_body(Body::Bytes(values, Forms::Same(Form::Bytes))));
        }
    })
}

/// Keeps some records.
pub(crate) fn filter<F: Fn(RecordRef<'_>) -> bool + Send + Sync + 'static>(keep: F) -> Made {
    Made::transform("filter", keep, |keep, batch, out| {
        let batch = batch.into_bytes();
        let mut kept = Vec::with_capacity(batch.len());
        let failed = try_each_record(&batch, |row, record| {
            if keep(record) {
                kept.push(row as u32);
            }
            Ok(())
        });
        out.filtered(batch.len() - kept.len() - failed.len());
        for (row, error) in failed {
            out.fail(&batch, row as usize, error);
        }
        out.emit(0, if kept.len() == batch.len() { batch } else { batch.select(kept) });
    })
}

/// Replaces each record by any number.
pub(crate) fn flat_map<F: Fn(RecordRef<'_>, &mut Emit<'_>) + Send + Sync + 'static>(map: F) -> Made {
    Made::transform("flat_map", map, |map, batch, out| {
        let batch = batch.into_bytes();
        let Some((column, ..)) = batch.values() else { return };
        let mut emit = Emit { data: column.data(), extents: Vec::new(), own: None, parents: Vec::new(), done: 0 };
        let failed = try_each_record(&batch, |row, record| {
            emit.take_back();
            map(record, &mut emit);
            match emit.end(row as u32) {
                0 => out.filtered(1),
                outputs => out.created(outputs - 1),
            }
            Ok(())
        });
        emit.take_back();
        let Emit { data, extents, own, parents, .. } = emit;
        let values = Column::new(own.map_or_else(|| data.clone(), Bytes::from), extents);
        for (row, error) in failed {
            out.fail(&batch, row as usize, error);
        }
        out.emit(0, batch.clone().derive(parents, Body::Bytes(values, Forms::Same(Form::Bytes))));
    })
}

/// Takes the bytes of one value. Only appends: the buffer behind it holds the values of other records too.
#[derive(Debug)]
pub struct Value<'a>(pub(crate) &'a mut Vec<u8>);

impl Value<'_> {
    /// Appends a byte.
    pub fn push(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

impl Extend<u8> for Value<'_> {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.0.extend(bytes);
    }
}

impl std::io::Write for Value<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Takes the outputs of one record.
#[derive(Debug)]
pub struct Emit<'a> {
    /// The buffer that holds the values of the batch.
    data: &'a Bytes,
    extents: Vec<Extent>,
    /// Values lie here as soon as one of them is not a part of its record's value.
    own: Option<Vec<u8>>,
    parents: Vec<u32>,
    /// Outputs of records that are done.
    done: usize,
}

impl Emit<'_> {
    /// Emits a record with this value, and key, headers and time of its parent. A part of the parent's value is not copied.
    pub fn value(&mut self, value: &[u8]) {
        let own = match &mut self.own {
            Some(own) => own,
            None => {
                // Addresses are only compared: a slice of the batch's buffer lies between its ends.
                let start = (value.as_ptr() as usize).wrapping_sub(self.data.as_ptr() as usize);
                if start.checked_add(value.len()).is_some_and(|end| end <= self.data.len()) {
                    self.extents.push(extent(start, value.len()));
                    return;
                }
                self.own_from_here()
            }
        };
        let start = own.len();
        own.extend_from_slice(value);
        self.extents.push(extent(start, value.len()));
    }

    /// Copies what was emitted so far to a buffer of its own.
    fn own_from_here(&mut self) -> &mut Vec<u8> {
        let mut own = Vec::with_capacity(self.data.len());
        for extent in &mut self.extents {
            let start = own.len();
            own.extend_from_slice(self.data.get(extent.start as usize..extent.end as usize).unwrap_or_default());
            *extent = self::extent(start, own.len() - start);
        }
        self.own.insert(own)
    }

    /// Forgets the outputs of a record that panicked.
    fn take_back(&mut self) {
        self.extents.truncate(self.done);
    }

    /// The record at `row` is done; answers with the number of its outputs.
    fn end(&mut self, row: u32) -> usize {
        let outputs = self.extents.len() - self.done;
        self.done = self.extents.len();
        self.parents.resize(self.done, row);
        outputs
    }
}

/// A batch's buffers are far below 4 GiB; beyond that a value reads as absent.
fn extent(start: usize, len: usize) -> Extent {
    match (u32::try_from(start), u32::try_from(start + len)) {
        (Ok(start), Ok(end)) => Extent { start, end },
        _ => Extent::ABSENT,
    }
}
