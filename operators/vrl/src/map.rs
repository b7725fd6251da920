//! `map`: sets, changes and deletes fields, or makes another value.

use std::{cell::RefCell, sync::Arc};

use millstream_core::{
    Batch, Component, Error, ErrorKind, Form, Output, PlanContext, Planner, Result, Step, StepPlan, Transform,
    each_row, parse_options,
};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;
use vrl::{
    compiler::{Context, ExpressionError, state::RuntimeState},
    value::Kind,
};

use crate::{
    fault,
    metadata::Edits,
    needs::{Needs, Wanted},
    program::Program,
    target::Writing,
    value::{Row, Seen, Values, take},
};

/// The component.
pub(crate) const COMPONENT: Component = Component {
    name: "map",
    summary: "Sets, changes and deletes fields, or makes another value.",
    schema,
    planner: Planner::Step(plan),
    schemes: &[],
    from_url: None,
    example: "map: '.total = to_float!(.amount) * 1.19'",
};

/// A program. What it assigns to `.` and the fields below it is the record's new value; `%key`, `%headers` and `%time` can be
/// assigned too. If it fails or aborts, the record follows its error rule and keeps its value.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("format" = "vrl"))]
struct Options(String);

fn schema() -> Schema {
    schema_for!(Options)
}

fn plan(options: &serde_json::Value, context: &PlanContext) -> Result<Box<dyn StepPlan>> {
    let options: Options = parse_options(options)?;
    Ok(Box::new(Plan { program: Arc::new(Program::map(&options.0, context)?), form: context.form }))
}

#[derive(Debug)]
struct Plan {
    program: Arc<Program>,
    form: Form,
}

impl StepPlan for Plan {
    fn form(&self) -> Form {
        let bytes = self.program.value.without_undefined() == Kind::bytes();
        match (bytes, self.form) {
            (true, Form::Bytes) if self.program.facts.assigned.is_empty() => Form::Bytes,
            (true, _) => Form::Text,
            (false, _) => Form::Json,
        }
    }

    fn deterministic(&self) -> bool {
        self.program.deterministic()
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Transform(Box::new(Map::new(self.program.clone()))))
    }
}

struct Map {
    program: Arc<Program>,
    state: RuntimeState,
    target: Writing,
    wanted: Wanted,
    /// What is there of the value that is being worked on.
    needs: Needs,
    sets_metadata: bool,
}

impl Map {
    fn new(program: Arc<Program>) -> Self {
        let mut target = Writing::new(&program.facts.assigned);
        target.metadata = program.metadata.clone();
        let sets_metadata = program.writes.any();
        let wanted = Wanted::new(program.needs.clone());
        Map { program, state: RuntimeState::default(), target, wanted, needs: Needs::All, sets_metadata }
    }

    /// Runs the program on a row. If it fails, the row is as it was before.
    fn run(&mut self, batch: &Batch, at: usize, row: &mut Row, edits: &mut Edits) -> Result<()> {
        let keep = !row.pristine();
        let Seen { value, needs } = row.take_value(&mut self.wanted)?;
        self.needs = needs;
        self.target.begin(value, keep);
        let record = batch.get(at);
        self.program.reads.fill(&mut self.target.metadata, &record);
        if !self.state.is_empty() {
            self.state.clear();
        }
        let mut context = Context::new(&mut self.target, &mut self.state, &self.program.timezone);
        match self.program.compiled.resolve(&mut context) {
            Ok(_) | Err(ExpressionError::Return { .. }) => {}
            Err(error) => {
                self.restore(row);
                let before = row.value(&self.program.needs)?;
                return Err(fault::explain(&self.program.facts, before, &error.to_string()));
            }
        }
        if let Some(fault) = self.target.fault.take() {
            self.restore(row);
            return Err(Error::new(ErrorKind::Data, fault));
        }
        if self.sets_metadata {
            let kept = if self.target.metadata_set {
                edits.set(&self.target.metadata, self.program.writes, &record)
            } else {
                edits.keep(&record);
                Ok(())
            };
            if let Err(error) = kept {
                self.restore(row);
                return Err(error);
            }
        }
        let seen = Seen { value: self.target.finish(), needs: std::mem::take(&mut self.needs) };
        if self.target.changed() {
            let changes = self.target.changes(row.changes());
            row.change(seen, changes);
        } else {
            row.put_back(seen);
        }
        Ok(())
    }

    /// Gives the row back what it had before the program ran: the bytes still lie there, or a copy was kept.
    fn restore(&mut self, row: &mut Row) {
        if let Some(value) = self.target.undo() {
            row.put_back(Seen { value, needs: std::mem::take(&mut self.needs) });
        }
    }
}

impl Transform for Map {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        let (batch, rows, size) = take(batch);
        let len = rows.len();
        let failed: RefCell<Vec<(usize, Error)>> = RefCell::default();
        let work = RefCell::new((self, rows, Edits::default()));
        each_row(
            len,
            |at| {
                let (map, rows, edits) = &mut *work.borrow_mut();
                if let Err(error) = map.run(&batch, at, &mut rows[at], edits) {
                    failed.borrow_mut().push((at, error));
                    edits.keep_up_to(at, &batch);
                }
            },
            |at, error| {
                let (map, rows, edits) = &mut *work.borrow_mut();
                map.restore(&mut rows[at]);
                failed.borrow_mut().push((at, error));
                edits.keep_up_to(at, &batch);
            },
        );
        let (map, mut rows, edits) = work.into_inner();
        let failed = failed.into_inner();
        let mut good: Vec<u32> = Vec::new();
        if !failed.is_empty() {
            let mut next = failed.iter().map(|(at, _)| *at).peekable();
            good = (0..len).filter(|at| next.next_if_eq(at).is_none()).map(|at| at as u32).collect();
        }
        for (at, error) in &failed {
            let row = std::mem::take(&mut rows[*at]);
            let record = batch.slice(*at, at + 1).with_body(Values::new(vec![row], size / len.max(1)).into_body());
            out.fail(&record, 0, error.clone());
        }
        let batch = batch.with_body(Values::new(rows, size).into_body());
        let batch = if map.sets_metadata { edits.apply(batch, map.program.writes) } else { batch };
        out.emit(0, if failed.is_empty() { batch } else { batch.select(good) });
    }
}
