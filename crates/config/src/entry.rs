//! One source, step or sink: its kind with options, and the common keys beside it.

use std::collections::HashMap;

use millstream_core::{Component, Error, Registry, Role, parse_options, suggest};
use millstream_runtime::{BufferSpec, Entry, ErrorRule, Rules};
use serde::de::DeserializeOwned;

use crate::{
    file::point,
    quoting,
    resolve::Resolver,
    shape::Shape,
    source::{PROBLEMS_MAX, Problem, Span},
    tree::{Node, Pair, Value},
};

/// Keys that stand beside the kind of every entry.
pub(crate) const COMMON_KEYS: [&str; 4] = ["name", "from", "description", "errors"];
/// The same beside the kind of a sink.
const SINK_KEYS: [&str; 5] = ["name", "from", "description", "errors", "buffer"];

/// Keys of pipeline files that later versions know.
const LATER_KEYS: [&str; 11] = [
    "tests",
    "use",
    "tables",
    "connections",
    "connection",
    "timezone",
    "concurrency",
    "partition_by",
    "order",
    "timeout",
    "spool",
];
/// Those of them that are also steps.
const LATER_KEYS_AND_STEPS: [&str; 2] = ["rate_limit", "batch"];

/// Reads entries, and remembers what must be unique.
pub(crate) struct Reader<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) resolver: Resolver<'a>,
    /// Names of stages and where they are given.
    names: HashMap<String, Span>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(registry: &'a Registry, resolver: Resolver<'a>) -> Self {
        Reader { registry, resolver, names: HashMap::new() }
    }

    pub(crate) fn problem(&mut self, problem: Problem) {
        self.resolver.problems.push(problem);
    }

    /// An entry. `named` is its key in a map of entries; `place` is where it stands in the file.
    pub(crate) fn entry<P: ?Sized>(
        &mut self,
        role: Role,
        node: &Node,
        named: Option<&Pair>,
        place: &[String],
    ) -> Option<Entry<P>> {
        if self.resolver.problems.len() >= PROBLEMS_MAX {
            return None;
        }
        let Some(pairs) = node.pairs() else {
            self.not_an_entry(role, node);
            return None;
        };
        let beside = if role == Role::Sink { &SINK_KEYS[..] } else { &COMMON_KEYS };
        let kind = self.kind(role, node, pairs, named.map(|pair| pair.key_span), beside);
        let mut name = named.and_then(|pair| self.stage_name(&pair.key, pair.key_span));
        let (mut from, mut description, mut errors, mut buffer) = (Vec::new(), None, Vec::new(), None);
        for pair in pairs {
            match pair.key.as_str() {
                "name" if named.is_some() => {
                    self.problem(
                        Problem::option(pair.key_span, format!("the {role} has a name already"))
                            .hint("remove this key"),
                    );
                }
                "name" => {
                    let text = self.resolver.plain_text(&pair.value, "name");
                    name = text.and_then(|text| self.stage_name(&text, pair.value.span));
                }
                "from" if role == Role::Source => {
                    self.problem(
                        Problem::option(pair.key_span, "a source has no `from`")
                            .hint("steps and sinks read from others"),
                    );
                }
                "from" => {
                    from = self.texts(pair);
                    if matches!(&pair.value.value, Value::List(items) if items.is_empty()) {
                        let problem = Problem::option(pair.value.span, format!("the {role} reads from nothing"));
                        self.problem(problem.hint("name a stage, or leave `from` out"));
                    }
                }
                "description" => description = self.resolver.plain_text(&pair.value, "description"),
                "errors" => errors = self.rules(pair),
                "buffer" if role == Role::Sink => buffer = self.buffer(pair),
                _ => {}
            }
        }
        let (pair, component) = kind?;
        let mut entry = self.component(component, pair, place)?;
        entry.name = name;
        entry.from = from;
        entry.description = description;
        entry.errors = errors;
        entry.buffer = buffer;
        Some(entry)
    }

    /// The component that a kind means, with its options.
    pub(crate) fn component<P: ?Sized>(
        &mut self,
        component: &Component,
        pair: &Pair,
        place: &[String],
    ) -> Option<Entry<P>> {
        let schema = (component.schema)().to_value();
        let shape = Shape::of(&schema);
        if pair.value.null() && !shape.expression() {
            let hint = format!("write `{}: {{}}`", pair.key);
            self.problem(Problem::option(pair.key_span, format!("`{}` has no options", pair.key)).hint(hint));
            return None;
        }
        let options = self.resolver.value(&pair.value, &pair.key, pair.key_span, &shape);
        let mut entry = Entry::named(component.name, options);
        entry.place = place.iter().cloned().chain([pair.key.clone()]).collect();
        Some(entry)
    }

    /// The one key that is a component's name; all keys that are neither that nor one of `beside` are refused.
    pub(crate) fn kind<'n>(
        &mut self,
        role: Role,
        node: &Node,
        pairs: &'n [Pair],
        named_at: Option<Span>,
        beside: &[&str],
    ) -> Option<(&'n Pair, &'a Component)> {
        let registry = self.registry;
        let (mut kind, mut unknown) = (None::<(&Pair, &Component)>, Vec::new());
        for pair in pairs.iter().filter(|pair| !beside.contains(&pair.key.as_str())) {
            match (registry.get(role, &pair.key), kind) {
                (Ok(component), None) => kind = Some((pair, component)),
                (Ok(_), Some((first, _))) => {
                    let message = format!("a {role} has one kind, and this one has `{}` and `{}`", first.key, pair.key);
                    self.problem(
                        Problem::option(pair.key_span, message)
                            .hint(format!("make `{}` a {role} of its own", pair.key)),
                    );
                }
                (Err(error), _) => unknown.push((pair, error)),
            }
        }
        let none = kind.is_none() && unknown.is_empty();
        for (pair, error) in unknown {
            let problem = self.unknown_kind(role, pair, error, kind.map(|(pair, _)| pair.key.as_str()), beside);
            self.problem(problem);
        }
        if none {
            let known: Vec<&str> = registry.iter().filter(|c| c.role() == role).map(|c| c.name).collect();
            let at = named_at.or_else(|| pairs.first().map(|pair| pair.key_span)).unwrap_or(node.span);
            let problem = Problem::option(at, format!("the {role} does not say what it is"));
            self.problem(problem.hint(format!("give it one of these keys: {}", known.join(", "))));
        }
        kind
    }

    fn unknown_kind(&self, role: Role, pair: &Pair, error: Error, kind: Option<&str>, beside: &[&str]) -> Problem {
        let key = pair.key.as_str();
        if let Some(problem) = later(pair) {
            return problem;
        }
        if key == "buffer" {
            let problem = Problem::option(pair.key_span, format!("a {role} has no `buffer`"));
            return problem.hint("sinks have buffers: they hold what a slow sink has not taken yet");
        }
        if let Some(hint) = quoting::unknown_key(key) {
            return Problem::option(pair.key_span, format!("there is no {role} `{key}`")).hint(hint);
        }
        let other =
            [Role::Source, Role::Step, Role::Sink].into_iter().find(|role| self.registry.get(*role, key).is_ok());
        if let Some(other) = other.filter(|_| kind.is_none()) {
            return Problem::option(pair.key_span, format!("`{key}` is a {other}, not a {role}"))
                .hint(format!("move it to `{other}s`"));
        }
        let near = suggest(key, beside).filter(|hint| hint.starts_with("did you mean"));
        match (kind, near) {
            (None, Some(near)) if error.hint_text().is_none_or(|hint| !hint.starts_with("did you mean")) => {
                Problem::option(pair.key_span, format!("unknown key `{key}`")).hint(near)
            }
            (None, _) => Problem::new(pair.key_span, error),
            (Some(kind), near) => {
                let problem = Problem::option(pair.key_span, format!("unknown key `{key}` beside `{kind}`"));
                problem
                    .hint(near.unwrap_or_else(|| format!("options stand inside the kind: `{kind}: {{ {key}: ... }}`")))
            }
        }
    }

    fn not_an_entry(&mut self, role: Role, node: &Node) {
        let problem = Problem::option(node.span, format!("a {role} must be a map, not {}", node.kind()));
        let kind = node.text().filter(|text| self.registry.get(role, text).is_ok());
        let hint = match kind {
            Some(kind) => format!("write `{kind}: {{}}`"),
            None => format!("write its kind and options, such as `{}`", example(role)),
        };
        self.problem(problem.hint(hint));
    }

    /// A stage's name: unique, and without the dot that separates an output.
    fn stage_name(&mut self, name: &str, span: Span) -> Option<String> {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() || !name.chars().all(plain) {
            let problem = Problem::option(span, format!("`{name}` cannot be the name of a stage"));
            self.problem(problem.hint("use letters, digits, `_` and `-`"));
            return None;
        }
        if let Some(first) = self.names.get(name) {
            let hint = format!("the first is at {}", self.resolver.source.location(first.start));
            self.problem(Problem::option(span, format!("two stages have the name `{name}`")).hint(hint));
            return None;
        }
        self.names.insert(name.to_owned(), span);
        Some(name.to_owned())
    }

    /// One text or a list of them.
    pub(crate) fn texts(&mut self, pair: &Pair) -> Vec<String> {
        match &pair.value.value {
            Value::List(items) => items.iter().filter_map(|item| self.resolver.plain_text(item, &pair.key)).collect(),
            _ => self.resolver.plain_text(&pair.value, &pair.key).into_iter().collect(),
        }
    }

    /// Error rules, checked as far as the file alone allows.
    pub(crate) fn rules(&mut self, pair: &Pair) -> Vec<ErrorRule> {
        if !matches!(pair.value.value, Value::List(_)) {
            let problem =
                Problem::option(pair.value.span, format!("`errors` must be a list, not {}", pair.value.kind()));
            self.problem(problem.hint("write `errors: [{ match: { class: timeout }, then: drop }]`"));
            return Vec::new();
        }
        let rules: Vec<ErrorRule> = self.typed(pair).unwrap_or_default();
        if let Err(error) = Rules::compile(rules.clone()) {
            self.misfit(pair, error);
        }
        rules
    }

    fn buffer(&mut self, pair: &Pair) -> Option<BufferSpec> {
        let buffer: BufferSpec = self.typed(pair)?;
        buffer.validate().map_err(|error| self.misfit(pair, error)).ok()?;
        Some(buffer)
    }

    /// A part of the file that has a type of its own.
    pub(crate) fn typed<T: DeserializeOwned>(&mut self, pair: &Pair) -> Option<T> {
        let value = self.resolver.value(&pair.value, &pair.key, pair.key_span, &Shape::unknown());
        parse_options(&value).map_err(|error| self.misfit(pair, error)).ok()
    }

    fn misfit(&mut self, pair: &Pair, error: Error) {
        let path = error.place().map(|place| place.path.clone()).unwrap_or_default();
        let span = point(self.resolver.source, &self.resolver.changed, &pair.value, Some(pair.key_span), &path, &error);
        self.problem(Problem::new(span, error));
    }
}

/// A key that this version does not have yet.
pub(crate) fn later(pair: &Pair) -> Option<Problem> {
    let key = pair.key.as_str();
    let known = LATER_KEYS.contains(&key) || LATER_KEYS_AND_STEPS.contains(&key);
    known.then(|| {
        Problem::option(pair.key_span, format!("unknown key `{key}`"))
            .hint(format!("`{key}` is not in this version yet"))
    })
}

fn example(role: Role) -> &'static str {
    match role {
        Role::Source => "stdin: {}",
        Role::Step => "filter: '.amount > 0'",
        Role::Sink => "stdout: {}",
    }
}
