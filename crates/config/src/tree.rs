//! The located tree: values as YAML gives them, each with its place in the file.
//!
//! Stricter than YAML where YAML surprises: only `true` and `false` are booleans, only `null`, `~` and nothing are null,
//! a number with a leading zero is a text, a key may stand only once, and tags are refused (a `!` at the start of an
//! expression is what they are in practice).

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, StructureStyle, options};
use millstream_core::{Error, ErrorKind};
use serde_json::Number;

use crate::{
    quoting,
    source::{PROBLEMS_MAX, Problem, Source, Span},
};

/// How deep lists and maps may nest, flow and block each: more than anyone writes, and safe for recursive walks.
const NESTING_MAX: usize = 64;
/// Values in one file, counting each use of an alias: bounds what a small file can grow to.
const NODES_MAX: usize = 1_000_000;
/// Bytes of text that aliases may repeat.
const ALIAS_BYTES_MAX: usize = 16 << 20;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    /// The bytes of the file, with quotes; a block text without its `|` line.
    pub(crate) span: Span,
    pub(crate) style: Style,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Pair>),
}

/// One key of a map with its value.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Single,
    Double,
    Literal,
    Folded,
    /// A list or map with indentation.
    Block,
    /// A list or map in brackets.
    Flow,
}

impl Node {
    pub(crate) fn pairs(&self) -> Option<&[Pair]> {
        match &self.value {
            Value::Map(pairs) => Some(pairs),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Values in it with itself, how deep they nest, and bytes of text.
    fn measure(&self) -> (usize, usize, usize) {
        let children: Box<dyn Iterator<Item = (usize, &Node)>> = match &self.value {
            Value::List(items) => Box::new(items.iter().map(|item| (0, item))),
            Value::Map(pairs) => Box::new(pairs.iter().map(|pair| (pair.key.len(), &pair.value))),
            Value::Text(text) => return (1, 1, text.len()),
            _ => return (1, 1, 0),
        };
        children.fold((1, 1, 0), |(nodes, depth, bytes), (key, child)| {
            let (n, d, b) = child.measure();
            (nodes + n, depth.max(d + 1), bytes + b + key)
        })
    }
}

/// Reads the only document of a file. What could be read is returned beside the problems.
pub(crate) fn read(source: &Source) -> (Option<Node>, Vec<Problem>) {
    let mut builder = Builder {
        source,
        open: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        nodes: 0,
        bytes: 0,
        problems: Vec::new(),
    };
    let options = options! { flow_nesting_limit: NESTING_MAX, block_nesting_limit: NESTING_MAX, emit_comments: false };
    for event in Parser::new_from_str_with_options(&source.text, options) {
        let step = match event {
            Ok((event, span)) => builder.event(event, &span),
            Err(error) => Err(quoting::unreadable(source, &error)),
        };
        if let Err(problem) = step {
            builder.problems.push(problem);
            return (None, builder.problems);
        }
        if builder.problems.len() >= PROBLEMS_MAX {
            return (None, builder.problems);
        }
    }
    (builder.root, builder.problems)
}

/// A list or map that is still open.
struct Open {
    start: usize,
    style: Style,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map { pairs: Vec<Pair>, places: HashMap<String, usize>, key: Option<(String, Span)> },
}

struct Builder<'a> {
    source: &'a Source,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    bytes: usize,
    problems: Vec<Problem>,
}

type Step = Result<(), Problem>;

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: &granit_parser::Span) -> Step {
        let range = span.byte_range().unwrap_or_default();
        let place = Span::new(range.start, range.end);
        let mut tagged = None;
        if event.tag().is_some() {
            let tag = span.tag_span().and_then(|tag| tag.byte_range()).unwrap_or(range.clone());
            let plain = event.scalar().is_some_and(|(_, style)| style == ScalarStyle::Plain);
            let whole = Span::new(tag.start, if plain && !range.is_empty() { place.end } else { tag.end });
            self.problems.push(quoting::tag(self.source, self.key(), whole));
            tagged = plain.then_some(whole);
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                // What was meant is the text with its `!`: the rest of the file is read as if it were quoted.
                let meant =
                    |span| Node { value: Value::Text(self.source.slice(span).to_owned()), span, style: Style::Plain };
                let node = tagged.map_or_else(|| scalar(self.source, &text, style, place), meant);
                self.node(node, anchor)
            }
            Event::SequenceStart(style, anchor, _) => self.start(place, style, anchor, OpenKind::List(Vec::new())),
            Event::MappingStart(style, anchor, _) => {
                self.start(place, style, anchor, OpenKind::Map { pairs: Vec::new(), places: HashMap::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(place),
            Event::Alias(id) => self.alias(id, place),
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(Problem::new(place, Error::new(ErrorKind::Syntax, "a pipeline file holds one document"))
                    .hint("put each pipeline into a file of its own"))
            }
            _ => Ok(()),
        }
    }

    /// The key whose value comes next.
    fn key(&self) -> Option<&str> {
        match &self.open.last()?.kind {
            OpenKind::Map { key, .. } => key.as_ref().map(|(key, _)| key.as_str()),
            OpenKind::List(_) => None,
        }
    }

    fn start(&mut self, place: Span, style: StructureStyle, anchor: usize, kind: OpenKind) -> Step {
        if matches!(&self.open.last(), Some(Open { kind: OpenKind::Map { key: None, .. }, .. })) {
            return Err(Problem::new(place, Error::new(ErrorKind::Syntax, "a key must be a text, not a list or map"))
                .hint("put quotes around it"));
        }
        let style = if style == StructureStyle::Flow { Style::Flow } else { Style::Block };
        self.open.push(Open { start: place.start, style, anchor, kind });
        Ok(())
    }

    fn end(&mut self, place: Span) -> Step {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let (value, last) = match open.kind {
            OpenKind::List(items) => {
                let last = items.last().map(|node| node.span.end);
                (Value::List(items), last)
            }
            OpenKind::Map { mut pairs, .. } => {
                let last = pairs.last().map(|pair| pair.value.span.end);
                self.problems.extend(quoting::split_expression(self.source, &mut pairs));
                merge(&mut pairs)?;
                (Value::Map(pairs), last)
            }
        };
        // A block ends with what it holds: its own end event stands at the next token.
        let end = if open.style == Style::Flow { place.end } else { last.unwrap_or(open.start) };
        self.node(Node { value, span: Span::new(open.start, end), style: open.style }, open.anchor)
    }

    fn alias(&mut self, id: usize, place: Span) -> Step {
        let wrong = |message: &str| Problem::new(place, Error::new(ErrorKind::Syntax, message));
        let Some(node) = self.anchors.get(&id) else {
            return Err(wrong("an alias cannot stand inside what it repeats"));
        };
        let (nodes, depth, bytes) = node.measure();
        self.nodes += nodes;
        self.bytes += bytes;
        if self.nodes > NODES_MAX || self.bytes > ALIAS_BYTES_MAX || self.open.len() + depth > 2 * NESTING_MAX {
            return Err(wrong("aliases make the file too large").hint("write the values out, or use fewer aliases"));
        }
        self.node(node.clone(), 0)
    }

    /// Puts a finished value where it belongs.
    fn node(&mut self, node: Node, anchor: usize) -> Step {
        self.nodes += 1;
        if anchor != 0 {
            // An anchor keeps a copy, and anchors nest.
            let (nodes, _, bytes) = node.measure();
            self.nodes += nodes;
            self.bytes += bytes;
        }
        if self.nodes > NODES_MAX || self.bytes > ALIAS_BYTES_MAX {
            return Err(Problem::new(node.span, Error::new(ErrorKind::Syntax, "the file holds too many values")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.kind {
            OpenKind::List(items) => items.push(node),
            OpenKind::Map { pairs, places, key } => match key.take() {
                Some((key, key_span)) => {
                    // The second of two equal keys is reported when its key is read; the first stays.
                    places.insert(key.clone(), key_span.start);
                    pairs.push(Pair { key, key_span, value: node });
                }
                None => {
                    let name = key_name(self.source, &node)?;
                    if let Some(first) = places.get(&name) {
                        let error = Error::new(ErrorKind::Syntax, format!("key `{name}` is given twice"));
                        let hint = format!("the first is at {}; remove one of them", self.source.location(*first));
                        self.problems.push(Problem::new(node.span, error.hint(hint)));
                    }
                    *key = Some((name, node.span));
                }
            },
        }
        Ok(())
    }
}

fn key_name(source: &Source, node: &Node) -> Result<String, Problem> {
    match &node.value {
        Value::Text(text) => Ok(text.clone()),
        // As written: a stage may be called `1` or `true`.
        Value::Bool(_) | Value::Number(_) | Value::Null if node.span.end > node.span.start => {
            Ok(source.slice(node.span).to_owned())
        }
        _ => Err(Problem::new(node.span, Error::new(ErrorKind::Syntax, "a key is missing before `:`"))),
    }
}

/// `<<: *defaults` adds the pairs of another map; those that stand here win.
fn merge(pairs: &mut Vec<Pair>) -> Step {
    let Some(at) = pairs.iter().position(|pair| pair.key == "<<") else { return Ok(()) };
    let merged = pairs.remove(at);
    let maps = match merged.value.value {
        Value::List(maps) => maps,
        _ => vec![merged.value],
    };
    let mut known: HashSet<String> = pairs.iter().map(|pair| pair.key.clone()).collect();
    for map in maps {
        let Value::Map(more) = map.value else {
            return Err(Problem::new(merged.key_span, Error::new(ErrorKind::Syntax, "`<<` needs a map to merge"))
                .hint("write `<<: *NAME`, where `&NAME` stands before a map"));
        };
        pairs.extend(more.into_iter().filter(|pair| known.insert(pair.key.clone())));
    }
    Ok(())
}

fn scalar(source: &Source, text: &str, style: ScalarStyle, span: Span) -> Node {
    let style = match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted => Style::Single,
        ScalarStyle::DoubleQuoted => Style::Double,
        ScalarStyle::Literal => Style::Literal,
        ScalarStyle::Folded => Style::Folded,
    };
    let value = match style {
        // The parser gives `~` for a value that is not there at all.
        Style::Plain if source.slice(span).is_empty() => Value::Null,
        Style::Plain => plain(text),
        _ => Value::Text(text.to_owned()),
    };
    Node { value, span, style }
}

/// What an unquoted text means.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::Text(text.to_owned()), Value::Number),
    }
}

/// Numbers as in JSON. An integer beyond 64 bits stays a text, because it would lose digits.
fn number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let number: Number = serde_json::from_str(text).ok()?;
    let integer = digits.bytes().all(|byte| byte.is_ascii_digit());
    (!integer || !number.is_f64()).then_some(number)
}
