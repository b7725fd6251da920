//! A step that lets everything pass, and `filter`, by which taps choose.

use millstream_core::{
    Batch, Component, Error, ErrorKind, Form, Output, PlanContext, Planner, Registry, Result, Step, StepPlan, Transform,
};
use serde_json::Value;

#[derive(Debug)]
pub(crate) struct Passing;

impl StepPlan for Passing {
    fn form(&self) -> Form {
        Form::Text
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Transform(Box::new(Pass)))
    }
}

struct Pass;

impl Transform for Pass {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        out.emit(0, batch);
    }
}

/// Keeps values that hold a text, and fails for those that hold `bad`.
#[derive(Debug)]
struct Holding(String);

impl StepPlan for Holding {
    fn form(&self) -> Form {
        Form::Text
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Transform(Box::new(Hold(self.0.clone()))))
    }
}

struct Hold(String);

impl Transform for Hold {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        let batch = batch.into_bytes();
        let mut picks = Vec::new();
        for row in 0..batch.len() {
            let value = String::from_utf8_lossy(batch.get(row).value().unwrap_or_default()).into_owned();
            match value.contains("bad") {
                true => out.fail(&batch, row, Error::new(ErrorKind::Data, format!("cannot look into `{value}`"))),
                false if value.contains(&self.0) => picks.push(row as u32),
                false => out.filtered(1),
            }
        }
        out.emit(0, batch.select(picks));
    }
}

fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn StepPlan>> {
    let text = options.as_str().unwrap_or_default();
    match text.contains('(') {
        true => Err(Error::new(ErrorKind::Syntax, "a bracket is open")),
        false => Ok(Box::new(Holding(text.to_owned()))),
    }
}

pub(crate) fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.add(Component {
        name: "filter",
        summary: "Keeps values that hold a text.",
        schema: schemars::Schema::default,
        planner: Planner::Step(plan),
        schemes: &[],
        from_url: None,
        example: "filter: text",
    });
    registry
}
