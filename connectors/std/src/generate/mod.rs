//! `generate`: records made up, at a rate or as fast as they are taken.

mod source;
mod template;

use std::sync::Arc;

use millstream_core::{
    Component, Error, ErrorKind, Form, PlanContext, Planner, Result, Source, SourceCapabilities, SourcePlan,
    parse_options,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use source::GenerateSource;
use template::Template;

/// Options of the source `generate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenerateOptions {
    /// Records a second. Default: as fast as they are taken.
    pub rate: Option<f64>,
    /// How many, over all runs; then the source ends. Default: without end.
    pub count: Option<u64>,
    /// Every record's value: a text, or anything else as JSON.
    pub value: Option<Value>,
    /// The same with placeholders in its texts: `{n}` (the record's number, from 1), `{time}` (now), `{random}` or `{random:100}` (a number,
    /// below 100), `{uuid}`. A JSON text that is only `{n}` or `{random}` becomes a number.
    /// Default: `{ "n": "{n}", "time": "{time}" }`.
    pub template: Option<Value>,
    /// Where `{random}` and `{uuid}` begin: the same seed gives the same records.
    pub seed: u64,
}

pub(crate) const GENERATE: Component = Component {
    name: "generate",
    summary: "Records made up, at a rate or as fast as they are taken.",
    schema: || schemars::schema_for!(GenerateOptions),
    planner: Planner::Source(plan),
    schemes: &[],
    from_url: None,
    example: "generate: { rate: 10, template: \"tick {n} at {time}\" }",
};

fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    let options: GenerateOptions = parse_options(options)?;
    if options.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
        return Err(Error::new(ErrorKind::Option, "a rate is a number above 0")
            .hint("leave it out to generate as fast as records are taken")
            .within("rate"));
    }
    let (template, form) = match (&options.value, &options.template) {
        (Some(_), Some(_)) => {
            return Err(Error::new(ErrorKind::Option, "`value` and `template` exclude each other").within("value"));
        }
        (Some(value), None) => Template::fixed(value),
        (None, Some(template)) => Template::parse(template),
        (None, None) => Template::parse(&json!({"n": "{n}", "time": "{time}"})),
    };
    let planned = Planned { rate: options.rate, count: options.count, seed: options.seed };
    Ok(Box::new(GeneratePlan { planned, template: Arc::new(template), form }))
}

#[derive(Clone, Copy, Debug)]
struct Planned {
    rate: Option<f64>,
    count: Option<u64>,
    seed: u64,
}

#[derive(Clone, Debug)]
struct GeneratePlan {
    planned: Planned,
    template: Arc<Template>,
    form: Form,
}

impl SourcePlan for GeneratePlan {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities { bounded: self.planned.count.is_some(), seek_time: false, ..SourceCapabilities::LOG }
    }

    fn form(&self) -> Form {
        self.form
    }

    fn describe(&self) -> String {
        let count = self.planned.count.map_or("records".to_owned(), |count| format!("{count} records"));
        let rate = self.planned.rate.map_or(String::new(), |rate| format!(", {rate} a second"));
        format!("generated {count}{rate}")
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(GenerateSource::new(self.clone())))
    }
}
