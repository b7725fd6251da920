//! From the located tree to the plain values that components see: interpolation, and texts that YAML took for numbers.
//!
//! A text that the component's schema marks with `"format": "vrl"` is an expression: it stays as written, and what is no
//! text there has lost its quotes. Everything else is interpolated.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value as Json};

use crate::{
    align,
    interpolate::{Fault, Scope, in_expression},
    quoting,
    shape::Shape,
    source::{Problem, Source, Span},
    tree::{Node, Value},
};

/// Walks nodes and collects what is wrong with them.
pub(crate) struct Resolver<'a> {
    pub(crate) source: &'a Source,
    pub(crate) scope: Scope<'a>,
    pub(crate) problems: Vec<Problem>,
    /// Where the texts begin that something was put into: byte ranges inside them mean nothing in the file.
    pub(crate) changed: HashSet<usize>,
    /// Variables that expressions read.
    pub(crate) vars: BTreeMap<String, String>,
}

/// What is around a value.
#[derive(Clone, Copy)]
struct Around<'k> {
    key: Option<&'k str>,
    key_span: Span,
}

impl Resolver<'_> {
    /// The options of a component, or any other part of the file.
    pub(crate) fn value(&mut self, node: &Node, key: &str, key_span: Span, shape: &Shape<'_>) -> Json {
        self.inner(node, Around { key: Some(key), key_span }, shape)
    }

    fn inner(&mut self, node: &Node, around: Around<'_>, shape: &Shape<'_>) -> Json {
        let expression = shape.expression();
        if expression
            && let Some(problem) = quoting::no_text(self.source, around.key, around.key_span, node, shape.only_text())
        {
            self.problems.push(problem);
            return Json::Null;
        }
        match &node.value {
            Value::Null => Json::Null,
            Value::Bool(_) | Value::Number(_) if expression || shape.text() => {
                Json::String(self.source.slice(node.span).to_owned())
            }
            Value::Bool(flag) => Json::Bool(*flag),
            Value::Number(number) => Json::Number(number.clone()),
            Value::Text(text) if expression => {
                self.reads(node, text);
                Json::String(text.clone())
            }
            Value::Text(text) => Json::String(self.text(node, text, around.key == Some("url"))),
            Value::List(items) => {
                let shape = shape.item();
                Json::Array(items.iter().map(|item| self.inner(item, around, &shape)).collect())
            }
            Value::Map(pairs) => {
                let mut map = Map::new();
                for pair in pairs {
                    let around = Around { key: Some(&pair.key), key_span: pair.key_span };
                    let value = self.inner(&pair.value, around, &shape.key(&pair.key));
                    map.insert(pair.key.clone(), value);
                }
                Json::Object(map)
            }
        }
    }

    fn text(&mut self, node: &Node, text: &str, url: bool) -> String {
        match self.scope.text(text, url) {
            Ok(None) => text.to_owned(),
            Ok(Some(changed)) => {
                self.changed.insert(node.span.start);
                changed
            }
            Err(Fault(range, error)) => {
                let span = inside(self.source, node, range);
                self.problems.push(Problem::new(span, error));
                String::new()
            }
        }
    }

    /// A text outside components: a name, a description, a version.
    pub(crate) fn plain_text(&mut self, node: &Node, what: &str) -> Option<String> {
        match &node.value {
            Value::Text(text) => Some(self.text(node, text, false)),
            Value::Number(_) | Value::Bool(_) => Some(self.source.slice(node.span).to_owned()),
            _ => {
                let message = format!("`{what}` must be a text, not {}", node.kind());
                self.problems.push(Problem::option(node.span, message));
                None
            }
        }
    }

    /// Takes note of the variables that an expression reads.
    fn reads(&mut self, node: &Node, text: &str) {
        for (name, range) in in_expression(text) {
            match self.scope.value(name) {
                Some(value) => drop(self.vars.insert(name.to_owned(), value)),
                None => {
                    let span = inside(self.source, node, range);
                    self.problems.push(Problem::new(span, self.scope.missing(name)));
                    return;
                }
            }
        }
    }
}

/// Bytes of a text as bytes of the file.
pub(crate) fn inside(source: &Source, node: &Node, range: std::ops::Range<usize>) -> Span {
    let start = align::offset(source, node, range.start);
    // The end is behind the last character, wherever the next one stands.
    let last = range.end.saturating_sub(1).max(range.start);
    let end = align::offset(source, node, last);
    match (start, end) {
        (Some(start), Some(end)) => {
            let width = source.text.get(end..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8);
            Span::new(start, if range.is_empty() { start } else { end + width })
        }
        _ => Span::new(node.span.start, node.span.end),
    }
}
