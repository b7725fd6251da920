//! From a plan to tasks that stand where the checkpoint stands, always in the same order: recover what counts, bring every
//! sink to it, restore state, only then open sources.

use std::{
    collections::{BTreeSet, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
};

use futures::FutureExt as _;
use millstream_core::{
    Checkpoint, Delivery, Epoch, Error, Host, Owner, Position, Record, Result, Resume, Role, SeekTo, Share, Stamp,
    Step as CoreStep, Store, panicked,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    change::{Answer, Change},
    condemn::Condemned,
    coordinate::Ends,
    dead_letter_task::{Causes, DeadLetterTask, Style},
    dispatch::worker_of,
    ended::{EndMark, ended_state},
    ending::{CLOSING_WAIT, Deadline, tell_unclosed},
    handle::Shared,
    lease::{Kept, lock},
    pace::Pace,
    park::{Parked, owner},
    plan::{Node, Plan, Planned},
    recover::{Recovered, open_sink},
    rules::Rules,
    run::{RunFlags, Start},
    sink_task::{Joined, SinkTask},
    source_task::SourceTask,
    spec::Dispatch,
    stage_task::{StageTask, StepRun, Who, parked_state},
    task::{AfterFailure, Context, Failure, Halt},
    wire::{Bounds, Edges, Wiring, chains},
};

/// What outlives a restart inside the process.
pub(crate) struct Lasting {
    pub(crate) plan: Arc<Plan>,
    /// Tells the handles of the plan.
    pub(crate) planned: watch::Sender<Arc<Plan>>,
    pub(crate) options: RunFlags,
    pub(crate) store: Box<dyn Store>,
    /// Of the system whose transaction decides epochs, once it has been connected.
    pub(crate) host: Option<Box<dyn Host>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) causes: Causes,
    /// By node.
    pub(crate) sources: HashMap<usize, Kept>,
    /// By node.
    pub(crate) condemned: HashMap<usize, Arc<Mutex<Condemned>>>,
    /// Where the run began; set once something has been opened.
    pub(crate) start: Option<Start>,
    /// It was asked to begin anew.
    pub(crate) anew: bool,
    /// Sources are to read nothing.
    pub(crate) paused: bool,
    /// It is to drain; also after a failure.
    pub(crate) drain: Option<Deadline>,
    /// What is to be changed at the next epoch.
    pub(crate) change: Option<Change>,
    /// Who asked for an epoch while nothing ran.
    pub(crate) asked: Vec<oneshot::Sender<Epoch>>,
    /// Who waits for a change that has been made, until it runs.
    pub(crate) changed: Vec<Answer>,
    /// Stages that are ready, until all others are and they run.
    pub(crate) built: Vec<StageTask>,
}

/// Tasks that are ready to run, beside the stages in [`Lasting::built`].
pub(crate) struct Ready {
    sinks: Vec<SinkTask>,
    letters: DeadLetterTask,
    sources: Vec<SourceTask>,
    opened: Opened,
}

/// Tasks that are running, and the coordinator's ends of their channels.
pub(crate) struct Opened {
    pub(crate) tasks: JoinSet<Result<(), Halt>>,
    pub(crate) ends: Ends,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) pace: Arc<Pace>,
    /// Tells the steps the newest epoch that was cut; dropped, it tells them to close.
    pub(crate) cut: watch::Sender<Epoch>,
    /// Ends when all steps have closed.
    pub(crate) closing: mpsc::Receiver<()>,
}

/// The name under which the dead-letter sink stands in a checkpoint.
pub(crate) const DEAD_LETTERS: &str = "dead_letter";

/// A failure of the opening itself, at `stage`.
pub(crate) fn failure(stage: &str) -> impl Fn(Error) -> Failure + '_ {
    move |error| {
        let then = if error.facts().retry { AfterFailure::Retry } else { AfterFailure::Stop };
        Failure { stage: stage.to_owned(), error, then }
    }
}

/// Opens something at `stage`; a panic of what users have written is a failure, too.
pub(crate) async fn opening<T>(stage: &str, work: impl Future<Output = Result<T>>) -> Result<T, Failure> {
    let opened = AssertUnwindSafe(work).catch_unwind().await;
    opened.unwrap_or_else(|panic| Err(panicked(&*panic))).map_err(failure(stage))
}

impl Lasting {
    /// Lets go of what has been opened, when the opening was cut short.
    pub(crate) async fn abandon(&mut self) {
        let mut stages = std::mem::take(&mut self.built);
        let closed = stages.iter_mut().map(StageTask::close);
        if tokio::time::timeout(CLOSING_WAIT, futures::future::join_all(closed)).await.is_err() {
            tell_unclosed(&self.plan.name);
        }
    }

    /// Opens everything, from what was recovered. [`Lasting::begin`] follows; where it fails or is dropped,
    /// [`Lasting::abandon`].
    pub(crate) async fn open(&mut self, recovered: Recovered) -> Result<Ready, Failure> {
        let Recovered { checkpoint, start, share, anew } = recovered;
        // A restart inside the process does not change where the run began.
        self.start.get_or_insert(start);
        self.anew |= anew;
        let decided = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.epoch);
        let plan = self.plan.clone();
        let bounds = Bounds::new(&plan);
        self.shared.queues.clear();
        let mut edges = Edges::new(&plan, &bounds, &self.shared.queues);
        let (stop, stopped) = watch::channel(decided);
        let (closed, closing) = mpsc::channel(1);
        let wiring = Wiring::new(&plan, &bounds);
        let still_ended = self.still_ended(checkpoint.as_ref());
        let ends = Ends::default();
        let figures = self.shared.metrics.read();
        let comes_in = figures.into_iter().filter(|(_, stage)| stage.parked == 0).map(|(name, _)| name).collect();
        let stop_side = (stopped, closed);
        let mut build =
            Build { lasting: self, checkpoint, share, wiring, bounds, decided, still_ended, comes_in, stop_side, ends };
        let mut sinks = Vec::new();
        for (i, node) in plan.role(Role::Sink) {
            sinks.push(build.sink(i, node, &mut edges).await?);
        }
        let letters = build.dead_letters().await?;
        for chain in chains(&plan) {
            for worker in 0..plan.nodes[chain[0]].workers {
                build.stage(&chain, worker, &mut edges).await?;
            }
        }
        let mut sources = Vec::new();
        for (i, node) in plan.role(Role::Source) {
            sources.push(build.source(i, node, &mut edges).await?);
        }
        let Build { wiring, checkpoint, mut ends, .. } = build;
        ends.reports = Some(wiring.reports.1);
        let opened = Opened { tasks: JoinSet::new(), ends, checkpoint, pace: wiring.pace, cut: stop, closing };
        Ok(Ready { sinks, letters, sources, opened })
    }

    /// Starts the tasks. In a drain the sources read nothing.
    pub(crate) fn begin(&mut self, ready: Ready) -> Opened {
        let Ready { sinks, letters, mut sources, mut opened } = ready;
        let tasks = &mut opened.tasks;
        sinks.into_iter().for_each(|task| drop(tasks.spawn(task.run())));
        tasks.spawn(letters.run());
        std::mem::take(&mut self.built).into_iter().for_each(|task| drop(tasks.spawn(task.run())));
        for source in &mut sources {
            source.paused = self.paused || self.drain.is_some();
        }
        sources.into_iter().for_each(|task| drop(tasks.spawn(task.run())));
        opened
    }
}

/// A source that cannot seek is to. Without a way back every later run would fail in the same way.
fn cannot_seek(error: Error, to: &SeekTo) -> Error {
    let back = "`millstream state seek` to `committed` takes that back".to_owned();
    let hint = error.hint_text().map(|hint| format!("{hint}; {back}")).unwrap_or(back);
    error.context(format!("cannot go on at `{to}`, as its state says")).hint(hint)
}

struct Build<'a> {
    lasting: &'a mut Lasting,
    checkpoint: Option<Checkpoint>,
    share: Option<Share>,
    wiring: Wiring,
    bounds: Bounds,
    decided: Epoch,
    /// For each node, whether its end by the checkpoint is one for this run, too.
    still_ended: Vec<bool>,
    /// Stages whose parked records come into this process's books as read again: an earlier process parked them.
    comes_in: BTreeSet<String>,
    /// For each step: what tells it of cuts and to close, and whom it tells by letting go.
    stop_side: (watch::Receiver<Epoch>, mpsc::Sender<()>),
    ends: Ends,
}

impl Build<'_> {
    /// What the task of a stage shares with the others; the dead-letter sink has no rules of its own.
    fn context(&self, name: &str, worker: usize, rules: &Rules) -> Context {
        let at = self.lasting.plan.nodes.iter().position(|node| node.name == name);
        let on_failed = at.and_then(|at| self.lasting.plan.nodes[at].on_failed.clone());
        Context {
            name: name.into(),
            delivery: self.lasting.plan.delivery,
            metrics: self.lasting.shared.metrics.worker(name, worker),
            rules: rules.clone(),
            on_failed,
            pace: self.wiring.pace.clone(),
            gates: self.wiring.gates(at),
            reports: self.wiring.reports.0.clone(),
            letters: self.wiring.letters.0.clone(),
            shared: self.lasting.shared.clone(),
            probe: self.lasting.options.probe.clone(),
        }
    }

    fn stamp(&self) -> Stamp {
        let (plan, store) = (&self.lasting.plan, &self.lasting.store);
        Stamp { pipeline: plan.name.clone(), store_id: store.id(), epoch: self.decided }
    }

    /// What is parked for one of the workers of the stage that begins `at`, before each of its steps.
    async fn parked(&mut self, steps: &[&str], at: usize, worker: usize) -> Result<Parked, Failure> {
        let (dispatch, of) = (self.lasting.plan.nodes[at].dispatch, self.lasting.plan.nodes[at].workers);
        let mut parked = Parked::new(self.wiring.gates(Some(at)), worker);
        for (step, name) in steps.iter().enumerate() {
            let state = self.lasting.store.scan(&parked_state(name)).await.map_err(failure("state"))?;
            let mine = |record: &Record, id| owner(record, id, dispatch, of) == worker;
            let restored = parked.restore(step, state, mine).map_err(failure(name))?;
            if self.comes_in.contains(*name) {
                let metrics = self.lasting.shared.metrics.worker(name, worker);
                metrics.parked.add(restored as u64);
                metrics.records_in.add(restored as u64);
            }
        }
        parked.begin();
        Ok(parked)
    }

    async fn sink(&mut self, i: usize, node: &Node, edges: &mut Edges) -> Result<SinkTask, Failure> {
        let Planned::Sink(plan) = &node.component else {
            return Err(failure(&node.name)(crate::task::bug("not a sink")));
        };
        let share = self.share.as_ref().filter(|_| self.lasting.plan.joins(&**plan));
        let sink = open_sink(&node.name, &**plan, &self.stamp(), share, self.checkpoint.as_ref()).await?;
        let capabilities = plan.capabilities();
        let joined = share.is_some().then(|| {
            let condemned = self.lasting.condemned.entry(i).or_default().clone();
            lock(&condemned).again();
            Joined { condemned, repeats: self.lasting.plan.repeats(i) }
        });
        let parked = self.parked(&[&node.name], i, 0).await?;
        let hold_back = self.lasting.plan.delivery == Delivery::ExactlyOnce;
        let (sender, commands) = mpsc::unbounded_channel();
        let id = self.ends.sinks.len();
        self.ends.sinks.push((node.name.clone(), sender));
        let context = self.context(&node.name, 0, &node.rules);
        let inputs = edges.inputs(i, 0, hold_back);
        Ok(SinkTask { context, id, sink, capabilities, joined, inputs, commands, parked, epoch: self.decided + 1 })
    }

    async fn dead_letters(&mut self) -> Result<DeadLetterTask, Failure> {
        let (plan, style) = match &self.lasting.plan.dead_letter {
            Some(plan) => (plan.clone(), Style::Record),
            None => (self.lasting.options.dead_letters.clone(), Style::Whole),
        };
        let share = self.share.as_ref().filter(|_| self.lasting.plan.joins(&*plan));
        let sink = open_sink(DEAD_LETTERS, &*plan, &self.stamp(), share, self.checkpoint.as_ref()).await?;
        let joined = share.is_some();
        let (stop_after, causes) = (self.lasting.plan.stop_after, self.lasting.causes.clone());
        let (sender, commands) = mpsc::unbounded_channel();
        self.ends.dead_letters = Some(sender);
        let letters = std::mem::replace(&mut self.wiring.letters.1, mpsc::channel(1).1);
        let context = self.context(DEAD_LETTERS, 0, &Rules::default());
        let epoch = self.decided + 1;
        Ok(DeadLetterTask { context, sink, style, joined, letters, commands, stop_after, causes, epoch })
    }

    /// One worker of a stage.
    async fn stage(&mut self, chain: &[usize], worker: usize, edges: &mut Edges) -> Result<(), Failure> {
        let plan = self.lasting.plan.clone();
        let tail = &plan.nodes[chain[chain.len() - 1]];
        let names: Vec<&str> = chain.iter().map(|&i| plan.nodes[i].name.as_str()).collect();
        let parked = self.parked(&names, chain[0], worker).await?;
        let hold_back = plan.delivery == Delivery::ExactlyOnce || plan.feeds_state(chain[0]);
        self.ends.stages += 1;
        // From here on it is closed whatever comes.
        self.lasting.built.push(StageTask {
            context: self.context(&tail.name, worker, &tail.rules),
            steps: Vec::new(),
            inputs: edges.inputs(chain[0], worker, hold_back),
            outputs: edges.outputs(chain[chain.len() - 1], worker, tail.ports()),
            parked,
            epoch: self.decided + 1,
            drained: false,
            halted: false,
            stop_side: self.stop_side.clone(),
            trying: HashMap::new(),
            outcomes: 0,
        });
        for node in chain.iter().map(|&i| &plan.nodes[i]) {
            self.step(node, worker, self.still_ended[chain[0]]).await?;
        }
        Ok(())
    }

    /// One step of the stage that was built last; `still_ended` as in [`Build`].
    async fn step(&mut self, node: &Node, worker: usize, still_ended: bool) -> Result<(), Failure> {
        let Planned::Step(step) = &node.component else { return Ok(()) };
        let (stage, name) = (self.lasting.built.last_mut(), node.name.clone());
        let Some(stage) = stage else { return Ok(()) };
        let metrics = self.lasting.shared.metrics.worker(&name, worker);
        let who = Who { name, metrics, rules: node.rules.clone(), on_failed: node.on_failed.clone() };
        let step = opening(&node.name, async { step.create() }).await?;
        let (mut state, mut marks) = (Vec::new(), Vec::new());
        if matches!(step, CoreStep::Operator(_)) {
            state = self.lasting.store.scan(&node.name).await.map_err(failure("state"))?;
            marks = self.lasting.store.scan(&ended_state(&node.name)).await.map_err(failure("state"))?;
        }
        let end_mark = EndMark::new(&marks, worker, node.workers, still_ended, node.dispatch == Dispatch::Key);
        stage.steps.push(StepRun { who: Arc::new(who), step, held: 0, ended: true, end_mark });
        let Some(StepRun { step: CoreStep::Operator(operator), who, held, ended, end_mark }) = stage.steps.last_mut()
        else {
            return Ok(());
        };
        state.retain(|change| worker_of(change.group, node.workers) == worker && !end_mark.has_told(change.group));
        operator.keyless_group(end_mark.keyless_group());
        opening(&node.name, operator.restore(state)).await?;
        *held = operator.held();
        // Who was told held nothing: this comes from another, as a record without a key may.
        *ended = end_mark.told() && *held == 0;
        if *held > 0 && self.comes_in.contains(&node.name) {
            who.metrics.parked.add(*held as u64);
            who.metrics.records_in.add(*held as u64);
        }
        Ok(())
    }

    async fn source(&mut self, i: usize, node: &Node, edges: &mut Edges) -> Result<SourceTask, Failure> {
        let Planned::Source(plan) = &node.component else {
            return Err(failure(&node.name)(crate::task::bug("not a source")));
        };
        let capabilities = plan.capabilities();
        let keyed = self.lasting.plan.stateful();
        let kept = self.lasting.sources.entry(i).or_default().clone();
        let position = self.position(node, &kept, capabilities.owner);
        let resume = Resume {
            fresh: self.lasting.anew && position.as_ref().is_none_or(|position| position.0.is_empty()),
            position,
            start: self.lasting.options.start.clone().unwrap_or_else(|| plan.start()),
            until_end: self.lasting.options.until_end,
            stamp: Some(self.stamp()),
            member: None,
            keyed,
        };
        let mut lease = opening(&node.name, kept.open(&**plan, &resume)).await?;
        if capabilities.owner == Owner::Nobody
            && let Some(position) = &resume.position
        {
            // An epoch that was decided just before a failure: nobody has told the source yet.
            let stamp = self.stamp();
            let committed = lease.call().map_err(|_| failure(&node.name)(crate::task::bug("the source is gone")))?;
            committed.commit(position, Some(&stamp)).await.map_err(failure(&node.name))?;
            lease.done();
        }
        let saved = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.sources.get(&node.name));
        // What cannot seek goes on by itself where its system says.
        let stays = |to: &&SeekTo| **to == SeekTo::Committed && !capabilities.seek;
        let seek = saved.and_then(|saved| saved.seek.as_ref()).filter(|to| !stays(to));
        if let (Some(to), Ok(source)) = (seek, lease.source()) {
            let explained = |error| if capabilities.seek { error } else { cannot_seek(error, to) };
            source.seek(to, None).await.map_err(explained).map_err(failure(&node.name))?;
        }
        let (sender, commands) = mpsc::unbounded_channel();
        let id = self.ends.sources.len();
        self.ends.sources.push((node.name.clone(), sender));
        let system = self.lasting.plan.host().map(|(system, _)| system);
        Ok(SourceTask {
            context: Arc::new(self.context(&node.name, 0, &node.rules)),
            id,
            lease,
            capabilities,
            accompanies: system.is_some() && system == plan.transaction(),
            keyed,
            stamp: self.stamp(),
            outputs: Arc::new(edges.outputs(i, 0, 1)),
            commands,
            kept,
            retained_bytes_max: self.bounds.retained,
            count_max: self.lasting.options.count,
            paused: false,
            decided: self.decided,
            read_after: if self.checkpoint.is_some() { 0 } else { 1 },
            ended: self.still_ended[i] && capabilities.owner != Owner::Nobody,
            ended_before: self.still_ended[i],
        })
    }

    /// Where the checkpoint says that a source stands, without what others have now.
    fn position(&self, node: &Node, kept: &Kept, owner: Owner) -> Option<Position> {
        let mut position = self.checkpoint.as_ref()?.sources.get(&node.name)?.position.clone();
        let lost = lock(&kept.lost);
        position.0.retain(|shard, _| !lost.contains(shard));
        let has_none = owner == Owner::Nobody && position.0.is_empty();
        (!has_none).then_some(position)
    }
}
