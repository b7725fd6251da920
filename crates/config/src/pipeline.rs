//! A whole file: its top level, in the straight and the graph form.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
};

use millstream_core::{Error, ErrorKind, Registry, Role, Size, Span as Duration, suggest};
use millstream_runtime::{DeadLetterSpec, Entry, PipelineSpec};
use serde::Deserialize;

use crate::{
    entry::{Reader, later},
    interpolate::{Declared, Scope},
    quoting,
    resolve::Resolver,
    source::{Problem, Source, Span},
    tree::{self, Node, Pair, Value},
    variables::{Variables, is_name},
};

/// Keys of the top level, in the order of the documentation.
pub(crate) const TOP_KEYS: [&str; 17] = [
    "name",
    "description",
    "version",
    "tags",
    "source",
    "sources",
    "steps",
    "sink",
    "sinks",
    "vars",
    "delivery",
    "state",
    "checkpoint",
    "errors",
    "dead_letter",
    "limits",
    "$schema",
];

/// Longest name of a pipeline: it becomes the name of a folder.
const NAME_BYTES_MAX: usize = 200;

/// A variable as the file declares it.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct VarSpec {
    /// What its value must be.
    #[serde(rename = "type")]
    kind: VarType,
    /// Its value if nothing else gives one; taken as written.
    default: Option<String>,
    /// Never print it.
    secret: bool,
    /// What it is for.
    description: Option<String>,
}

/// What the value of a variable must be.
#[derive(Clone, Copy, Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
enum VarType {
    /// Any text.
    #[default]
    Text,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// `true` or `false`.
    Bool,
    /// A time with its unit: `5s`.
    Duration,
    /// A size with its unit: `64KiB`.
    Size,
}

/// What became of a file.
pub(crate) struct Outcome {
    pub(crate) spec: PipelineSpec,
    pub(crate) problems: Vec<Problem>,
    pub(crate) root: Option<Node>,
    pub(crate) changed: HashSet<usize>,
    pub(crate) secrets: BTreeSet<String>,
    pub(crate) used: BTreeSet<String>,
}

/// Reads all that can be read of a file.
pub(crate) fn read(source: &Source, dir: PathBuf, registry: &Registry, variables: &Variables) -> Outcome {
    let (root, problems) = tree::read(source);
    let scope =
        Scope { variables, declared: BTreeMap::new(), dir, secrets: RefCell::default(), used: RefCell::default() };
    let resolver = Resolver { source, scope, problems, changed: HashSet::new(), vars: BTreeMap::new() };
    let mut reader = Reader::new(registry, resolver);
    let mut spec = PipelineSpec::default();
    match root.as_ref().map(|root| (root, root.pairs())) {
        Some((_, Some(pairs))) => reader.top(pairs, &mut spec),
        Some((root, None)) if !root.null() => {
            let problem = Problem::new(
                root.span,
                Error::new(ErrorKind::Syntax, format!("a pipeline file must be a map, not {}", root.kind())),
            );
            reader.problem(problem.hint("begin with `source:`, `steps:` and `sink:`"));
        }
        _ if reader.resolver.problems.is_empty() => {
            let problem = Problem::new(Span::default(), Error::new(ErrorKind::Syntax, "the file holds no pipeline"));
            reader.problem(problem.hint("begin with `source:`, `steps:` and `sink:`"));
        }
        _ => {}
    }
    let Resolver { scope, problems, changed, vars, .. } = reader.resolver;
    spec.vars.extend(vars);
    Outcome { spec, problems, root, changed, secrets: scope.secrets.into_inner(), used: scope.used.into_inner() }
}

impl Reader<'_> {
    fn top(&mut self, pairs: &[Pair], spec: &mut PipelineSpec) {
        let get = |key: &str| pairs.iter().find(|pair| pair.key == key);
        // First of all, because everything else may use them.
        if let Some(pair) = get("vars") {
            spec.vars = self.vars(pair);
        }
        spec.vars.extend(self.resolver.scope.variables.given().clone());
        self.identity(pairs, spec);
        spec.sources = self.ends(Role::Source, get("source"), get("sources"));
        spec.steps = get("steps").map(|pair| self.steps(pair)).unwrap_or_default();
        spec.sinks = self.ends(Role::Sink, get("sink"), get("sinks"));
        self.present(pairs);
        let several = get("steps").and_then(|pair| pair.value.pairs()).is_some_and(|steps| steps.len() > 1);
        if several
            && let Some(pair) = spec.sinks.iter().find(|sink| sink.from.is_empty()).and_then(|sink| {
                let (group, name) = (sink.place.first()?, sink.place.get(1)?);
                let ends = get(group)?;
                Some(ends.value.pairs()?.iter().find(|pair| group == "sinks" && pair.key == *name).unwrap_or(ends))
            })
        {
            let problem = Problem::option(pair.key_span, "the sink does not say what it reads");
            self.problem(problem.hint("give it `from`: a map of steps has no last one"));
        }
        if let Some(pair) = get("delivery") {
            spec.delivery = self.typed(pair).unwrap_or_default();
        }
        if let Some(pair) = get("state") {
            spec.state = self.typed(pair).unwrap_or_default();
        }
        if let Some(pair) = get("checkpoint").filter(|pair| self.map(pair)) {
            spec.checkpoint = self.typed(pair).unwrap_or_default();
        }
        if let Some(pair) = get("limits").filter(|pair| self.map(pair)) {
            spec.limits = self.typed(pair).unwrap_or_default();
        }
        if let Some(pair) = get("errors") {
            spec.errors = self.rules(pair);
        }
        if let Some(pair) = get("dead_letter").filter(|pair| self.map(pair)) {
            spec.dead_letter = self.dead_letter(pair);
        }
    }

    /// Name, description, version, tags; and keys that are none.
    fn identity(&mut self, pairs: &[Pair], spec: &mut PipelineSpec) {
        let stem = self.resolver.source.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let mut name = (stem.unwrap_or_default(), Span::default(), "the file's name");
        for pair in pairs {
            match pair.key.as_str() {
                "name" => match self.resolver.plain_text(&pair.value, "name") {
                    Some(text) => name = (text, pair.value.span, "`name`"),
                    None => return,
                },
                "description" => spec.description = self.resolver.plain_text(&pair.value, "description"),
                "version" => spec.version = self.resolver.plain_text(&pair.value, "version"),
                "tags" => spec.tags = self.texts(pair),
                key if TOP_KEYS.contains(&key) => {}
                key => {
                    let known: Vec<&str> = TOP_KEYS.into_iter().filter(|known| *known != "$schema").collect();
                    let hint = quoting::unknown_key(key).or_else(|| suggest(key, &known)).unwrap_or_default();
                    let unknown = || Problem::option(pair.key_span, format!("unknown key `{key}`")).hint(hint);
                    let problem = later(pair).unwrap_or_else(unknown);
                    self.problem(problem);
                }
            }
        }
        let (text, span, what) = name;
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let dots = text.bytes().all(|byte| byte == b'.');
        if !plain || dots || text.len() > NAME_BYTES_MAX {
            let problem = Problem::option(span, format!("`{text}` cannot be the name of a pipeline ({what})"));
            self.problem(
                problem.hint(
                    "give it a `name` of letters, digits, `.`, `_` and `-`: state is kept in a folder of that name",
                ),
            );
        }
        spec.name = text;
    }

    /// A pipeline has a beginning and an end.
    fn present(&mut self, pairs: &[Pair]) {
        // A key that is not known may well be the missing one.
        if pairs.iter().any(|pair| !TOP_KEYS.contains(&pair.key.as_str())) {
            return;
        }
        for role in ["source", "sink"] {
            if !pairs.iter().any(|pair| pair.key.strip_suffix('s').unwrap_or(&pair.key) == role) {
                let at = pairs.first().map(|pair| pair.key_span).unwrap_or_default();
                let example = if role == "source" { "stdin" } else { "stdout" };
                let problem = Problem::option(at, format!("the pipeline has no {role}"));
                self.problem(problem.hint(format!("add `{role}: {{ {example}: {{}} }}`")));
            }
        }
    }

    /// `source` or `sources`, `sink` or `sinks`.
    fn ends<P: ?Sized>(&mut self, role: Role, one: Option<&Pair>, several: Option<&Pair>) -> Vec<Entry<P>> {
        if let (Some(one), Some(several)) = (one, several) {
            let later = if one.key_span.start > several.key_span.start { one } else { several };
            let problem = Problem::option(later.key_span, format!("there are both `{role}` and `{role}s`"));
            self.problem(problem.hint(format!("name them all in `{role}s`")));
        }
        if let Some(pair) = one {
            return self.entry(role, &pair.value, None, std::slice::from_ref(&pair.key)).into_iter().collect();
        }
        let Some(pair) = several.filter(|pair| self.map(pair)) else { return Vec::new() };
        let entries = pair.value.pairs().unwrap_or_default();
        if entries.is_empty() {
            self.problem(
                Problem::option(pair.key_span, format!("the pipeline has no {role}")).hint("name at least one"),
            );
        }
        let place = |named: &Pair| [pair.key.clone(), named.key.clone()];
        entries.iter().filter_map(|named| self.entry(role, &named.value, Some(named), &place(named))).collect()
    }

    /// A list, where each step reads the one above, or a map from names to steps, where each says what it reads.
    fn steps(&mut self, pair: &Pair) -> Vec<Entry<dyn millstream_core::StepPlan>> {
        let place = |key: String| [pair.key.clone(), key];
        match &pair.value.value {
            Value::Null => Vec::new(),
            Value::List(items) => {
                let items = items.iter().enumerate();
                items.filter_map(|(i, item)| self.entry(Role::Step, item, None, &place(i.to_string()))).collect()
            }
            Value::Map(pairs) => {
                let mut steps = Vec::new();
                for named in pairs {
                    let Some(entry) = self.entry(Role::Step, &named.value, Some(named), &place(named.key.clone()))
                    else {
                        continue;
                    };
                    if entry.from.is_empty() && pairs.len() > 1 {
                        let message = format!("step `{}` does not say what it reads", named.key);
                        let hint = "give it `from`: a map has no order; or write `steps` as a list";
                        self.problem(Problem::option(named.key_span, message).hint(hint));
                    }
                    steps.push(entry);
                }
                steps
            }
            _ => {
                let problem = Problem::option(
                    pair.value.span,
                    format!("`steps` must be a list or a map, not {}", pair.value.kind()),
                );
                self.problem(problem.hint("write one step a line: `- filter: '.amount > 0'`"));
                Vec::new()
            }
        }
    }

    /// A sink, and `stop_after` beside it.
    fn dead_letter(&mut self, pair: &Pair) -> Option<DeadLetterSpec> {
        let pairs = pair.value.pairs()?;
        let mut stop_after = None;
        if let Some(limit) = pairs.iter().find(|pair| pair.key == "stop_after") {
            stop_after = self.typed(limit);
        }
        if stop_after.is_some() && pairs.len() == 1 {
            return Some(DeadLetterSpec { sink: None, stop_after });
        }
        let (kind, component) = self.kind(Role::Sink, &pair.value, pairs, Some(pair.key_span), &["stop_after"])?;
        let sink = self.component(component, kind, std::slice::from_ref(&pair.key))?;
        Some(DeadLetterSpec { sink: Some(sink), stop_after })
    }

    /// Whether a value is a map; else that is a problem.
    fn map(&mut self, pair: &Pair) -> bool {
        let map = pair.value.pairs().is_some();
        if !map {
            let message = format!("`{}` must be a map, not {}", pair.key, pair.value.kind());
            self.problem(Problem::option(pair.value.span, message).hint(format!("write `{}: {{ ... }}`", pair.key)));
        }
        map
    }

    /// Declares the file's variables; returns those that have a value.
    fn vars(&mut self, pair: &Pair) -> BTreeMap<String, String> {
        let mut values = BTreeMap::new();
        if !self.map(pair) {
            return values;
        }
        for named in pair.value.pairs().unwrap_or_default() {
            if !is_name(&named.key) || named.key == "dir" {
                let problem =
                    Problem::option(named.key_span, format!("`{}` cannot be the name of a variable", named.key));
                self.problem(
                    problem.hint("use letters, digits and `_`, and no digit first; `dir` is the file's folder"),
                );
                continue;
            }
            let Some(declared) = self.declared(named) else { continue };
            let (kind, spec) = declared;
            self.resolver.scope.declared.insert(named.key.clone(), spec.clone());
            let Some(value) = self.resolver.scope.value(&named.key) else { continue };
            if !kind.fits(&value) {
                let shown = if spec.secret { "its value".to_owned() } else { format!("`{value}`") };
                let problem = Problem::option(
                    named.key_span,
                    format!("variable `{}`: {shown} is not {}", named.key, kind.words()),
                );
                self.problem(
                    problem
                        .hint("it comes from `--set`, the environment, `--env-file` or `default`, whichever is first"),
                );
            }
            values.insert(named.key.clone(), value);
        }
        // Declared is not used: a variable counts as used where it is read.
        self.resolver.scope.used.borrow_mut().clear();
        values
    }

    fn declared(&mut self, named: &Pair) -> Option<(VarType, Declared)> {
        if !self.map(named) {
            return None;
        }
        let default = named.value.pairs()?.iter().find(|pair| pair.key == "default");
        if let Some(text) =
            default.and_then(|pair| pair.value.text().filter(|text| text.contains("${")).map(|_| &pair.value))
        {
            let problem = Problem::option(text.span, "nothing is put into the default of a variable");
            self.problem(problem.hint("write the text as it is; use `${...}` where the variable is used"));
            return None;
        }
        let spec: VarSpec = self.typed(named)?;
        // As written: `1.10` is a number to YAML.
        let source = self.resolver.source;
        let written = default
            .filter(|pair| matches!(pair.value.value, Value::Number(_)))
            .map(|pair| source.slice(pair.value.span).to_owned());
        Some((spec.kind, Declared { default: written.or(spec.default), secret: spec.secret }))
    }
}

impl VarType {
    fn fits(self, value: &str) -> bool {
        match self {
            VarType::Text => true,
            VarType::Int => value.parse::<i128>().is_ok(),
            VarType::Float => value.parse::<f64>().is_ok_and(f64::is_finite),
            VarType::Bool => matches!(value, "true" | "false"),
            VarType::Duration => value.parse::<Duration>().is_ok(),
            VarType::Size => value.parse::<Size>().is_ok(),
        }
    }

    fn words(self) -> &'static str {
        match self {
            VarType::Text => "a text",
            VarType::Int => "a whole number",
            VarType::Float => "a number",
            VarType::Bool => "`true` or `false`",
            VarType::Duration => "a duration such as `5s`",
            VarType::Size => "a size such as `64KiB`",
        }
    }
}
