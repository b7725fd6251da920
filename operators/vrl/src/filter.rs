//! `filter`: lets through what fits.

use std::{cell::RefCell, sync::Arc};

use millstream_core::{
    Batch, Component, Error, Form, Output, PlanContext, Planner, Result, Step, StepPlan, Transform, each_row,
    parse_options,
};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;

use crate::{machine::Machine, program::Program, value::open};

/// The component.
pub(crate) const COMPONENT: Component = Component {
    name: "filter",
    summary: "Lets through the records that fit a condition.",
    schema,
    planner: Planner::Step(plan),
    schemes: &[],
    from_url: None,
    example: "filter: '.amount > 0'",
};

/// A condition. Records for which it is `true` go on, those for which it is `false` end here; where it fails, the record
/// follows its error rule.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("format" = "vrl"))]
struct Options(String);

fn schema() -> Schema {
    schema_for!(Options)
}

fn plan(options: &serde_json::Value, context: &PlanContext) -> Result<Box<dyn StepPlan>> {
    let options: Options = parse_options(options)?;
    Ok(Box::new(Plan { program: Arc::new(Program::condition(&options.0, context)?), form: context.form }))
}

#[derive(Debug)]
struct Plan {
    program: Arc<Program>,
    form: Form,
}

impl StepPlan for Plan {
    fn form(&self) -> Form {
        self.form
    }

    fn deterministic(&self) -> bool {
        self.program.deterministic()
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Transform(Box::new(Filter { machine: Machine::new(self.program.clone()) })))
    }
}

struct Filter {
    machine: Machine,
}

impl Transform for Filter {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        let (batch, values) = open(batch);
        let rows = batch.body().1;
        let mut picks: Vec<u32> = Vec::with_capacity(batch.len());
        let failed: RefCell<Vec<(usize, Error)>> = RefCell::default();
        each_row(
            batch.len(),
            |at| {
                let value = values.value(rows.get(at), self.machine.needs());
                let test = value.and_then(|value| self.machine.test(value, &batch.get(at)));
                match test {
                    Ok(true) => picks.push(at as u32),
                    Ok(false) => {}
                    Err(error) => failed.borrow_mut().push((at, error)),
                }
            },
            |at, error| failed.borrow_mut().push((at, error)),
        );
        let failed = failed.into_inner();
        out.filtered(batch.len() - picks.len() - failed.len());
        for (at, error) in failed {
            out.fail(&batch, at, error);
        }
        out.emit(0, if picks.len() == batch.len() { batch } else { batch.select(picks) });
    }
}
