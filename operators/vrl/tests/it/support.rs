//! Runs steps without a runtime.

use std::{
    future::Future,
    task::{Context, Poll, Waker},
};

use millstream_core::{
    Batch, BatchBuilder, Error, Form, Operator, Output, PlanContext, Planner, Record, Result, Step, StepCounts,
    StepPlan, Timestamp,
};
use serde_json::Value;

/// Plans a step for values of a form.
pub(crate) fn plan(name: &str, options: Value, context: &PlanContext) -> Result<Box<dyn StepPlan>> {
    let component = millstream_vrl::components().into_iter().find(|component| component.name == name).unwrap();
    let Planner::Step(plan) = component.planner else { panic!("{name} is no step") };
    plan(&options, context)
}

/// What a step is told of values of a form.
pub(crate) fn context(form: Form) -> PlanContext {
    let vars = [("MIN", "10"), ("NAME", "x")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    PlanContext { form, vars: vars.into(), ..PlanContext::default() }
}

/// Records with these values.
pub(crate) fn records<'a>(form: Form, values: impl IntoIterator<Item = &'a str>) -> Vec<Record> {
    let record = |(sequence, value): (usize, &str)| Record {
        sequence: sequence as u128,
        form,
        ..Record::new("orders", value.to_owned())
    };
    values.into_iter().enumerate().map(record).collect()
}

pub(crate) fn batch(records: &[Record]) -> Batch {
    let mut builder = BatchBuilder::new();
    records.iter().for_each(|record| builder.push(record));
    builder.finish()
}

/// What came of records.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Records by output, as bytes.
    pub(crate) out: Vec<Vec<Record>>,
    /// Failed records with their errors.
    pub(crate) failed: Vec<(Record, Error)>,
    pub(crate) counts: StepCounts,
    pub(crate) batches: Vec<(usize, Batch)>,
}

impl Outcome {
    pub(crate) fn take(output: &mut Output) -> Self {
        let mut outcome =
            Outcome { batches: output.take_batches(), counts: output.take_counts(), ..Outcome::default() };
        for failed in output.take_failed() {
            let batch = failed.record.into_bytes();
            assert_eq!(batch.len(), 1);
            outcome.failed.push((batch.get(0).to_record(), failed.error));
        }
        for (port, batch) in &outcome.batches {
            if outcome.out.len() <= *port {
                outcome.out.resize(port + 1, Vec::new());
            }
            let batch = batch.clone().into_bytes();
            outcome.out[*port].extend(batch.iter().map(|record| record.to_record()));
        }
        outcome
    }

    /// Values on an output, as text.
    pub(crate) fn values(&self, port: usize) -> Vec<String> {
        let all = self.out.get(port).map(Vec::as_slice).unwrap_or_default();
        all.iter().map(|record| text(record.value.as_deref().unwrap_or(b"<absent>"))).collect()
    }

    /// Messages of the errors.
    pub(crate) fn errors(&self) -> Vec<&str> {
        self.failed.iter().map(|(_, error)| error.message()).collect()
    }

    /// in + created = out + filtered + absorbed + failed
    pub(crate) fn assert_balance(&self, given: usize) {
        let out: usize = self.out.iter().map(Vec::len).sum();
        let (had, told) = (
            given as u64 + self.counts.created,
            out as u64 + self.counts.filtered + self.counts.absorbed + self.failed.len() as u64,
        );
        assert_eq!(had, told, "the books do not balance: {:?}, {out} out, {} failed", self.counts, self.failed.len());
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A step that is running.
pub(crate) struct Running(Step);

impl Running {
    pub(crate) fn new(plan: &dyn StepPlan) -> Self {
        Running(plan.create().unwrap())
    }

    pub(crate) fn apply(&mut self, batch: Batch) -> Outcome {
        let given = batch.len();
        let mut output = Output::default();
        match &mut self.0 {
            Step::Transform(transform) => transform.apply(batch, &mut output),
            Step::Operator(operator) => now(operator.process(0, batch, &mut output)).unwrap(),
        }
        let outcome = Outcome::take(&mut output);
        outcome.assert_balance(given);
        outcome
    }

    pub(crate) fn operator(&mut self) -> &mut dyn Operator {
        match &mut self.0 {
            Step::Operator(operator) => &mut **operator,
            Step::Transform(_) => panic!("no operator"),
        }
    }

    pub(crate) fn end(&mut self) -> Outcome {
        let mut output = Output::default();
        now(self.operator().end(&mut output)).unwrap();
        let outcome = Outcome::take(&mut output);
        outcome.assert_balance(0);
        outcome
    }
}

/// Runs a step on values of a form.
pub(crate) fn run<'a>(
    name: &str,
    options: impl Into<Value>,
    form: Form,
    values: impl IntoIterator<Item = &'a str>,
) -> Outcome {
    run_records(name, options, form, &records(form, values))
}

pub(crate) fn run_records(name: &str, options: impl Into<Value>, form: Form, records: &[Record]) -> Outcome {
    let plan = plan(name, options.into(), &context(form)).unwrap();
    Running::new(&*plan).apply(batch(records))
}

/// The error with which a step is refused.
pub(crate) fn refused(name: &str, options: impl Into<Value>, form: Form) -> Error {
    plan(name, options.into(), &context(form)).unwrap_err()
}

/// One JSON value through `map`.
pub(crate) fn mapped(program: &str, value: &str) -> String {
    let outcome = run("map", program, Form::Json, [value]);
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    outcome.values(0).remove(0)
}

/// Runs something that never waits.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("a step waited"),
    }
}

pub(crate) fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}
