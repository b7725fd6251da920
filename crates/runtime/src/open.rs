//! Recovery: from a plan to tasks that stand where the checkpoint stands. Always in the same order: fence, read the
//! checkpoint, bring every sink to it, restore state, only then open sources.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use millstream_core::{
    Checkpoint, DeadLetter, Delivery, Epoch, Error, ErrorKind, Operator, Result, Resume, Role, Stamp, Step as CoreStep,
    Store, Token,
};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    align::Inputs,
    channel::{Receiver, Sender, edge},
    coordinate::Ends,
    dead_letter_task::{Causes, DeadLetterTask, LETTERS_QUEUED_MAX, Style},
    metrics::{PipelineMetrics, StageMetrics},
    pace::{Gate, Pace},
    park::Parked,
    plan::{Node, Plan, Planned},
    retain::Retained,
    run::{RunFlags, Start},
    sink_task::SinkTask,
    source_task::{Lease, Slot, SourceTask},
    stage_task::{StageTask, StepRun, Who, ended_state, parked_state},
    task::{AfterFailure, Board, Context, Failure, Halt, Outputs, Report},
};

/// What outlives a restart inside the process.
pub(crate) struct Lasting {
    pub(crate) plan: Arc<Plan>,
    pub(crate) options: RunFlags,
    pub(crate) store: Box<dyn Store>,
    pub(crate) metrics: Arc<PipelineMetrics>,
    pub(crate) board: Arc<Board>,
    pub(crate) causes: Causes,
    pub(crate) slots: HashMap<usize, Slot>,
    pub(crate) retained: HashMap<usize, Arc<Mutex<Retained>>>,
    /// Where the run began.
    pub(crate) start: Option<Start>,
}

/// Tasks that are running, and the coordinator's ends of their channels.
pub(crate) struct Opened {
    pub(crate) tasks: JoinSet<Result<(), Halt>>,
    pub(crate) ends: Ends,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) pace: Arc<Pace>,
}

/// A failure of the opening itself, at `stage`.
fn failure(stage: &str) -> impl Fn(Error) -> Failure + '_ {
    move |error| {
        let then = if error.facts().retry { AfterFailure::Retry } else { AfterFailure::Stop };
        Failure { stage: stage.to_owned(), error, then }
    }
}

impl Lasting {
    /// Opens everything and starts the tasks.
    pub(crate) async fn open(&mut self) -> Result<Opened, Failure> {
        let (checkpoint, start) = self.recover().await?;
        // A restart inside the process does not change where the run began.
        self.start.get_or_insert(start);
        let decided = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.epoch);
        self.metrics.roll_back(decided);
        let plan = self.plan.clone();
        let bounds = Bounds::new(&plan);
        let wiring = Wiring {
            pace: Arc::new(Pace::new(plan.checkpoint.count, plan.checkpoint.bytes.map(|size| size.0))),
            gate: Arc::new(Gate::new(bounds.parked)),
            reports: mpsc::unbounded_channel(),
            letters: mpsc::channel(LETTERS_QUEUED_MAX),
        };
        let still_ended = self.still_ended(checkpoint.as_ref());
        let (ends, tasks) = (Ends::default(), JoinSet::new());
        let mut build = Build { lasting: self, wiring, bounds, decided, still_ended, ends, tasks };
        let mut edges = build.edges();
        let mut sinks = Vec::new();
        for (i, node) in plan.role(Role::Sink) {
            sinks.push((i, build.sink(i, node, checkpoint.as_ref(), &mut edges).await?));
        }
        let letters = build.dead_letters(checkpoint.as_ref()).await?;
        let mut stages = Vec::new();
        for chain in chains(&plan) {
            stages.push(build.stage(&chain, &mut edges).await?);
        }
        let mut sources = Vec::new();
        for (i, node) in plan.role(Role::Source) {
            sources.push(build.source(i, node, checkpoint.as_ref(), &mut edges).await?);
        }
        let Build { wiring, mut ends, mut tasks, .. } = build;
        sinks.into_iter().for_each(|(_, task)| drop(tasks.spawn(task.run())));
        tasks.spawn(letters.run());
        stages.into_iter().for_each(|task| drop(tasks.spawn(task.run())));
        sources.into_iter().for_each(|task| drop(tasks.spawn(task.run())));
        ends.reports = Some(wiring.reports.1);
        Ok(Opened { tasks, ends, checkpoint, pace: wiring.pace })
    }

    /// Fences, reads the checkpoint, and decides where to begin.
    async fn recover(&mut self) -> Result<(Option<Checkpoint>, Start), Failure> {
        let store_failure = failure("state");
        // Also after a failure in this process: a deciding write whose outcome is unknown is settled by fence and load.
        self.store.fence().await.map_err(&store_failure)?;
        let found = self.store.load().await.map_err(&store_failure)?;
        let Some(checkpoint) = found else { return Ok((None, Start::Fresh)) };
        self.check_fingerprint(&checkpoint).map_err(&store_failure)?;
        let anew = match (self.options.fresh, checkpoint.finished && !self.options.go_on) {
            (true, _) => Some(Start::Fresh),
            (_, true) => Some(Start::Anew),
            _ => None,
        };
        let Some(anew) = anew else {
            let epoch = checkpoint.epoch;
            return Ok((Some(checkpoint), Start::Resuming(epoch)));
        };
        // What was decided must count before anything begins anew: a rename may be missing.
        for (_, node) in self.plan.clone().role(Role::Sink) {
            let Planned::Sink(plan) = &node.component else { continue };
            let failed = failure(&node.name);
            let mut sink = plan.create().map_err(&failed)?;
            sink.open(tokens(Some(&checkpoint), &node.name)).await.map_err(&failed)?;
            sink.close().await.map_err(&failed)?;
        }
        self.store.reset().await.map_err(&store_failure)?;
        self.options.fresh = false;
        Ok((None, anew))
    }

    /// For each node, whether its end by the checkpoint is one for this run, too: after a crash between an end and the last
    /// epoch it must not be told twice, but that of `until_end` or `count` is none for a run without them.
    fn still_ended(&self, checkpoint: Option<&Checkpoint>) -> Vec<bool> {
        let options = &self.options;
        let checkpoint = checkpoint.filter(|checkpoint| !checkpoint.drained && !options.go_on);
        let mut ended: Vec<bool> = Vec::new();
        // Each node stands behind what it reads.
        for node in &self.plan.nodes {
            let still = match &node.component {
                Planned::Source(source) => {
                    let by_itself = checkpoint
                        .and_then(|checkpoint| checkpoint.sources.get(&node.name))
                        .is_some_and(|saved| saved.ended);
                    let read = self.metrics.stage(&node.name).records_in.get();
                    by_itself && (source.capabilities().bounded || options.until_end)
                        || checkpoint.is_some() && options.count.is_some_and(|most| read >= most)
                }
                _ => node.inputs.iter().all(|&(from, _)| ended[from]),
            };
            ended.push(still);
        }
        ended
    }

    /// State whose stage is gone, and tokens whose sink is gone, are not forgotten by accident.
    fn check_fingerprint(&self, checkpoint: &Checkpoint) -> Result<()> {
        let now = self.plan.fingerprint();
        let kept = |part: &&str| now.split(',').any(|other| other == *part);
        let stage = checkpoint.plan.split(',').filter(|part| !part.is_empty()).find(|part| !kept(part));
        let sink = checkpoint
            .sinks
            .keys()
            .find(|name| *name != DEAD_LETTERS && !self.plan.nodes.iter().any(|node| node.name == **name));
        let gone = stage.map(|part| format!("the stage `{}`", part.split(':').next().unwrap_or_default()));
        match gone.or(sink.map(|name| format!("the sink `{name}`"))) {
            Some(what) if !self.options.allow_dropped_state && !self.options.fresh => Err(Error::new(
                ErrorKind::StateMismatch,
                format!("the saved state belongs to {what}, which the pipeline no longer has"),
            )
            .hint("give it its name back, or drop that state with --allow-dropped-state, or begin anew with --fresh")),
            _ => Ok(()),
        }
    }
}

/// The name under which the dead-letter sink stands in a checkpoint.
pub(crate) const DEAD_LETTERS: &str = "dead_letter";

/// Bytes that each kind of buffer may hold, out of `limits.memory`.
struct Bounds {
    edge: usize,
    parked: usize,
    retained: usize,
}

impl Bounds {
    fn new(plan: &Plan) -> Self {
        let memory = usize::try_from(plan.limits.memory.0).unwrap_or(usize::MAX);
        let edges = plan.nodes.iter().map(|node| node.inputs.len()).sum::<usize>().max(1);
        Bounds { edge: (memory / 4 / edges).clamp(64 << 10, 16 << 20), parked: memory / 4, retained: memory / 4 }
    }
}

type Letter = (Epoch, Box<DeadLetter>);

/// What all tasks share.
struct Wiring {
    pace: Arc<Pace>,
    gate: Arc<Gate>,
    reports: (mpsc::UnboundedSender<Report>, mpsc::UnboundedReceiver<Report>),
    letters: (mpsc::Sender<Letter>, mpsc::Receiver<Letter>),
}

/// The ends of all edges: by reader, its receivers; by node and port, the senders.
struct Edges {
    receivers: HashMap<usize, Vec<Option<Receiver>>>,
    senders: HashMap<(usize, usize), Vec<Sender>>,
}

impl Edges {
    fn inputs(&mut self, node: usize, hold_back: bool) -> Inputs {
        let receivers = self.receivers.remove(&node).unwrap_or_default();
        Inputs::new(receivers.into_iter().flatten().collect(), hold_back)
    }

    fn outputs(&mut self, node: usize, ports: usize) -> Outputs {
        Outputs { ports: (0..ports).map(|port| self.senders.remove(&(node, port)).unwrap_or_default()).collect() }
    }
}

struct Build<'a> {
    lasting: &'a mut Lasting,
    wiring: Wiring,
    bounds: Bounds,
    decided: Epoch,
    /// For each node, whether its end by the checkpoint is one for this run, too.
    still_ended: Vec<bool>,
    ends: Ends,
    tasks: JoinSet<Result<(), Halt>>,
}

impl Build<'_> {
    fn context(&self, node: &Node) -> Context {
        Context {
            name: node.name.as_str().into(),
            delivery: self.lasting.plan.delivery,
            metrics: self.lasting.metrics.stage(&node.name),
            rules: node.rules.clone(),
            pace: self.wiring.pace.clone(),
            gate: self.wiring.gate.clone(),
            reports: self.wiring.reports.0.clone(),
            letters: self.wiring.letters.0.clone(),
            board: self.lasting.board.clone(),
            probe: self.lasting.options.probe.clone(),
        }
    }

    fn stamp(&self) -> Stamp {
        let (plan, store) = (&self.lasting.plan, &self.lasting.store);
        Stamp { pipeline: plan.name.clone(), store_id: store.id(), epoch: self.decided }
    }

    /// Makes the edges between tasks; inside a chain of fused steps there are none.
    fn edges(&self) -> Edges {
        let plan = &self.lasting.plan;
        let mut edges = Edges { receivers: HashMap::new(), senders: HashMap::new() };
        for (reader, node) in plan.nodes.iter().enumerate() {
            if node.inputs.is_empty() || fused(plan, reader).is_some() {
                continue;
            }
            for &(from, port) in &node.inputs {
                let (sender, receiver) = edge(self.bounds.edge);
                edges.senders.entry((from, port)).or_default().push(sender);
                edges.receivers.entry(reader).or_default().push(Some(receiver));
            }
        }
        edges
    }

    async fn parked(&mut self, stage: &str) -> Result<(Parked, Arc<StageMetrics>), Failure> {
        let state = self.lasting.store.scan(&parked_state(stage)).await.map_err(failure("state"))?;
        let mut parked = Parked::new(self.wiring.gate.clone());
        parked.restore(state).map_err(failure(stage))?;
        let metrics = self.lasting.metrics.stage(stage);
        if metrics.parked.get() == 0 && !parked.is_empty() {
            // Parked by an earlier process: they come into this one's books as read again.
            metrics.parked.set(parked.len() as u64);
            metrics.records_in.add(parked.len() as u64);
        }
        Ok((parked, metrics))
    }

    async fn sink(
        &mut self,
        i: usize,
        node: &Node,
        checkpoint: Option<&Checkpoint>,
        edges: &mut Edges,
    ) -> Result<SinkTask, Failure> {
        let Planned::Sink(plan) = &node.component else {
            return Err(failure(&node.name)(crate::task::bug("not a sink")));
        };
        let failed = failure(&node.name);
        let mut sink = plan.create().map_err(&failed)?;
        sink.introduce(&self.stamp());
        sink.open(tokens(checkpoint, &node.name)).await.map_err(&failed)?;
        let (parked, _) = self.parked(&node.name).await?;
        let hold_back = self.lasting.plan.delivery == Delivery::ExactlyOnce;
        let (sender, commands) = mpsc::unbounded_channel();
        let id = self.ends.sinks.len();
        self.ends.sinks.push((node.name.clone(), sender));
        Ok(SinkTask {
            context: self.context(node),
            id,
            sink,
            capabilities: plan.capabilities(),
            inputs: edges.inputs(i, hold_back),
            commands,
            parked,
            epoch: self.decided + 1,
        })
    }

    async fn dead_letters(&mut self, checkpoint: Option<&Checkpoint>) -> Result<DeadLetterTask, Failure> {
        let (plan, style) = match &self.lasting.plan.dead_letter {
            Some(plan) => (plan.clone(), Style::Record),
            None => (self.lasting.options.dead_letters.clone(), Style::Whole),
        };
        let failed = failure(DEAD_LETTERS);
        let mut sink = plan.create().map_err(&failed)?;
        sink.introduce(&self.stamp());
        sink.open(tokens(checkpoint, DEAD_LETTERS)).await.map_err(&failed)?;
        let lasting = &self.lasting;
        let context = Context {
            name: DEAD_LETTERS.into(),
            delivery: lasting.plan.delivery,
            metrics: lasting.metrics.stage(DEAD_LETTERS),
            rules: Default::default(),
            pace: self.wiring.pace.clone(),
            gate: self.wiring.gate.clone(),
            reports: self.wiring.reports.0.clone(),
            letters: self.wiring.letters.0.clone(),
            board: lasting.board.clone(),
            probe: Default::default(),
        };
        let (stop_after, causes) = (lasting.plan.stop_after, lasting.causes.clone());
        let (sender, commands) = mpsc::unbounded_channel();
        self.ends.dead_letters = Some(sender);
        let letters = std::mem::replace(&mut self.wiring.letters.1, mpsc::channel(1).1);
        Ok(DeadLetterTask { context, sink, style, letters, commands, stop_after, causes, epoch: self.decided + 1 })
    }

    async fn stage(&mut self, chain: &[usize], edges: &mut Edges) -> Result<StageTask, Failure> {
        let plan = self.lasting.plan.clone();
        let (first, last) = (chain[0], chain[chain.len() - 1]);
        let mut steps = Vec::new();
        for node in chain.iter().map(|&i| &plan.nodes[i]) {
            let Planned::Step(step) = &node.component else { continue };
            let mut step = step.create().map_err(failure(&node.name))?;
            if let CoreStep::Operator(operator) = &mut step {
                let state = self.lasting.store.scan(&node.name).await.map_err(failure("state"))?;
                Operator::restore(&mut **operator, state).await.map_err(failure(&node.name))?;
            }
            let metrics = self.lasting.metrics.stage(&node.name);
            let who = Who { name: node.name.clone(), metrics, rules: node.rules.clone() };
            steps.push(StepRun { who: Arc::new(who), step });
        }
        let (parked, _) = self.parked(&plan.nodes[last].name).await?;
        let end_saved =
            !self.lasting.store.scan(&ended_state(&plan.nodes[last].name)).await.map_err(failure("state"))?.is_empty();
        let stateful = chain.iter().any(|&i| plan.nodes[i].stateful());
        let hold_back = stateful || plan.delivery == Delivery::ExactlyOnce;
        self.ends.stages += 1;
        Ok(StageTask {
            context: self.context(&plan.nodes[last]),
            steps,
            inputs: edges.inputs(first, hold_back),
            outputs: edges.outputs(last, plan.nodes[last].ports()),
            parked,
            epoch: self.decided + 1,
            ended: end_saved && self.still_ended[first],
            end_saved,
        })
    }

    async fn source(
        &mut self,
        i: usize,
        node: &Node,
        checkpoint: Option<&Checkpoint>,
        edges: &mut Edges,
    ) -> Result<SourceTask, Failure> {
        let Planned::Source(plan) = &node.component else {
            return Err(failure(&node.name)(crate::task::bug("not a source")));
        };
        let failed = failure(&node.name);
        let saved = checkpoint.and_then(|checkpoint| checkpoint.sources.get(&node.name));
        let until_end = self.lasting.options.until_end;
        let start = self.lasting.options.start.clone().unwrap_or_else(|| plan.start());
        let slot = self.lasting.slots.entry(i).or_default().clone();
        let retained = self.lasting.retained.entry(i).or_default().clone();
        let kept = plan.capabilities().owner == millstream_core::Owner::Nobody;
        let lease = match kept.then(|| Lease::take(&slot)).flatten() {
            Some(lease) => lease,
            None => {
                let mut source = plan.create().map_err(&failed)?;
                let position =
                    saved.filter(|saved| !kept || !saved.position.0.is_empty()).map(|saved| saved.position.clone());
                let keyed = self.lasting.plan.nodes.iter().any(Node::stateful);
                let stamp = Some(self.stamp());
                source.open(&Resume { position, start, until_end, stamp, keyed }).await.map_err(&failed)?;
                slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace(source);
                Lease::take(&slot).ok_or_else(|| failed(crate::task::bug("a source is gone")))?
            }
        };
        let (sender, commands) = mpsc::unbounded_channel();
        let id = self.ends.sources.len();
        self.ends.sources.push((node.name.clone(), sender));
        let ended = self.still_ended[i] && !kept;
        Ok(SourceTask {
            context: self.context(node),
            id,
            lease,
            capabilities: plan.capabilities(),
            stamp: self.stamp(),
            outputs: edges.outputs(i, 1),
            commands,
            retained,
            retained_bytes_max: self.bounds.retained,
            count_max: self.lasting.options.count,
            decided: self.decided,
            read_after: if checkpoint.is_some() { 0 } else { 1 },
            ended,
        })
    }
}

fn tokens<'a>(checkpoint: Option<&'a Checkpoint>, sink: &str) -> &'a [(Epoch, Token)] {
    checkpoint.and_then(|checkpoint| checkpoint.sinks.get(sink)).map_or(&[], Vec::as_slice)
}

/// The step that `node` is fused behind: its only input, which has no other reader, and neither does I/O or keeps state
/// before it.
fn fused(plan: &Plan, node: usize) -> Option<usize> {
    let Planned::Step(step) = &plan.nodes[node].component else { return None };
    let [(from, 0)] = plan.nodes[node].inputs[..] else { return None };
    let above = &plan.nodes[from];
    let alone = above.role() == Role::Step && above.ports() == 1 && plan.readers(from)[0].len() == 1;
    // A step with state gets a task of its own, so that it works beside what is before it.
    (alone && !step.stateful()).then_some(from)
}

/// The steps of a plan, fused into chains.
fn chains(plan: &Plan) -> Vec<Vec<usize>> {
    let mut chains: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut head: HashMap<usize, usize> = HashMap::new();
    for (i, _) in plan.role(Role::Step) {
        let first = fused(plan, i).and_then(|from| head.get(&from).copied()).unwrap_or(i);
        head.insert(i, first);
        chains.entry(first).or_default().push(i);
    }
    chains.into_values().collect()
}
