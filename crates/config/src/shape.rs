//! What a component's JSON Schema says about one place in its options.

use serde_json::Value;

/// Alternatives that are looked at in one place: schemas may refer to each other without end.
const ALTERNATIVES_MAX: usize = 64;

/// All schemas that may hold at one place. Without a schema nothing is known, and all is allowed.
#[derive(Clone)]
pub(crate) struct Shape<'a> {
    root: Option<&'a Value>,
    here: Vec<&'a Value>,
}

impl<'a> Shape<'a> {
    /// Nothing is known.
    pub(crate) fn unknown() -> Self {
        Shape { root: None, here: Vec::new() }
    }

    /// The options of a component.
    pub(crate) fn of(root: &'a Value) -> Self {
        Shape { root: Some(root), here: vec![root] }.expanded()
    }

    /// The value of a key.
    pub(crate) fn key(&self, key: &str) -> Self {
        self.inner(|schema| {
            let property = schema.get("properties").and_then(|properties| properties.get(key));
            property.or_else(|| schema.get("additionalProperties")).into_iter().collect()
        })
    }

    /// The values of a list.
    pub(crate) fn item(&self) -> Self {
        self.inner(|schema| {
            let first = schema.get("prefixItems").and_then(Value::as_array).into_iter().flatten();
            schema.get("items").into_iter().chain(first).collect()
        })
    }

    /// Whether a text here is an expression: it is never interpolated.
    pub(crate) fn expression(&self) -> bool {
        self.here.iter().any(|schema| schema.get("format").and_then(Value::as_str) == Some("vrl"))
    }

    /// Whether no other scalar will do, so that `1.10` stays as written.
    pub(crate) fn text(&self) -> bool {
        let types = self.types();
        types.contains(&"string") && !types.iter().any(|name| matches!(*name, "integer" | "number" | "boolean"))
    }

    /// Whether nothing but a text will do.
    pub(crate) fn only_text(&self) -> bool {
        let types = self.types();
        types.contains(&"string") && types.iter().all(|name| matches!(*name, "string" | "null"))
    }

    fn types(&self) -> Vec<&'a str> {
        let types = |schema: &&'a Value| match schema.get("type") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        self.here.iter().flat_map(types).collect()
    }

    fn inner(&self, choose: impl Fn(&'a Value) -> Vec<&'a Value>) -> Self {
        Shape { root: self.root, here: self.here.iter().flat_map(|schema| choose(schema)).collect() }.expanded()
    }

    /// Follows references and alternatives.
    fn expanded(mut self) -> Self {
        let mut next = 0;
        while let Some(schema) = self.here.get(next).copied() {
            next += 1;
            let referred = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
            let target = referred.and_then(|path| self.root?.pointer(path));
            let groups = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|name| schema.get(name)?.as_array());
            let found: Vec<&Value> = groups.flatten().chain(target).collect();
            for schema in found {
                let known = self.here.iter().any(|known| std::ptr::eq(*known, schema));
                if !known && self.here.len() < ALTERNATIVES_MAX {
                    self.here.push(schema);
                }
            }
        }
        self
    }
}
