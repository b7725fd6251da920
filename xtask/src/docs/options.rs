//! A table of options from a JSON Schema, as `schemars` writes it.

use serde_json::Value;

/// What has a part of the page to itself.
const CODEC: &str = "codec";

/// How deep groups of options are shown: `tls.client.key` is three.
const DEPTH_MAX: usize = 3;

/// The options of a component: one line each, groups below their name; a table for each form that it has.
pub(super) fn table(schema: &Value) -> String {
    forms_of(schema, schema)
}

/// The same for a part of a schema; `root` holds the definitions.
pub(super) fn forms_of(root: &Value, schema: &Value) -> String {
    let alternatives = schema["anyOf"].as_array().map_or(&[][..], Vec::as_slice);
    let forms: Vec<_> = alternatives.iter().filter(|form| resolve(root, form)["properties"].is_object()).collect();
    match forms.as_slice() {
        [] | [_] => form(root, schema),
        several => {
            let titled = several.iter().map(|one| {
                let title = resolve(root, one)["description"].as_str().unwrap_or("Another form.");
                format!("\n{}\n{}", cell(title), form(root, one))
            });
            titled.collect()
        }
    }
}

fn form(root: &Value, schema: &Value) -> String {
    let mut rows = Vec::new();
    collect(root, schema, "", 1, &mut rows);
    if rows.is_empty() {
        return match shape(root, schema).as_str() {
            "map" | "any" | "group" => String::new(),
            shape => format!("\nIts value is {}.\n", article(shape)),
        };
    }
    format!("\n| option | value | default | what it means |\n|---|---|---|---|\n{}\n", rows.join("\n"))
}

/// A text as the cell of a table.
pub(super) fn cell(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn collect(root: &Value, schema: &Value, prefix: &str, depth: usize, rows: &mut Vec<String>) {
    let schema = resolve(root, schema);
    let Some(properties) = schema["properties"].as_object() else { return };
    let required = |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
    for (name, property) in properties {
        let default = match &property["default"] {
            _ if required(name) => "required".to_owned(),
            Value::Null => String::new(),
            Value::String(text) => format!("`{text}`"),
            // One name with its options, all of them as they are without being named.
            Value::Object(one) if one.len() == 1 => one.keys().map(|name| format!("`{name}`")).collect(),
            other => format!("`{other}`"),
        };
        let inner = resolve(root, property);
        let own = property["description"].as_str().or_else(|| inner["description"].as_str()).unwrap_or_default();
        rows.push(format!(
            "| `{prefix}{name}` | {} | {} | {} |",
            cell(&shape(root, property)),
            cell(&default),
            cell(own)
        ));
        if inner["properties"].is_object() && depth < DEPTH_MAX {
            collect(root, inner, &format!("{prefix}{name}."), depth + 1, rows);
        }
    }
}

/// What can be written, in words.
fn shape(root: &Value, schema: &Value) -> String {
    let named = reference(schema).map(|name| match name {
        "Span" => "duration".to_owned(),
        "SeekTo" => "position".to_owned(),
        other => other.to_lowercase(),
    });
    let schema = resolve(root, schema);
    if let Some(values) = constants(schema) {
        return values;
    }
    if let Some(several) = alternatives(root, schema).filter(|_| named.as_deref() != Some(CODEC)) {
        return several;
    }
    match (kind(schema), named) {
        ("object", _) if schema["properties"].is_object() => "group".to_owned(),
        ("", Some(name)) | ("string", Some(name)) => name,
        ("string", None) => "text".to_owned(),
        ("boolean", _) => "`true` or `false`".to_owned(),
        ("integer" | "number", _) => "number".to_owned(),
        ("array", _) => format!("list of {}", shape(root, &schema["items"])),
        ("object", _) => "map".to_owned(),
        _ => "any".to_owned(),
    }
}

/// Forms of different kinds: values, one kind or another, names with what belongs to each.
fn alternatives(root: &Value, schema: &Value) -> Option<String> {
    let all = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()).filter(|all| all.len() > 1)?;
    let each = all.iter().map(|one| match resolve(root, one) {
        constant if constant["const"].is_string() => Some(format!("`{}`", constant["const"].as_str()?)),
        object if object["properties"].is_object() => tagged(root, object),
        _ => Some(shape(root, one)).filter(|shape| shape != "any"),
    });
    Some(each.collect::<Option<Vec<_>>>()?.join(" or "))
}

/// One name with its value: `{ header: text }`.
fn tagged(root: &Value, object: &Value) -> Option<String> {
    let properties = object["properties"].as_object().filter(|properties| properties.len() == 1)?;
    properties.iter().map(|(name, value)| format!("`{{ {name}: {} }}`", shape(root, value).replace('`', ""))).next()
}

/// The values of an enumeration, each with quotes for code.
fn constants(schema: &Value) -> Option<String> {
    let written = |value: &Value| value.as_str().map(|text| format!("`{text}`"));
    let values: Vec<String> = match (&schema["enum"], &schema["oneOf"]) {
        (Value::Array(values), _) => values.iter().filter_map(written).collect(),
        (_, Value::Array(variants)) => {
            variants.iter().map(|variant| written(&variant["const"])).collect::<Option<_>>()?
        }
        _ => return None,
    };
    (!values.is_empty()).then(|| values.join(", "))
}

/// The type; of several the one that is not null.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(kind) => kind,
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or_default(),
        _ => "",
    }
}

/// The name behind `$ref`, also where `null` is allowed beside it.
fn reference(schema: &Value) -> Option<&str> {
    let schema = without_null(schema);
    schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/"))
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    reference(schema).map_or_else(|| without_null(schema), |name| without_null(&root["$defs"][name]))
}

/// The other one of two alternatives of which one is null.
fn without_null(schema: &Value) -> &Value {
    let alternatives = schema["anyOf"].as_array().map_or(&[][..], Vec::as_slice);
    match alternatives {
        [one, null] if null["type"] == "null" => one,
        _ => schema,
    }
}

fn article(shape: &str) -> String {
    match shape.chars().next() {
        Some('`') => shape.to_owned(),
        Some('a' | 'e' | 'i' | 'o' | 'u') => format!("an {shape}"),
        _ => format!("a {shape}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_groups_and_enumerations_are_shown() {
        let schema = json!({
            "type": "object",
            "properties": {
                "path": { "description": "A file\nor | several.", "type": "string" },
                "rotate": { "anyOf": [{ "$ref": "#/$defs/Rotate" }, { "type": "null" }] },
                "existing": { "anyOf": [{ "$ref": "#/$defs/Existing" }, { "type": "null" }], "description": "What then." },
                "follow": { "type": "boolean", "default": false, "description": "Go on." }
            },
            "required": ["path"],
            "$defs": {
                "Rotate": { "description": "When.", "type": "object", "properties": { "every": { "$ref": "#/$defs/Span" } } },
                "Existing": { "oneOf": [{ "const": "append" }, { "const": "fail" }] },
                "Span": { "type": "string", "description": "A duration." }
            }
        });
        let table = table(&schema);
        let rows: Vec<_> = table.lines().skip(3).collect();
        assert_eq!(
            rows,
            [
                "| `path` | text | required | A file or \\| several. |",
                "| `rotate` | group |  | When. |",
                "| `rotate.every` | duration |  | A duration. |",
                "| `existing` | `append`, `fail` |  | What then. |",
                "| `follow` | `true` or `false` | `false` | Go on. |",
            ]
        );
    }

    #[test]
    fn what_has_several_forms_is_shown_as_these_and_not_by_its_name() {
        let schema = json!({
            "type": "object",
            "properties": {
                "by": { "anyOf": [{ "$ref": "#/$defs/TopicBy" }, { "type": "null" }] },
                "partition": { "$ref": "#/$defs/PartitionBy", "default": "key" },
                "token": { "$ref": "#/$defs/From" },
                "codec": { "$ref": "#/$defs/Codec" }
            },
            "$defs": {
                "TopicBy": { "oneOf": [
                    { "type": "string", "const": "stream" },
                    { "type": "object", "properties": { "header": { "type": "string" } } }
                ] },
                "PartitionBy": { "anyOf": [{ "enum": ["key", "origin"] }, { "type": "integer" }] },
                "From": { "oneOf": [
                    { "type": "object", "properties": { "file": { "type": "string" } } },
                    { "type": "object", "properties": { "command": { "type": "array", "items": { "type": "string" } } } }
                ] },
                "Codec": { "anyOf": [{ "enum": ["ndjson"] }, { "type": "object", "properties": { "csv": { "type": "object" } } }] }
            }
        });
        let table = table(&schema);
        let shapes: Vec<_> = table.lines().skip(3).map(|row| row.split(" | ").nth(1).unwrap_or_default()).collect();
        assert_eq!(
            shapes,
            [
                "`stream` or `{ header: text }`",
                "`key`, `origin` or number",
                "`{ file: text }` or `{ command: list of text }`",
                "codec",
            ]
        );
    }

    #[test]
    fn a_component_without_options_says_what_its_value_is() {
        assert_eq!(table(&json!({ "type": "string" })), "\nIts value is a text.\n");
        assert_eq!(table(&json!({ "type": "object" })), "");
    }
}
