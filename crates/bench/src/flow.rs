//! In-process: source, map, drop. What the engine costs where the work is nothing.

use std::hint::black_box;

use anyhow::{Result, ensure};
use millstream::{Raw, Stream};
use millstream_core::{Batch, Body, Column, Extent, Form, Output, Step, StepPlan, Transform};

use crate::{
    data,
    harness::{Contender, ROUNDS, Table, compete},
    parts::{Blocks, RECORD_BYTES, dropped, pipeline, run as run_pipeline},
};

/// Bytes that the map takes off the front of each record.
pub(crate) const CUT_BYTES: usize = 10;
/// Bytes of the buffers of the limits.
const BUFFER_BYTES: usize = 64 << 10;
/// Records of each run.
const RECORDS: u64 = 40_000_000;
/// Records of each batch: a block of 256 KiB, as connectors read it.
const BATCH_RECORDS: usize = (256 << 10) / RECORD_BYTES;

/// Measures the case.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    let folder = data::folder()?;
    let flow = |name: &str, step: fn(Stream<Raw>) -> Stream<Raw>| {
        let blocks = Blocks::plain(BATCH_RECORDS, RECORDS / BATCH_RECORDS as u64);
        let records = blocks.records();
        let pipeline = step(pipeline(name, folder.path()).source_of(blocks)).sink("drop:");
        move || {
            let summary = run_pipeline(&pipeline)?;
            ensure!(dropped(&summary) == records, "{} of {records} records came through", dropped(&summary));
            Ok(records)
        }
    };
    let buffer = data::letters(BUFFER_BYTES);
    let block = data::letters(BATCH_RECORDS * RECORD_BYTES);
    let contenders = vec![
        Contender::new("ours by slice", flow("flow-slice", |records| records.step_of(CutFront))),
        Contender::new("direct calls", || Ok(direct(&buffer, RECORDS))),
        Contender::new("ours copying", flow("flow-copy", |records| records.map(copy))),
        Contender::new("memcpy loop", || Ok(copying(&block, RECORDS))),
        #[cfg(feature = "peers")]
        Contender::new("timely", || Ok(crate::peers::dataflow::flow(&buffer, RECORDS / 10, CUT_BYTES))),
    ];
    let rates = compete(ROUNDS, contenders)?;
    table.ratio("in-process, map by slice", &rates[0], &rates[1], 0.35);
    rates[4..].iter().for_each(|timely| table.ratio("  against owned records", &rates[0], timely, 4.0));
    table.ratio("in-process, map that copies", &rates[2], &rates[3], 0.6);
    Ok(())
}

/// Takes bytes off the front of each value: new extents over the same buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutFront;

impl StepPlan for CutFront {
    fn form(&self) -> Form {
        Form::Bytes
    }

    fn create(&self) -> millstream::Result<Step> {
        Ok(Step::Transform(Box::new(*self)))
    }
}

impl Transform for CutFront {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        let Some((column, forms, rows)) = batch.values() else { return };
        let column = column.gather(rows);
        let cut = |extent: &Extent| Extent { start: extent.start.saturating_add(CUT_BYTES as u32), end: extent.end };
        let extents = column.extents().iter().map(cut).collect();
        let body = Body::Bytes(Column::new(column.data().clone(), extents), forms.clone());
        out.emit(0, batch.clone().with_body(body));
    }
}

fn copy(record: millstream::RecordRef<'_>, value: &mut millstream::Value<'_>) -> millstream::Result<()> {
    if let Some(rest) = record.value().and_then(|value| value.get(CUT_BYTES..)) {
        value.extend_from_slice(rest);
    }
    Ok(())
}

/// Three functions that call each other with slices of a buffer.
fn direct(buffer: &[u8], records: u64) -> u64 {
    let (mut done, mut bytes) = (0, 0);
    while done < records {
        for record in buffer.chunks_exact(RECORD_BYTES) {
            forget(cut(black_box(record)), &mut bytes);
            done += 1;
        }
    }
    black_box(bytes);
    done
}

#[inline(never)]
fn cut(record: &[u8]) -> &[u8] {
    record.get(CUT_BYTES..).unwrap_or_default()
}

#[inline(never)]
fn forget(record: &[u8], bytes: &mut u64) {
    *bytes += record.len() as u64;
}

/// Copies the same bytes record by record into a buffer, over and over.
fn copying(block: &[u8], records: u64) -> u64 {
    let (mut done, mut to) = (0, Vec::with_capacity(block.len()));
    while done < records {
        to.clear();
        for record in block.chunks_exact(RECORD_BYTES) {
            to.extend_from_slice(record.get(CUT_BYTES..).unwrap_or_default());
            done += 1;
        }
        black_box(&mut to);
    }
    done
}
