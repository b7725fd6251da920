//! A registry of components that are never planned: names and schemas are all that a pipeline file needs.

use std::path::Path;

use millstream_config::{Diagnostic, PipelineFile, Variables, parse};
use millstream_core::{
    Component, Error, ErrorKind, PlanContext, Planner, Registry, Result, SinkPlan, SourcePlan, StepPlan,
};
use schemars::{Schema, json_schema};
use serde_json::Value;

fn no_source(_: &Value, _: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    Err(Error::new(ErrorKind::Bug, "never planned"))
}

fn no_step(_: &Value, _: &PlanContext) -> Result<Box<dyn StepPlan>> {
    Err(Error::new(ErrorKind::Bug, "never planned"))
}

fn no_sink(_: &Value, _: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    Err(Error::new(ErrorKind::Bug, "never planned"))
}

fn vrl() -> Schema {
    json_schema!({ "type": "string", "format": "vrl" })
}

fn keyed() -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "key": { "$ref": "#/$defs/Expression" },
            "time": { "anyOf": [{ "$ref": "#/$defs/Expression" }, { "type": "null" }] },
            "fields": { "type": "object", "additionalProperties": { "$ref": "#/$defs/Expression" } },
            "aggregate": { "type": "object", "additionalProperties": { "$ref": "#/$defs/Expression" } },
            "count": { "type": "integer" },
        },
        "$defs": { "Expression": { "type": "string", "format": "vrl" } },
    })
}

fn route() -> Schema {
    json_schema!({
        "type": "object",
        "properties": { "to": { "type": "object", "additionalProperties": { "type": "string", "format": "vrl" } } },
        "additionalProperties": false,
    })
}

fn file() -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "path": { "anyOf": [
                { "type": "string" },
                { "type": "object", "properties": { "expr": { "type": "string", "format": "vrl" } } },
            ] },
            "codec": {},
            "follow": { "type": "boolean" },
            "limit": { "type": ["integer", "null"] },
            "existing": { "oneOf": [{ "type": "string", "const": "append" }, { "type": "string", "const": "replace" }] },
        },
        "required": ["path"],
        "additionalProperties": false,
    })
}

fn any() -> Schema {
    json_schema!({ "type": ["object", "string"] })
}

fn log() -> Schema {
    json_schema!({ "type": "object", "properties": { "message": { "type": "string", "format": "vrl" } } })
}

type Entry = (&'static str, fn() -> Schema);

pub(crate) fn registry() -> Registry {
    let mut registry = Registry::default();
    let mut add = |(name, schema): Entry, planner: Planner| {
        registry.add(Component { name, summary: "fake", schema, planner, schemes: &[], from_url: None, example: "" });
    };
    let steps: [Entry; 20] = [
        ("map", vrl),
        ("filter", vrl),
        ("split", any),
        ("route", route),
        ("merge", any),
        ("batch", keyed),
        ("rate_limit", keyed),
        ("sample", any),
        ("dedupe", keyed),
        ("changed", any),
        ("aggregate", keyed),
        ("window", keyed),
        ("join", keyed),
        ("exec", any),
        ("delay", any),
        ("log", log),
        ("drop", any),
        ("wasm", any),
        ("tee", any),
        ("sql", any),
    ];
    steps.into_iter().for_each(|step| add(step, Planner::Step(no_step)));
    let ends: [Entry; 4] = [("file", file), ("kafka", any), ("redis_stream", any), ("values", any)];
    for end in ends {
        add(end, Planner::Source(no_source));
        add(end, Planner::Sink(no_sink));
    }
    add(("stdin", any), Planner::Source(no_source));
    add(("stdout", any), Planner::Sink(no_sink));
    registry
}

pub(crate) fn read(text: &str) -> Result<PipelineFile, Vec<Diagnostic>> {
    read_with(text, &Variables::default())
}

pub(crate) fn read_with(text: &str, variables: &Variables) -> Result<PipelineFile, Vec<Diagnostic>> {
    parse(text.as_bytes(), Path::new("p.yaml"), &registry(), variables)
}

/// The file, or all that is wrong with it as a panic.
pub(crate) fn good(text: &str) -> PipelineFile {
    read(text).unwrap_or_else(|wrong| panic!("{}", shown(&wrong)))
}

pub(crate) fn shown(wrong: &[Diagnostic]) -> String {
    wrong.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n")
}
