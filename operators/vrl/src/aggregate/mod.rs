//! `aggregate`: counts, sums and the like, for each key.

mod cell;
mod function;
mod operator;

use std::sync::Arc;

use millstream_core::{Component, Error, ErrorKind, Form, PlanContext, Planner, Result, Step, StepPlan, parse_options};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;

use crate::{
    named::{Expression, Named},
    program::Program,
};
use function::Function;

/// The component.
pub(crate) const COMPONENT: Component = Component {
    name: "aggregate",
    summary: "Computes counts, sums and the like, for each key.",
    schema,
    planner: Planner::Step(plan),
    schemes: &[],
    from_url: None,
    example: "aggregate: { key: .word, fields: { count: count(), total: sum(.amount) }, emit: end }",
};

/// Computes functions of all records that have the same key, and gives `{"key": ..., <fields>}` for each key. The result's
/// own key is the key as text (as JSON if it is an object or array).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// What records belong together by. Keys are equal by JSON type and value; `'[.a, .b]'` is compound.
    key: Expression,
    /// Fields of the result with their functions: `count()`, `sum(.x)`, `min(.x)`, `max(.x)`, `mean(.x)`.
    fields: Named<Expression>,
    /// When results are given.
    emit: Emit,
    /// What becomes of records whose key is null or missing. Default: a data error.
    #[serde(default)]
    null_key: Option<NullKey>,
}

/// When results are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Emit {
    /// Once, when the input has ended, in the order in which the keys were first seen.
    End,
    /// As soon as they change: the new value of each key that changed, once for each batch.
    Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum NullKey {
    /// They pass as they are.
    Pass,
}

fn schema() -> Schema {
    schema_for!(Options)
}

fn plan(options: &serde_json::Value, context: &PlanContext) -> Result<Box<dyn StepPlan>> {
    let options: Options = parse_options(options)?;
    let key = Program::expression(&options.key.0, context).map_err(|error| error.within("key"))?;
    if options.fields.0.is_empty() {
        let error = Error::new(ErrorKind::Option, "there is nothing to compute");
        return Err(error.hint("name a field: `fields: { count: count() }`").within("fields"));
    }
    let mut fields = Vec::with_capacity(options.fields.0.len());
    for (name, Expression(source)) in options.fields.0 {
        let place = |error: Error| error.within(name.as_str()).within("fields");
        if name == "key" {
            let error = Error::new(ErrorKind::Option, "a field cannot be called `key`");
            return Err(place(error.hint("`key` holds the key itself")));
        }
        fields.push((name.clone(), Function::parse(&source, context).map_err(place)?));
    }
    let pass_null = options.null_key == Some(NullKey::Pass);
    Ok(Box::new(Plan { key: Arc::new(key), fields, emit: options.emit, pass_null }))
}

#[derive(Clone, Debug)]
struct Plan {
    key: Arc<Program>,
    fields: Vec<(String, Function)>,
    emit: Emit,
    pass_null: bool,
}

impl StepPlan for Plan {
    fn form(&self) -> Form {
        Form::Json
    }

    fn stateful(&self) -> bool {
        true
    }

    fn needs_end(&self) -> bool {
        self.emit == Emit::End
    }

    fn deterministic(&self) -> bool {
        let arguments = self.fields.iter().filter_map(|(_, function)| function.argument.as_ref());
        arguments.chain([&self.key]).all(|program| program.deterministic())
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Operator(Box::new(operator::Aggregate::new(self))))
    }
}
