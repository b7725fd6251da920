//! One connection to a streaming system, and what its consumers and producers share.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use millstream_core::{
    Backend, Error, ErrorKind, Owner, Partitioned, PlanContext, Registry, Result, SeekTo, SourceCapabilities,
    SourcePlan,
};
use tokio::runtime::Handle;

use crate::{
    ByUrl, Consumer, ConsumerOptions, Mode, PositionFiles, Positions, Producer, ProducerOptions, ShardBy,
    consumer::{Feed, FeedPlan, Keeping, Lane},
    engine::Engine,
    producer,
};

/// A streaming system, chosen by URL at run time or by type at compile time; makes consumers and producers.
///
/// Cheap to clone. The first consumer or producer starts one thread, on which all of this streamer's sources and sinks
/// run; it ends by itself when the streamer and all that it has made are dropped, and what producers have accepted is
/// written. [`Streamer::on_runtime`] gives them a runtime of yours instead. Nothing is process-wide: any number of streamers
/// may live side by side.
#[derive(Clone, Debug)]
pub struct Streamer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    backend: Box<dyn Backend>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    engine: Option<Engine>,
    /// Sources that have a name: of groups and of resumable consumers.
    named: HashMap<String, Named>,
}

#[derive(Debug, Default)]
struct Named {
    feed: Weak<Feed>,
    /// Held while the source is open, so that one follows the other.
    turnstile: Arc<tokio::sync::Mutex<()>>,
}

impl State {
    /// Forgets names that nobody uses any more.
    fn forget_closed(&mut self) {
        self.named.retain(|_, named| named.feed.strong_count() > 0 || Arc::strong_count(&named.turnstile) > 1);
    }
}

impl Streamer {
    /// The system that a URL names, out of these components; see [`ByUrl`]. Does no I/O.
    ///
    /// # Errors
    /// The URL cannot be read, or no component has its scheme.
    pub fn connect(url: &str, registry: Registry) -> Result<Self> {
        ByUrl::new(url, registry).map(Streamer::of)
    }

    /// A system by its type. Does no I/O.
    pub fn of(backend: impl Backend) -> Self {
        Streamer { shared: Arc::new(Shared { backend: Box::new(backend), state: Mutex::default() }) }
    }

    /// Lets the sources and sinks of what this streamer and its clones make from here on run on a runtime of the program's,
    /// and not on a thread of their own: a record saves two changes of thread, and a lone one comes sooner.
    ///
    /// They then run only while that runtime does: code that blocks its threads also holds up acknowledgements and signs of
    /// life, and what producers have accepted is lost with a runtime that is shut down before [`Producer::flush`]. Its I/O and
    /// its timers must be enabled.
    #[must_use]
    pub fn on_runtime(self, runtime: Handle) -> Self {
        self.lock().engine = Some(Engine::on(runtime));
        self
    }

    /// The system by its type, for what only that has, such as its native client; `None`: it is another one.
    ///
    /// ```
    /// # use millstream_client::{ByUrl, Streamer};
    /// # fn example(streamer: &Streamer) {
    /// let chosen_by_url = streamer.backend::<ByUrl>().is_some();
    /// # }
    /// ```
    pub fn backend<B: Backend>(&self) -> Option<&B> {
        let backend: &dyn Any = &*self.shared.backend;
        backend.downcast_ref()
    }

    /// What it is connected to, for people; secrets hidden.
    pub fn describe(&self) -> String {
        self.shared.backend.describe()
    }

    /// A consumer of these streams; none: of those that the URL names, or all.
    ///
    /// Does not wait: the source is opened in the background, and tried again until it opens. A program that must not miss
    /// what it is about to write itself calls [`Consumer::opened`] first. A source that cannot be read twice, such as
    /// standard input, is opened when a consumer first asks for something: create all consumers before, and none misses a
    /// record.
    ///
    /// # Errors
    /// Options that do not fit the system, with a hint. [`ErrorKind::Exists`]: a resumable consumer of that name is open.
    pub fn create_consumer(&self, streams: &[&str], options: ConsumerOptions) -> Result<Consumer> {
        let backend = &*self.shared.backend;
        let (lanes, shared) = match &options.mode {
            Mode::RealTime => {
                let source = backend.source(streams, None)?;
                let plan = self.plan(source, Keeping::Nothing, &options, Arc::default());
                (vec![self.alone(plan, &options)?], false)
            }
            Mode::Resumable { name } => (vec![self.resumable(name, streams, &options)?], false),
            Mode::LoadBalanced { group } => self.load_balanced(group, streams, &options)?,
        };
        Ok(Consumer::new(lanes, options.ack, shared))
    }

    /// A producer to this stream; an empty name: the one that the URL names, or each record's own.
    ///
    /// Does not wait: the sink is opened in the background, and tried again until it opens.
    ///
    /// # Errors
    /// Options that do not fit the system, with a hint. [`ErrorKind::Unsupported`]: shards are to be chosen
    /// ([`ProducerOptions::shard_by`]), and the system has none.
    pub fn create_producer(&self, stream: &str, options: ProducerOptions) -> Result<Producer> {
        let (backend, context) = (&*self.shared.backend, PlanContext::default());
        let plan = match &options.shard_by {
            ShardBy::System => backend.sink(stream, &context)?,
            ShardBy::Record => backend.sink_by_shard(stream, &context)?,
            ShardBy::Partitioner(partitioner) => {
                Box::new(Partitioned::new(backend.sink_by_shard(stream, &context)?, partitioner.clone()))
            }
        };
        producer::start(plan, stream, options, &self.engine()?)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn engine(&self) -> Result<Engine> {
        let mut state = self.lock();
        if let Some(engine) = &state.engine {
            return Ok(engine.clone());
        }
        let engine = Engine::start()?;
        state.engine = Some(engine.clone());
        Ok(engine)
    }

    fn plan(
        &self,
        source: Box<dyn SourcePlan>,
        keeping: Keeping,
        options: &ConsumerOptions,
        turnstile: Arc<tokio::sync::Mutex<()>>,
    ) -> FeedPlan {
        let capabilities = source.capabilities();
        // A member that goes away leaves behind what it has read, where nobody can read that again.
        let once = capabilities.owner == Owner::Nobody;
        let on_demand = capabilities.groups && once;
        let start = options.start.clone().or_else(|| self.shared.backend.start());
        let start = start.unwrap_or_else(|| usual_start(&*source, options));
        FeedPlan { source, start, keeping, member: None, on_demand, lazy: once, turnstile }
    }

    /// A source that one consumer reads.
    fn alone(&self, plan: FeedPlan, options: &ConsumerOptions) -> Result<Lane> {
        Feed::start(plan, options, &self.engine()?)
    }

    fn resumable(&self, name: &str, streams: &[&str], options: &ConsumerOptions) -> Result<Lane> {
        let mut source = self.shared.backend.source(streams, None)?;
        let mut positions = self.positions(options);
        if positions.is_none() {
            // A system with groups keeps the position of one that has a single member.
            let of_group = self.shared.backend.source(streams, Some(name).filter(|name| !name.is_empty()))?;
            if of_group.capabilities().owner == Owner::System {
                source = of_group;
            }
        }
        if source.capabilities().owner == Owner::Nobody {
            let what = format!("cannot resume {}: nobody can read again what was read", source.describe());
            return Err(Error::new(ErrorKind::Unsupported, what).hint("use a real-time consumer"));
        }
        let keeping = match (positions.take(), source.capabilities().owner) {
            (Some(positions), _) => Keeping::Saved(positions, name.to_owned()),
            (None, Owner::System) => Keeping::Source,
            (None, _) => {
                let what = format!("there is no place for the position of `{name}`");
                return Err(Error::new(ErrorKind::Option, what)
                    .hint("give `positions`, such as `PositionFiles::within(folder)`"));
            }
        };
        if name.is_empty() {
            return Err(
                Error::new(ErrorKind::Option, "a resumable consumer needs a name").hint("name it by what it does")
            );
        }
        let engine = self.engine()?;
        let mut state = self.lock();
        state.forget_closed();
        let named = state.named.entry(format!("resumable {name}")).or_default();
        if named.feed.upgrade().is_some() {
            return Err(Error::new(ErrorKind::Exists, format!("a consumer `{name}` is open already"))
                .hint("close it first, or give this one another name"));
        }
        let plan = self.plan(source, keeping, options, named.turnstile.clone());
        // After a crash it goes on with what it had taken, and nobody has to wait until it counts as dead.
        let plan = FeedPlan { member: Some(name.to_owned()), ..plan };
        let lane = Feed::start(plan, options, &engine)?;
        named.feed = Arc::downgrade(&lane.feed);
        Ok(lane)
    }

    /// A member of a group: of the system's own, or of one that this streamer makes, stream by stream.
    fn load_balanced(&self, group: &str, streams: &[&str], options: &ConsumerOptions) -> Result<(Vec<Lane>, bool)> {
        if group.is_empty() {
            return Err(Error::new(ErrorKind::Option, "a group needs a name").hint("name it by what its members do"));
        }
        let source = self.shared.backend.source(streams, Some(group))?;
        let capabilities = source.capabilities();
        if capabilities.groups {
            let keeping = match (capabilities.owner, self.positions(options)) {
                (Owner::Checkpoint, Some(positions)) => Keeping::Saved(positions, format!("group-{group}")),
                _ => Keeping::Source,
            };
            let plan = self.plan(source, keeping, options, Arc::default());
            return Ok((vec![self.alone(plan, options)?], true));
        }
        drop(source);
        let engine = self.engine()?;
        let mut state = self.lock();
        state.forget_closed();
        let apart = streams.len() > 1 && capabilities.owner != Owner::Nobody;
        let sets: Vec<&[&str]> = if apart { streams.chunks(1).collect() } else { vec![streams] };
        self.check_sets(&state, group, &sets)?;
        let mut lanes = Vec::with_capacity(sets.len());
        for set in sets {
            let named = state.named.entry(set_name(group, set)).or_default();
            if let Some(lane) = named.feed.upgrade().and_then(Feed::join) {
                lanes.push(lane);
                continue;
            }
            let source = self.shared.backend.source(set, None)?;
            let keeping = self.group_keeping(group, set, source.capabilities(), options);
            let plan = self.plan(source, keeping, options, named.turnstile.clone());
            let lane = Feed::start(plan, options, &engine)?;
            named.feed = Arc::downgrade(&lane.feed);
            lanes.push(lane);
        }
        Ok((lanes, true))
    }

    /// A group is read stream by stream, or as a whole: both at once would hand out records twice.
    fn check_sets(&self, state: &State, group: &str, sets: &[&[&str]]) -> Result<()> {
        let (whole, prefix) = (set_name(group, &[]), format!("group {group}\n"));
        let open = |name: &str| state.named.get(name).is_some_and(|named| named.feed.upgrade().is_some());
        let asks_whole = sets.iter().any(|set| set.is_empty());
        let clash = match asks_whole {
            true => state.named.keys().any(|name| name.starts_with(&prefix) && *name != whole && open(name)),
            false => open(&whole),
        };
        if clash {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("some members of `{group}` name their streams, and some do not"),
            )
            .hint("let all of them name their streams, or none"));
        }
        Ok(())
    }

    fn group_keeping(
        &self,
        group: &str,
        set: &[&str],
        capabilities: SourceCapabilities,
        options: &ConsumerOptions,
    ) -> Keeping {
        match (capabilities.owner, self.positions(options)) {
            (Owner::Checkpoint, Some(positions)) => Keeping::Saved(positions, file_name(group, set)),
            (Owner::Checkpoint, None) => Keeping::Members,
            _ => Keeping::Source,
        }
    }

    fn positions(&self, options: &ConsumerOptions) -> Option<Arc<dyn Positions>> {
        let beside =
            || self.shared.backend.beside().map(|file| Arc::new(PositionFiles::beside(file)) as Arc<dyn Positions>);
        options.positions.clone().or_else(beside)
    }
}

/// Where to begin when nobody has said it.
fn usual_start(source: &dyn SourcePlan, options: &ConsumerOptions) -> SeekTo {
    let SourceCapabilities { bounded, owner, .. } = source.capabilities();
    let live = !bounded && owner != Owner::Nobody && !options.until_end;
    if options.mode == Mode::RealTime && live { SeekTo::End } else { source.start() }
}

/// What a set of streams that a group reads is called. Names of streams hold no line breaks that matter: they are only told apart.
fn set_name(group: &str, set: &[&str]) -> String {
    format!("group {group}\n{}", set.join("\n"))
}

/// Under what the position of a set is kept.
fn file_name(group: &str, set: &[&str]) -> String {
    if set.is_empty() { format!("group-{group}") } else { format!("group-{group}-{}", set.join(",")) }
}
