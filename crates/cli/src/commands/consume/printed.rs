//! A step that turns each record into the line that shows it, for `--decode json`.

use std::sync::Arc;

use millstream::{
    core::{Batch, Body, Column, ColumnBuilder, Form, Forms, Output, Result, Step, StepPlan, Transform},
    runtime::Entry,
};
use millstream_codec::print::{Format, Printer};

/// The step.
pub(super) fn step(format: Format) -> Entry<dyn StepPlan> {
    Entry::ready(Arc::new(Print(Printer { format, decode_json: true, ..Printer::default() })))
}

#[derive(Debug)]
struct Print(Printer);

impl StepPlan for Print {
    fn form(&self) -> Form {
        Form::Text
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Transform(Box::new(Printing(self.0))))
    }
}

struct Printing(Printer);

impl Transform for Printing {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        let batch = batch.into_bytes();
        let (mut line, mut failed) = (Vec::new(), Vec::new());
        let mut column = ColumnBuilder::default();
        for (row, record) in batch.iter().enumerate() {
            line.clear();
            match self.0.print(&record, &mut line) {
                Ok(()) => column.push(Some(line.strip_suffix(b"\n").unwrap_or(&line))),
                Err(error) => failed.push((row as u32, error)),
            }
        }
        let Some(good) = out.fail_rows(&batch, failed) else { return };
        let column: Column = column.finish();
        out.emit(0, good.with_body(Body::Bytes(column, Forms::Same(Form::Text))));
    }
}
