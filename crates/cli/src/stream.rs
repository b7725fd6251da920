//! Pipelines made from URLs: what `relay`, `produce`, `consume`, `clock` and `file decode` run.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use clap::Args;
use millstream::{
    Home, Size,
    core::{
        Component, Error, ErrorKind, Owner, PlanContext, Planner, Registry, Result, Role, SeekTo, SinkPlan, SourcePlan,
        StepPlan, Url, set_option,
    },
    runtime::{Entry, PipelineSpec, Plan, PlanOptions, StateSpec},
};
use serde_json::{Map, Value};

use crate::{
    engine::{self, Job, Settings},
    exit::{Failure, Outcome},
    letters,
    observing::Watching,
    story::Story,
    talk::Talk,
};

/// Bytes after which a stream that goes to standard output gets an epoch. Until then a pipe's records are kept, because they
/// cannot be read again; so much stays in the caches, and an epoch costs a flush of the pipe.
const EPOCH_BYTES: Size = Size(8 << 20);

/// What `relay` and `consume` share: where to begin, and where to stop.
#[derive(Debug, Default, Args)]
pub(crate) struct Range {
    /// Where to begin: `beginning`, `end`, `committed` (by the group), a sequence number (inclusive), or a time in RFC 3339
    #[arg(long, value_name = "WHERE", value_parser = |text: &str| text.parse::<SeekTo>().map_err(readable))]
    pub(crate) start: Option<SeekTo>,
    /// Stop at the end as it is now; without it new records are waited for, until the stream itself ends
    #[arg(long)]
    pub(crate) until_end: bool,
    /// Stop after N records
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Read as a member of a group, which shares the records and keeps the position
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<String>,
}

/// Where a resumable relay keeps its position.
#[derive(Clone, Debug, Args)]
pub(crate) struct StateDir {
    /// Where checkpoints, state and dead letters are kept
    #[arg(long, value_name = "DIR", env = "MILLSTREAM_STATE_DIR", default_value = ".millstream")]
    pub(crate) state_dir: PathBuf,
}

/// How long a drain may take.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Drain {
    /// How long the first signal lets the pipeline work off what it has read
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = |text: &str| text.parse::<millstream::Span>().map_err(readable))]
    pub(crate) drain_timeout: millstream::Span,
}

/// An error as the parser of the command line shows it.
pub(crate) fn readable(error: Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

/// A source or sink that a URL names.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// As people see it: secrets hidden.
    pub(crate) shown: String,
    /// The component's name.
    pub(crate) kind: &'static str,
    pub(crate) options: Map<String, Value>,
    properties: Vec<String>,
    component: Component,
}

impl Endpoint {
    /// Looks a URL up.
    pub(crate) fn new(role: Role, url: &str, registry: &Registry) -> Result<Self> {
        let verb = if role == Role::Source { "read from" } else { "write to" };
        let parsed = Url::parse(url)?;
        let cannot = |error: Error| error.context(format!("cannot {verb} `{parsed}`"));
        let (component, options) = registry.by_url(role, &parsed).map_err(cannot)?;
        let Value::Object(options) = options else {
            return Err(Error::new(ErrorKind::Bug, format!("the options of `{}` are no object", component.name)));
        };
        let properties = properties((component.schema)().to_value());
        Ok(Endpoint { shown: parsed.to_string(), kind: component.name, options, properties, component: *component })
    }

    /// Sets the options of `-o NAME=VALUE`.
    pub(crate) fn set_all(&mut self, pairs: &[String]) -> Result<()> {
        for pair in pairs {
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                Error::new(ErrorKind::Option, "an option of -o is not `NAME=VALUE`")
                    .hint("write it as `-o codec=ndjson`")
            })?;
            set_option(&mut self.options, name, value)
                .map_err(|error| error.context(format!("cannot use -o for `{}`", self.shown)))?;
        }
        Ok(())
    }

    /// Whether the component has such an option.
    pub(crate) fn knows(&self, option: &str) -> bool {
        self.properties.iter().any(|known| known == option)
    }

    /// Whether it is a system that remembers the positions of groups, and never ends by itself.
    fn live(&self) -> bool {
        let mut grouped = self.options.clone();
        grouped.entry("group").or_insert_with(|| Value::String("any".to_owned()));
        match self.component.planner {
            Planner::Source(plan) => plan(&Value::Object(grouped), &PlanContext::default())
                .is_ok_and(|plan| plan.capabilities().owner == Owner::System),
            _ => false,
        }
    }

    /// Reads as a member of a group, with what the URL says of groups besides a name.
    fn join(&mut self, group: &str) -> Result<()> {
        let named = Value::String(group.to_owned());
        let mut grouped = self.clone();
        let other = match grouped.options.get_mut("group") {
            Some(Value::Object(own)) => own.insert("name".to_owned(), named.clone()),
            _ => grouped.options.insert("group".to_owned(), named.clone()),
        };
        if !grouped.knows("group") || !grouped.live() {
            let message = format!("cannot read `{}` as a member of a group: files and pipes have none", self.shown);
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("`relay --resume NAME` keeps a position without a group"));
        }
        if other.is_some_and(|other| other != named) {
            let message = format!("`{}` and --group name different groups", self.shown);
            return Err(Error::new(ErrorKind::Option, message).hint("name the group once"));
        }
        *self = grouped;
        Ok(())
    }

    /// Applies where to begin and whether to follow. `live`: where to begin by itself in a system that never ends.
    pub(crate) fn range(&mut self, range: &Range, live: SeekTo) -> Result<()> {
        if let Some(group) = &range.group {
            self.join(group)?;
        }
        if self.knows("follow") && !self.options.contains_key("follow") {
            let mut follows = self.options.clone();
            follows.insert("follow".to_owned(), Value::Bool(true));
            // Not everything can be followed: a compressed file, say, is read once.
            if self.plans(&follows) {
                self.options = follows;
            }
        }
        let start = match &range.start {
            Some(start) => start.clone(),
            // A component that follows begins at the end by default; a command does not.
            None if !self.knows("start") || self.options.contains_key("start") => return Ok(()),
            None if self.options.contains_key("group") => SeekTo::Committed,
            None if self.live() && !range.until_end => live,
            None => SeekTo::Beginning,
        };
        if !self.knows("start") {
            return match start {
                SeekTo::Beginning => Ok(()),
                _ => Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("cannot begin at `{start}` of `{}`: it can be read only from its beginning", self.shown),
                )
                .hint("leave --start out")),
            };
        }
        match self.options.insert("start".to_owned(), Value::String(start.to_string())) {
            None => Ok(()),
            Some(_) => {
                Err(Error::new(ErrorKind::Option, format!("`{}` and --start both say where to begin", self.shown)))
            }
        }
    }

    fn plans(&self, options: &Map<String, Value>) -> bool {
        let options = Value::Object(options.clone());
        match self.component.planner {
            Planner::Source(plan) => plan(&options, &PlanContext::default()).is_ok(),
            Planner::Sink(plan) => plan(&options, &PlanContext::default()).is_ok(),
            Planner::Step(_) => false,
        }
    }

    fn entry<P: ?Sized>(&self) -> Entry<P> {
        Entry::named(self.kind, Value::Object(self.options.clone()))
    }

    pub(crate) fn source(&self) -> Entry<dyn SourcePlan> {
        Entry { place: vec![self.shown.clone()], ..self.entry() }
    }

    pub(crate) fn sink(&self) -> Entry<dyn SinkPlan> {
        Entry { place: vec![self.shown.clone()], ..self.entry() }
    }
}

/// The names of all options that a schema knows.
fn properties(schema: Value) -> Vec<String> {
    let mut names = Vec::new();
    if let Some(object) = schema.get("properties").and_then(Value::as_object) {
        names.extend(object.keys().cloned());
    }
    // A component with several shapes of options lists them.
    for key in ["anyOf", "oneOf", "allOf"] {
        for inner in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            let target = inner.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
            let inner = target.and_then(|path| schema.pointer(path)).unwrap_or(inner);
            names.extend(properties(inner.clone()));
        }
    }
    names
}

/// A step of the command line; `flag` names it in messages.
pub(crate) fn step(kind: &str, flag: &str, expression: &str) -> Entry<dyn StepPlan> {
    Entry { place: vec![flag.to_owned()], ..Entry::named(kind, Value::String(expression.to_owned())) }
}

/// A pipeline of the command line, ready to run.
pub(crate) struct Stream {
    pub(crate) spec: PipelineSpec,
    pub(crate) until_end: bool,
    pub(crate) count: Option<u64>,
    /// Where the state is, if any is kept.
    pub(crate) home: Option<Home>,
    pub(crate) drain: Drain,
    /// Records appear on standard output.
    pub(crate) prints: bool,
    /// Where an expression stood: flag and text, to show the place of a mistake.
    pub(crate) expressions: Vec<(&'static str, String)>,
}

impl Stream {
    /// A pipeline that keeps no state.
    pub(crate) fn new(name: &str, source: Entry<dyn SourcePlan>, sink: Entry<dyn SinkPlan>) -> Self {
        let spec = PipelineSpec {
            name: name.to_owned(),
            sources: vec![source],
            sinks: vec![sink],
            state: StateSpec::Memory,
            ..PipelineSpec::default()
        };
        let drain = Drain { drain_timeout: millstream::Span(std::time::Duration::from_secs(30)) };
        Stream { spec, until_end: false, count: None, home: None, drain, prints: false, expressions: Vec::new() }
    }

    /// Plans it; every error says which part of the command line it is about.
    pub(crate) fn plan(&self, registry: &Registry) -> Result<Plan, Failure> {
        let options = PlanOptions { append: self.home.is_some(), until_end: self.until_end };
        Plan::new(&self.spec, registry, options).map_err(|errors| {
            let shown: Vec<Error> = errors.into_iter().map(|error| place(error, &self.expressions)).collect();
            shown.into()
        })
    }

    /// Runs it to its end.
    pub(crate) fn run(mut self, registry: &Registry, talk: &Talk) -> Outcome {
        if self.prints && self.home.is_none() {
            self.spec.checkpoint.bytes = Some(EPOCH_BYTES);
        }
        let plan = self.plan(registry)?;
        if talk.verbose > 0 {
            plan.warnings.iter().for_each(|warning| talk.warn(warning));
        }
        let kept = self.home.is_some();
        let watching = Watching::socket(self.home.clone());
        let home = self.home.unwrap_or_else(|| Home::new(""));
        let mut options = home.options(&plan);
        if !kept {
            options.dead_letters = Arc::new(letters::Printed);
        }
        options.until_end = self.until_end;
        options.count = self.count;
        let story = Story::new(&plan, &home.pipeline(&plan.name), Vec::new(), Arc::new(str::to_owned));
        let expressions = self.expressions;
        let job = Job {
            plan,
            options,
            story,
            told: kept || talk.verbose > 0,
            letters_fail: !kept,
            tasks: Vec::new(),
            home,
            vars: BTreeMap::new(),
            locate: Arc::new(move |error| place(error, &expressions).into()),
        };
        let on_screen = self.prints && std::io::IsTerminal::is_terminal(&std::io::stdout());
        let settings = Settings { drain_timeout: self.drain.drain_timeout.0, progress: !on_screen, watching };
        Ok(engine::run(vec![job], &settings, talk)?)
    }
}

/// Says in words where on the command line an error lies: `--filter:1:7`, or the URL.
pub(crate) fn place(error: Error, expressions: &[(&'static str, String)]) -> Error {
    let Some(place) = error.place().filter(|place| place.location.is_none()).cloned() else { return error };
    let Some((first, rest)) = place.path.split_first() else { return error };
    if let Some((flag, text)) = expressions.iter().find(|(flag, _)| flag == first) {
        let start = place.span.map_or(0, |(start, _)| start);
        let before = text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        return error.located(format!("{flag}:{line}:{column}"));
    }
    match rest {
        [] => error.context(format!("cannot use `{first}`")),
        rest => error.context(format!("cannot use `{first}`: option `{}` is wrong", rest.join("."))),
    }
}
