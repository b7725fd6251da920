//! `route`: sends each record where it belongs.

use std::{cell::RefCell, sync::Arc};

use millstream_core::{
    Batch, Component, Error, ErrorKind, Form, Output, PlanContext, Planner, Result, Step, StepPlan, Transform,
    each_row, parse_options,
};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;

use crate::{
    machine::Machine,
    named::{Expression, Named},
    needs::Needs,
    program::Program,
    value::open,
};

/// The component.
pub(crate) const COMPONENT: Component = Component {
    name: "route",
    summary: "Sends each record to the output whose condition it fits.",
    schema,
    planner: Planner::Step(plan),
    schemes: &[],
    from_url: None,
    example: "route: { to: { big: '.total > 1000', small: '.total <= 1000' } }",
};

/// The output for what fits none.
const REST: &str = "rest";

/// Sends each record to an output by conditions. What fits none of them leaves by the output `rest`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Outputs with their conditions, tried in this order.
    to: Named<Expression>,
    /// Whether a record goes to the first output that it fits, or to all of them.
    #[serde(default, rename = "match")]
    matching: Match,
    /// `drop`: nobody needs to read `rest`; what goes there counts as filtered.
    #[serde(default)]
    rest: Option<Rest>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Match {
    /// The first output that it fits.
    #[default]
    First,
    /// Every output that it fits.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Rest {
    /// It is left out.
    Drop,
}

fn schema() -> Schema {
    schema_for!(Options)
}

fn plan(options: &serde_json::Value, context: &PlanContext) -> Result<Box<dyn StepPlan>> {
    let options: Options = parse_options(options)?;
    if options.to.0.is_empty() {
        return Err(Error::new(ErrorKind::Option, "there is no output")
            .hint("name one: `to: { big: '.total > 1000' }`")
            .within("to"));
    }
    let mut conditions = Vec::with_capacity(options.to.0.len());
    for (name, Expression(source)) in options.to.0 {
        let place = |error: Error| error.within(name.as_str()).within("to");
        if name == REST || name.is_empty() || name.contains('.') {
            let error = Error::new(ErrorKind::Option, format!("an output cannot be called `{name}`"));
            return Err(place(error.hint("`rest` is what fits no other output; a name has no dots")));
        }
        conditions.push((name.clone(), Arc::new(Program::condition(&source, context).map_err(place)?)));
    }
    Ok(Box::new(Plan { conditions, all: options.matching == Match::All, rest: options.rest, form: context.form }))
}

#[derive(Debug)]
struct Plan {
    conditions: Vec<(String, Arc<Program>)>,
    all: bool,
    rest: Option<Rest>,
    form: Form,
}

impl StepPlan for Plan {
    fn outputs(&self) -> Vec<String> {
        self.conditions.iter().map(|(name, _)| name.clone()).chain([REST.to_owned()]).collect()
    }

    fn optional_outputs(&self) -> Vec<String> {
        self.rest.iter().map(|Rest::Drop| REST.to_owned()).collect()
    }

    fn form(&self) -> Form {
        self.form
    }

    fn deterministic(&self) -> bool {
        self.conditions.iter().all(|(_, program)| program.deterministic())
    }

    fn create(&self) -> Result<Step> {
        let programs = || self.conditions.iter().map(|(_, program)| program);
        let needs = programs().fold(Needs::of([]), |needs, program| needs.and(&program.needs));
        let machines = programs().map(|program| Machine::new(program.clone())).collect();
        Ok(Step::Transform(Box::new(Route { machines, needs, all: self.all })))
    }
}

struct Route {
    machines: Vec<Machine>,
    needs: Needs,
    all: bool,
}

impl Transform for Route {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        let (batch, values) = open(batch);
        let rows = batch.body().1;
        let rest = self.machines.len();
        let mut ports: Vec<Vec<u32>> = vec![Vec::new(); rest + 1];
        let mut fits = Vec::new();
        let mut created = 0;
        let failed: RefCell<Vec<(usize, Error)>> = RefCell::default();
        each_row(
            batch.len(),
            |at| {
                let record = batch.get(at);
                fits.clear();
                let found = values.value(rows.get(at), &self.needs).and_then(|value| {
                    for (port, machine) in self.machines.iter_mut().enumerate() {
                        if machine.test(value, &record)? {
                            fits.push(port);
                            if !self.all {
                                break;
                            }
                        }
                    }
                    Ok(())
                });
                match found {
                    Err(error) => failed.borrow_mut().push((at, error)),
                    Ok(()) if fits.is_empty() => ports[rest].push(at as u32),
                    Ok(()) => {
                        created += fits.len() - 1;
                        fits.iter().for_each(|&port| ports[port].push(at as u32));
                    }
                }
            },
            |at, error| failed.borrow_mut().push((at, error)),
        );
        out.created(created);
        for (at, error) in failed.into_inner() {
            out.fail(&batch, at, error);
        }
        for (port, picks) in ports.into_iter().enumerate() {
            match picks.len() {
                0 => {}
                all if all == batch.len() => out.emit(port, batch.clone()),
                _ => out.emit(port, batch.select(picks)),
            }
        }
    }
}
