//! Components as the planner sees them, and the registry that lists them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Error, ErrorKind, Form, Host, Operator, Result, SeekTo, Sink, SinkCapabilities, Source, SourceCapabilities,
    Transform, Url, options::suggest,
};

/// What a pipeline promises of each record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Every record has its effect in every sink or is in the dead letters; state counts it once.
    #[default]
    AtLeastOnce,
    /// Each effect once, also after any crash.
    ExactlyOnce,
    /// Never twice: the position is committed before the records are handled.
    AtMostOnce,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Delivery::AtLeastOnce => "at least once",
            Delivery::ExactlyOnce => "exactly once",
            Delivery::AtMostOnce => "at most once",
        })
    }
}

/// What a component may want to know of the pipeline that it is planned into.
#[derive(Clone, Default)]
pub struct PlanContext {
    /// The pipeline's name; empty where there is no pipeline.
    pub pipeline: String,
    /// The pipeline's promise.
    pub delivery: Delivery,
    /// All sources end by themselves. Only known to steps and sinks.
    pub bounded: bool,
    /// What was written before must be kept: `--continue`, `--until-end`, `--resume`.
    pub append: bool,
    /// What the values are that come in. Only known to steps and sinks.
    pub form: Form,
    /// The pipeline's variables.
    pub vars: BTreeMap<String, String>,
}

/// Shows no variables: they may hold secrets.
impl fmt::Debug for PlanContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlanContext { pipeline, delivery, bounded, append, form, vars: _ } = self;
        let mut shown = f.debug_struct("PlanContext");
        shown
            .field("pipeline", pipeline)
            .field("delivery", delivery)
            .field("bounded", bounded)
            .field("append", append)
            .field("form", form);
        shown.finish_non_exhaustive()
    }
}

/// A source as planned: checked, nothing opened.
pub trait SourcePlan: Send + Sync + fmt::Debug {
    /// What the source can do with these options.
    fn capabilities(&self) -> SourceCapabilities;

    /// What its values are.
    fn form(&self) -> Form;

    /// Where it begins without a checkpoint.
    fn start(&self) -> SeekTo {
        SeekTo::Beginning
    }

    /// What it reads, for people; secrets hidden.
    fn describe(&self) -> String;

    /// The system whose host takes its position into the transaction, named as by [`SinkPlan::transaction`]. Needed for
    /// `exactly_once` where [`Owner::System`](crate::Owner::System) remembers it.
    fn transaction(&self) -> Option<String> {
        None
    }

    /// The source, not yet opened.
    fn create(&self) -> Result<Box<dyn Source>>;

    /// The same source as one that only looks: opening and closing it changes nothing in the system, not even who is in a
    /// group. Opened without a position and at [`SeekTo::End`], by `check --connect`. The source itself, unless it is
    /// a member of a group.
    fn observer(&self) -> Result<Box<dyn Source>> {
        self.create()
    }

    /// A run that reads it is over, however it ended, also when it never came to open the source. For a source whose other end
    /// is in the program: whoever waits there is told. Must not block.
    fn over(&self) {}
}

/// A sink as planned: checked, nothing opened.
pub trait SinkPlan: Send + Sync + fmt::Debug {
    /// What the sink can do with these options.
    fn capabilities(&self) -> SinkCapabilities;

    /// What it writes to, for people; secrets hidden.
    fn describe(&self) -> String;

    /// The system in whose transactions it can write, such as `kafka://b1:9092`: sinks with the same one share a host.
    /// Only where [`SinkCapabilities::way`] is [`Way::Hosting`](crate::Way::Hosting); or
    /// [`Way::TwoPhase`](crate::Way::TwoPhase), where the sink commits in two phases only if another transaction is chosen.
    fn transaction(&self) -> Option<String> {
        None
    }

    /// A host of that system's transactions, not yet connected.
    fn host(&self) -> Result<Box<dyn Host>> {
        Err(Error::new(ErrorKind::Unsupported, "this sink has no transactions"))
    }

    /// What `check` should warn about, such as keys that are dropped.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// The sink, not yet opened.
    fn create(&self) -> Result<Box<dyn Sink>>;
}

/// A step as planned: checked and typed, nothing started.
pub trait StepPlan: Send + Sync + fmt::Debug {
    /// Names of the outputs, in the order of their ports; empty: one, without a name.
    fn outputs(&self) -> Vec<String> {
        Vec::new()
    }

    /// Outputs that need no reader: what goes there is counted as filtered.
    fn optional_outputs(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the values are that it emits.
    fn form(&self) -> Form;

    /// Whether it keeps state.
    fn stateful(&self) -> bool {
        false
    }

    /// Whether it waits for the end of its input and so needs sources that end.
    fn needs_end(&self) -> bool {
        false
    }

    /// Whether several workers may each have one of it: without state, or with state that belongs to the record's key.
    fn scales(&self) -> bool {
        !self.stateful()
    }

    /// Whether it does work of its own while it waits, so that it gets a task of its own.
    fn waits(&self) -> bool {
        self.stateful()
    }

    /// Changes an option while it runs, in all its workers; the name and value are those of a pipeline file.
    fn change(&self, option: &str, value: &Value) -> Result<()> {
        let _ = value;
        Err(Error::new(ErrorKind::Unsupported, format!("`{option}` cannot be changed while the step runs")))
    }

    /// Whether the same input always gives the same output.
    fn deterministic(&self) -> bool {
        true
    }

    /// The step, ready to run.
    fn create(&self) -> Result<Step>;
}

/// A step that is ready to run.
pub enum Step {
    /// Without state.
    Transform(Box<dyn Transform>),
    /// With state, time or I/O.
    Operator(Box<dyn Operator>),
}

/// Whether a component reads, writes or works in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A source.
    Source,
    /// A step.
    Step,
    /// A sink.
    Sink,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Source => "source",
            Role::Step => "step",
            Role::Sink => "sink",
        })
    }
}

type Make<P> = fn(&Value, &PlanContext) -> Result<Box<P>>;

/// How to plan a component from its options.
#[derive(Clone, Copy)]
pub enum Planner {
    /// A source.
    Source(Make<dyn SourcePlan>),
    /// A step.
    Step(Make<dyn StepPlan>),
    /// A sink.
    Sink(Make<dyn SinkPlan>),
}

/// One entry of the registry.
#[derive(Clone, Copy)]
pub struct Component {
    /// Its name in pipeline files: a noun for sources and sinks, a verb for steps.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// JSON Schema of its options.
    pub schema: fn() -> schemars::Schema,
    /// How to plan it.
    pub planner: Planner,
    /// URL schemes that mean it; empty for steps.
    pub schemes: &'static [&'static str],
    /// Its options from a URL with one of these schemes.
    pub from_url: Option<fn(&Url) -> Result<Value>>,
    /// The shortest example, as it stands in a pipeline file.
    pub example: &'static str,
}

impl Component {
    /// Whether it reads, writes or works in between.
    pub fn role(&self) -> Role {
        match self.planner {
            Planner::Source(_) => Role::Source,
            Planner::Step(_) => Role::Step,
            Planner::Sink(_) => Role::Sink,
        }
    }
}

/// All components that a program knows, by role and name.
#[derive(Clone, Default)]
pub struct Registry {
    components: BTreeMap<(Role, &'static str), Component>,
}

/// Shows the names.
impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.components.keys()).finish()
    }
}

impl Registry {
    /// Adds a component; one of the same role and name is replaced.
    pub fn add(&mut self, component: Component) {
        self.components.insert((component.role(), component.name), component);
    }

    /// All components, by role and name.
    pub fn iter(&self) -> impl Iterator<Item = &Component> {
        self.components.values()
    }

    /// The component `name` of a role.
    pub fn get(&self, role: Role, name: &str) -> Result<&Component> {
        // The range scan spares building a key with a static name.
        self.components.values().find(|component| component.role() == role && component.name == name).ok_or_else(|| {
            let known: Vec<_> =
                self.iter().filter(|component| component.role() == role).map(|component| component.name).collect();
            let error = Error::new(ErrorKind::Option, format!("there is no {role} `{name}`"));
            suggest(name, &known).into_iter().fold(error, |error, hint| error.hint(hint))
        })
    }

    /// The component of a role that a URL's scheme means, with its options from the URL.
    pub fn by_url(&self, role: Role, url: &Url) -> Result<(&Component, Value)> {
        let found =
            self.iter().find(|component| component.role() == role && component.schemes.contains(&url.scheme.as_str()));
        let Some((component, from_url)) = found.and_then(|component| Some((component, component.from_url?))) else {
            let known: Vec<_> =
                self.iter().filter(|component| component.role() == role).flat_map(|c| c.schemes).copied().collect();
            let error = Error::new(ErrorKind::Option, format!("no {role} has the scheme `{}:`", url.scheme));
            return Err(suggest(&url.scheme, &known).into_iter().fold(error, |error, hint| error.hint(hint)));
        };
        Ok((component, from_url(url)?))
    }
}
