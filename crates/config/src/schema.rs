//! JSON Schema of a whole pipeline file, for editors and `millstream schema`.
//!
//! Put together from the schemas of the components and of the engine's own types. It allows what the reader of files allows:
//! `${...}` in place of any value, and a number or boolean where a text is wanted.

use millstream_core::{Component, Delivery, Registry, Role, Size, Span};
use millstream_runtime::{BufferSpec, CheckpointSpec, ErrorRule, LimitsSpec, StateSpec};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::pipeline::VarSpec;

/// The JSON Schema (draft 2020-12) of a pipeline file with the components of a registry. Keys that are not known are refused
/// (`additionalProperties: false`).
pub fn schema(registry: &Registry) -> Schema {
    let mut builder = Builder {
        generator: SchemaSettings::draft2020_12().for_deserialize().into_generator(),
        definitions: Map::new(),
    };
    let mut properties = builder.top();
    let of = |role: Role| registry.iter().filter(move |component| component.role() == role);
    for role in [Role::Source, Role::Step, Role::Sink] {
        for component in of(role) {
            builder.component(component);
        }
        let (one, named) = (entry(role, of(role), true), entry(role, of(role), false));
        builder.definitions.insert(role.to_string(), one);
        builder.definitions.insert(format!("named_{role}"), named);
    }
    for role in [Role::Source, Role::Sink] {
        properties.insert(role.to_string(), refer(&role.to_string()));
        let described = format!("Several {role}s, by name.");
        properties.insert(
            format!("{role}s"),
            json!({ "description": described, "type": "object", "minProperties": 1,
            "additionalProperties": refer(&format!("named_{role}")) }),
        );
    }
    properties.insert("steps".into(), json!({
        "description": "What happens to the records: a list, where each step reads the one above, or a map from names to steps.",
        "anyOf": [
            { "type": "array", "items": refer("step") },
            { "type": "object", "additionalProperties": refer("named_step") },
            { "type": "null" },
        ],
    }));
    properties.insert("dead_letter".into(), dead_letter(of(Role::Sink)));
    builder.finish(properties)
}

struct Builder {
    generator: SchemaGenerator,
    definitions: Map<String, Value>,
}

impl Builder {
    /// Everything at the top level but the graph.
    fn top(&mut self) -> Map<String, Value> {
        let mut top = Map::new();
        let mut add = |name: &str, description: &str, schema: Value| {
            top.insert(name.to_owned(), described(schema, description));
        };
        let text = json!({ "type": ["string", "number", "boolean"] });
        add("$schema", "The schema of this file, for editors.", text.clone());
        add(
            "name",
            "The pipeline's identity: state is found by it. Default: the file's name without its ending.",
            text.clone(),
        );
        add("description", "What it is for.", text.clone());
        add("version", "Version of the file, for people.", text.clone());
        add("tags", "For people and fleets.", json!({ "anyOf": [text, { "type": "array", "items": text }] }));
        let vars = json!({ "type": "object", "additionalProperties": self.part::<VarSpec>() });
        add("vars", "Variables: from `--set`, else the environment, else `--env-file`, else `default`.", vars);
        add("delivery", "What is promised of each record.", self.part::<Delivery>());
        add("state", "Where checkpoints and keyed state are kept.", self.part::<StateSpec>());
        add("checkpoint", "When epochs are cut.", self.part::<CheckpointSpec>());
        add("errors", "Error rules of all stages, after their own.", self.part::<Vec<ErrorRule>>());
        add("limits", "Bounds of the pipeline.", self.part::<LimitsSpec>());
        // Used by `stop_after` and by components that share them.
        self.part::<Span>();
        self.part::<Size>();
        let rules = self.part::<Vec<ErrorRule>>();
        self.definitions.insert("errors".into(), rules);
        let buffer = self.part::<BufferSpec>();
        self.definitions.insert("buffer".into(), buffer);
        top
    }

    fn part<T: JsonSchema>(&mut self) -> Value {
        self.generator.subschema_for::<T>().to_value()
    }

    /// A component's schema with its definitions, under names of their own.
    fn component(&mut self, component: &Component) {
        let base = definition(component);
        let mut schema = (component.schema)().to_value();
        if let Some(object) = schema.as_object_mut() {
            object.remove("$schema");
            for (name, mut inner) in take_definitions(object) {
                relocate(&mut inner, &base);
                lenient(&mut inner);
                self.definitions.insert(format!("{base}.{name}"), inner);
            }
        }
        relocate(&mut schema, &base);
        lenient(&mut schema);
        self.definitions.insert(base, described(schema, component.summary));
    }

    fn finish(mut self, properties: Map<String, Value>) -> Schema {
        for (name, mut inner) in self.generator.take_definitions(true) {
            lenient(&mut inner);
            self.definitions.insert(name, inner);
        }
        let interpolated =
            json!({ "description": "A value from a variable or file.", "type": "string", "pattern": r"\$\{" });
        self.definitions.insert("interpolated".into(), interpolated);
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Millstream pipeline",
            "description": "A pipeline: sources, steps and sinks.",
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
            "allOf": [
                { "oneOf": [{ "required": ["source"] }, { "required": ["sources"] }] },
                { "oneOf": [{ "required": ["sink"] }, { "required": ["sinks"] }] },
            ],
            "$defs": self.definitions,
        });
        // An object is always a schema.
        Schema::try_from(schema).unwrap_or_default()
    }
}

/// `$defs` and the older `definitions`.
fn take_definitions(schema: &mut Map<String, Value>) -> Map<String, Value> {
    let mut found = Map::new();
    for key in ["$defs", "definitions"] {
        if let Some(Value::Object(inner)) = schema.remove(key) {
            found.extend(inner);
        }
    }
    found
}

fn refer(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn definition(component: &Component) -> String {
    format!("{}.{}", component.role(), component.name)
}

fn described(mut schema: Value, description: &str) -> Value {
    if let Some(object) = schema.as_object_mut() {
        object.entry("description").or_insert_with(|| description.into());
    }
    schema
}

/// One kind, and the common keys beside it.
fn entry<'a>(role: Role, components: impl Iterator<Item = &'a Component>, may_be_named: bool) -> Value {
    let text = json!({ "type": ["string", "number", "boolean"] });
    let mut properties = Map::new();
    if may_be_named {
        properties
            .insert("name".into(), described(text.clone(), "Unique in the file. Default: the kind, then `kind-2`."));
    }
    if role != Role::Source {
        let from = json!({ "anyOf": [text, { "type": "array", "items": text }] });
        let description = "The stages, or `STAGE.OUTPUT`, that it reads. Default: the line above, or the only source.";
        properties.insert("from".into(), described(from, description));
    }
    properties.insert("description".into(), described(text, "What it is for."));
    properties
        .insert("errors".into(), described(refer("errors"), "Its own error rules; the first that matches decides."));
    if role == Role::Sink {
        let description = "A buffer on disk, so that a slow or dead sink does not hold up the others.";
        properties.insert("buffer".into(), described(refer("buffer"), description));
    }
    one_kind(properties, components, Vec::new())
}

fn one_kind<'a>(
    mut properties: Map<String, Value>,
    components: impl Iterator<Item = &'a Component>,
    mut choices: Vec<Value>,
) -> Value {
    for component in components {
        properties.insert(component.name.to_owned(), described(refer(&definition(component)), component.summary));
        choices.push(json!({ "required": [component.name] }));
    }
    json!({ "type": "object", "properties": properties, "additionalProperties": false, "oneOf": choices })
}

/// A sink, `stop_after`, or both.
fn dead_letter<'a>(sinks: impl Iterator<Item = &'a Component>) -> Value {
    let mut properties = Map::new();
    let mut limit =
        json!({ "type": "integer", "minimum": 0, "description": "Stop the pipeline after so many dead letters." });
    lenient(&mut limit);
    properties.insert("stop_after".into(), limit);
    let alone = json!({ "required": ["stop_after"], "maxProperties": 1 });
    described(
        one_kind(properties, sinks, vec![alone]),
        "Where records go that failed for good. Default: the state directory.",
    )
}

/// Makes references into a component's own schema point to where it stands in the whole.
fn relocate(schema: &mut Value, base: &str) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                match value {
                    Value::String(path) if key == "$ref" => {
                        let name = path.strip_prefix("#/$defs/").or_else(|| path.strip_prefix("#/definitions/"));
                        if let Some(name) = name {
                            *path = format!("#/$defs/{base}.{name}");
                        } else if path == "#" {
                            *path = format!("#/$defs/{base}");
                        }
                    }
                    inner => relocate(inner, base),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| relocate(item, base)),
        _ => {}
    }
}

/// Allows what the reader allows: `${...}` for every value that is not a plain text anyway, other scalars for those that are.
fn lenient(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    for key in ["properties", "patternProperties"] {
        if let Some(inner) = object.get_mut(key).and_then(Value::as_object_mut) {
            inner.values_mut().for_each(lenient);
        }
    }
    for key in ["additionalProperties", "items"] {
        if let Some(inner) = object.get_mut(key) {
            lenient(inner);
        }
    }
    for key in ["anyOf", "allOf", "prefixItems"] {
        if let Some(inner) = object.get_mut(key).and_then(Value::as_array_mut) {
            inner.iter_mut().for_each(lenient);
        }
    }
    // `${...}` fits several alternatives at once.
    if let Some(Value::Array(mut choices)) = object.remove("oneOf") {
        choices.iter_mut().for_each(lenient);
        let any = json!({ "anyOf": choices });
        match object.entry("allOf").or_insert_with(|| json!([])) {
            Value::Array(all) => all.push(any),
            other => *other = any,
        }
    }
    let types: Vec<&str> = match object.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let has = |name: &str| types.contains(&name);
    let chosen = object.contains_key("const") || object.contains_key("enum");
    let expression = object.get("format").and_then(Value::as_str) == Some("vrl");
    let formed = object.contains_key("pattern") || object.contains_key("maxLength") || object.contains_key("minLength");
    let scalar = has("integer") || has("number") || has("boolean");
    if chosen || (formed && has("string")) || (scalar && !has("string")) {
        let description = object.get("description").cloned();
        let mut either = json!({ "anyOf": [schema.take(), refer("interpolated")] });
        if let (Some(either), Some(description)) = (either.as_object_mut(), description) {
            either.insert("description".into(), description);
        }
        *schema = either;
    } else if has("string") && (expression || !object.contains_key("format")) {
        let mut all: Vec<&str> = types.clone();
        all.extend(["number", "boolean"].into_iter().filter(|name| !types.contains(name)));
        let all = json!(all);
        object.insert("type".into(), all);
    }
}
