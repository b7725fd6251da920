//! Building a pipeline in Rust.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_core::{Component, DeadLetter, Delivery, Error, ErrorKind, Result, Role, SourcePlan, Url};
use millstream_runtime::{
    CheckpointSpec, DeadLetterSpec, Entry, ErrorRule, LimitsSpec, PipelineSpec, Plan, PlanOptions, Running, StateSpec,
    Summary,
};

use crate::{
    Buffered, Group, Home,
    draft::{Draft, Id, Port},
    stream::{Raw, Stream},
    typed::{Data, Values},
};

/// A pipeline as written in Rust: sources, steps and sinks, joined to any graph without loops.
///
/// A handle that is cheap to clone: all clones write the same pipeline, and every [`Stream`] of it holds one. A URL or
/// component that does not exist is told by [`Pipeline::plan`] and whatever runs the pipeline, not before.
///
/// ```
/// use millstream::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> millstream::Result<()> {
/// let pipeline = Pipeline::new("squares").in_memory();
/// let (even, odd) = pipeline.values(1..=10u64).map(|n| n * n).branch(|n| n % 2 == 0);
/// even.inspect(|n| println!("{n} is even")).drop();
/// odd.drop().name("odd");
/// let summary = pipeline.run().await?;
/// assert_eq!(summary.stages["odd"].records_in, 5);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Pipeline(Arc<Mutex<Draft>>);

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.draft().spec.fmt(f)
    }
}

impl Pipeline {
    /// An empty pipeline. Its name is its identity: checkpoints and state are found by it.
    pub fn new(name: impl Into<String>) -> Self {
        Pipeline(Arc::new(Mutex::new(Draft::new(name.into()))))
    }

    /// Reads from a URL, such as `file:book.txt`.
    pub fn source(&self, url: &str) -> Stream<Raw> {
        let entry = self.by_url(Role::Source, url, |component, options| Entry::named(component.name, options));
        self.enter_source(entry, "custom")
    }

    /// Reads with a component and its options, as in a pipeline file: `source_with("file", json!({"path": "*.log"}))`.
    pub fn source_with(&self, component: &str, options: serde_json::Value) -> Stream<Raw> {
        self.enter_source(Some(Entry::named(component, options)), component)
    }

    /// Reads from a source of your own.
    pub fn source_of(&self, source: impl SourcePlan + 'static) -> Stream<Raw> {
        self.enter_source(Some(Entry::ready(Arc::new(source))), "custom")
    }

    /// Reads from a source of your own whose batches carry [`Typed`](crate::Typed) bodies of `T`. A batch of any other body
    /// stops the pipeline.
    pub fn typed_source_of<T: Data>(&self, source: impl SourcePlan + 'static) -> Stream<T> {
        self.enter_typed(source, "custom")
    }

    /// These values, and then the end. They are collected here; a run that is resumed goes on where it was.
    pub fn values<T: Data>(&self, values: impl IntoIterator<Item = T>) -> Stream<T> {
        self.enter_typed(Values::new(values.into_iter().collect()), "values")
    }

    /// The promise; at least once if not said.
    #[must_use]
    pub fn delivery(self, delivery: Delivery) -> Self {
        self.set(|spec| spec.delivery = delivery)
    }

    /// When epochs are cut.
    #[must_use]
    pub fn checkpoint(self, checkpoint: CheckpointSpec) -> Self {
        self.set(|spec| spec.checkpoint = checkpoint)
    }

    /// An error rule for all stages, after their own; the first that matches decides.
    #[must_use]
    pub fn on_error(self, rule: ErrorRule) -> Self {
        self.set(|spec| spec.errors.push(rule))
    }

    /// Says what errors of another type are, wherever one comes from a step of this pipeline: as the error itself, or as a cause
    /// of it. What becomes of their records follows from that. `None`: that another one says it, or else that it is the record's
    /// fault. An [`Error`] whose kind was chosen keeps it.
    ///
    /// ```
    /// use millstream::prelude::*;
    ///
    /// # #[derive(Debug)]
    /// enum BankError { Busy, NoCard }
    /// # impl std::fmt::Display for BankError {
    /// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{self:?}") }
    /// # }
    /// # impl std::error::Error for BankError {}
    ///
    /// let pipeline = Pipeline::new("bank").classify(|error: &BankError| match error {
    ///     BankError::Busy => ErrorKind::Unavailable, // tried again
    ///     BankError::NoCard => ErrorKind::Rejected,  // a dead letter
    /// });
    /// # drop(pipeline);
    /// ```
    ///
    /// What an `anyhow::Error` was made of is only seen under a `context`.
    #[must_use]
    pub fn classify<E, I>(self, classify: impl Fn(&E) -> I + Send + Sync + 'static) -> Self
    where
        E: std::error::Error + 'static,
        I: Into<Option<ErrorKind>>,
    {
        self.draft().classifiers.add(classify);
        self
    }

    /// Where dead letters go, and how many are too many. If not said, they are kept where the state is:
    /// [`dead_letters`](Pipeline::dead_letters) reads them.
    #[must_use]
    pub fn dead_letters_to(self, letters: DeadLetterSpec) -> Self {
        self.set(|spec| spec.dead_letter = Some(letters))
    }

    /// Bounds of memory.
    #[must_use]
    pub fn limits(self, limits: LimitsSpec) -> Self {
        self.set(|spec| spec.limits = limits)
    }

    /// Keeps checkpoints and dead letters in this state directory.
    #[must_use]
    pub fn home(self, home: Home) -> Self {
        {
            let mut draft = self.draft();
            (draft.home, draft.at_home) = (home, true);
        }
        self
    }

    /// Keeps checkpoints and state in memory only: a crash of the process begins anew. Dead letters are in memory, too (the
    /// newest of them, up to 16 MiB), and nothing is written to the disk; with a [`home`](Pipeline::home), they are there.
    #[must_use]
    pub fn in_memory(self) -> Self {
        self.set(|spec| spec.state = StateSpec::Memory)
    }

    /// The pipeline as written, every entry with its name. The first error that a call of the builder made.
    pub fn spec(&self) -> Result<PipelineSpec> {
        self.draft().spec()
    }

    /// Checks everything that can be checked without I/O.
    pub fn plan(&self) -> Result<Plan> {
        let (spec, registry) = (self.spec()?, self.draft().registry.clone());
        Plan::new(&spec, &registry, PlanOptions::default()).map_err(first)
    }

    /// Starts it on the current tokio runtime.
    pub fn start(&self) -> Result<Running> {
        let plan = self.plan()?;
        let options = self.draft().options(&plan);
        Ok(Running::start(plan, options))
    }

    /// The dead letters that count, oldest first; also while it runs, and those of earlier runs. Not those that go
    /// [elsewhere](Pipeline::dead_letters_to). Reads the state directory, which blocks.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        let (name, home, kept) = {
            let draft = self.draft();
            (draft.spec.name.clone(), draft.home.clone(), draft.kept_letters().cloned())
        };
        if let Some(kept) = kept {
            return Ok(kept.all());
        }
        let letters = millstream_state::read_dead_letters(&home.pipeline(&name), 0, usize::MAX)?;
        Ok(letters.into_iter().map(|(_, letter)| letter).collect())
    }

    /// Starts it on the current tokio runtime, with the tasks that deliver what is in its sinks' [buffers](crate::End::buffer).
    pub async fn start_group(&self) -> Result<Group> {
        let (spec, registry, home) = {
            let draft = self.draft();
            (draft.spec()?, draft.registry.clone(), draft.home.clone())
        };
        let pipeline = self.clone();
        let buffered = Buffered::new(&spec, &registry, PlanOptions::default(), &home).map_err(first)?;
        Group::start(buffered, &home, |plan| pipeline.draft().options(plan)).await
    }

    /// Runs it to its end. One with buffers is run by [`Pipeline::start_group`].
    ///
    /// Not cancel-safe: dropped before its end it stops the pipeline at once, without a last epoch, because nobody could steer it
    /// any more. [`start`](Pipeline::start) it to drain it.
    ///
    /// # Errors
    /// Those of the [plan](Pipeline::plan), and what has stopped it.
    pub async fn run(&self) -> Result<Summary> {
        self.start()?.abort_on_drop().wait().await
    }

    pub(crate) fn draft(&self) -> MutexGuard<'_, Draft> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn same(&self, other: &Pipeline) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// An entry by its URL; `None` where there is no such component, which is told by the plan.
    pub(crate) fn by_url<E>(
        &self,
        role: Role,
        url: &str,
        entry: impl FnOnce(&Component, serde_json::Value) -> E,
    ) -> Option<E> {
        let mut draft = self.draft();
        let found = Url::parse(url)
            .and_then(|url| draft.registry.by_url(role, &url).map(|(component, options)| (*component, options)));
        match found {
            Ok((component, options)) => Some(entry(&component, options)),
            Err(error) => {
                draft.errors.push(error);
                None
            }
        }
    }

    pub(crate) fn enter_source<T>(&self, entry: Option<Entry<dyn SourcePlan>>, label: &str) -> Stream<T> {
        let id = entry.map(|entry| {
            let label = if entry.kind() == "custom" { label } else { entry.kind() }.to_owned();
            self.draft().source(entry, &label)
        });
        // Without an entry there is an error, and no plan: what it reads is of no account.
        let id = id.unwrap_or(Id::Source(usize::MAX));
        Stream::new(self, vec![Port { entry: id, output: None }], id)
    }

    pub(crate) fn enter_typed<T: Data>(&self, source: impl SourcePlan + 'static, label: &str) -> Stream<T> {
        let stream = self.enter_source(Some(Entry::ready(Arc::new(source))), label);
        #[cfg(feature = "testing")]
        if let Id::Source(nth) = stream.newest {
            self.draft().typings.insert(nth, crate::testing::Typing::of::<T>());
        }
        stream
    }

    fn set(self, change: impl FnOnce(&mut PipelineSpec)) -> Self {
        change(&mut self.draft().spec);
        self
    }
}

/// The first of a plan's errors.
fn first(errors: Vec<Error>) -> Error {
    errors.into_iter().next().unwrap_or_else(|| Error::new(ErrorKind::Bug, "a plan failed without a reason"))
}
