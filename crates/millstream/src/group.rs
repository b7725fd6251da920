//! A pipeline and the tasks of its buffers, run as one.
//!
//! ```text
//!   drain: the pipeline first ──► its buffers' tasks deliver what is there, until the deadline ──► what is left stays on disk
//!   the pipeline has finished ──► the tasks end when all is delivered
//!   a task fails              ──► the pipeline drains, and the group has failed
//! ```

use std::{collections::BTreeMap, iter, path::PathBuf, sync::Arc, time::Duration};

use millstream_buffer::{Buffer, BufferFigures};
use millstream_core::{Epoch, Error, ErrorKind, Result, SinkPlan, Stamp, Way};
use millstream_runtime::{Ended, Handle, Phase, Plan, Planned, RunOptions, Running, StateSpec, Status, Summary};
use millstream_state::inspect;
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{BufferTask, Buffered, Home};

/// How long the last epoch of a task may take at the deadline of a drain.
const LAST_EPOCH: Duration = Duration::from_secs(1);
/// How long what remains of a group may take when one of it has failed.
const FAILED_DRAIN: Duration = Duration::from_secs(10);
/// A drain that nobody has given a deadline.
const NO_DEADLINE: Duration = Duration::from_secs(365 * 86_400);

/// A pipeline and the tasks of its buffers that run. Dropping it does not stop them.
#[derive(Debug)]
pub struct Group {
    /// The pipeline, if it runs, and then the tasks: each a running pipeline.
    pub members: Vec<Member>,
    handle: GroupHandle,
    /// The pipeline had finished before; only what was left in its buffers is delivered.
    pub resting: bool,
    conductor: JoinHandle<()>,
}

/// One running pipeline of a group.
#[derive(Debug)]
pub struct Member {
    /// Its name: `PIPELINE` or `PIPELINE.SINK`.
    pub name: String,
    /// Watches it. It is drained through the group's handle, in the right order.
    pub handle: Handle,
    /// It reads this buffer.
    pub buffer: Option<Buffer>,
    result: oneshot::Receiver<Result<Summary>>,
}

/// Watches and steers a group. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GroupHandle {
    wishes: mpsc::UnboundedSender<Wish>,
    pipeline: Option<Handle>,
    tasks: Vec<(String, Handle, Buffer)>,
}

/// Figures of a group at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct GroupStatus {
    /// The pipeline; `None` if it had finished before.
    pub pipeline: Option<Status>,
    /// Its buffers, by the names of their sinks.
    pub buffers: BTreeMap<String, BufferStatus>,
}

/// A buffer and its task at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct BufferStatus {
    /// Fill, age and drops.
    pub figures: BufferFigures,
    /// Why the pipeline waits, while it waits for room.
    pub waiting: Option<String>,
    /// The task between the buffer and the sink.
    pub task: Status,
}

/// What a group came to.
#[derive(Clone, Debug, Serialize)]
pub struct GroupSummary {
    /// The pipeline; `None` if it had finished before, and only its buffers were delivered.
    pub pipeline: Option<Summary>,
    /// The tasks of its buffers by the names of their sinks; `None`: stopped at the deadline in the middle of an epoch.
    pub tasks: BTreeMap<String, Option<Summary>>,
    /// Records that are left in each buffer, for the next run.
    pub left: BTreeMap<String, u64>,
}

/// What a handle asks for.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Drain(Duration),
    Stop,
}

impl Group {
    /// Starts all of a plan on the current tokio runtime; `options` gives those of each, by its plan (see [`Home::options`];
    /// set what differs, such as `until_end`, for all alike; `count` and `start` are for the pipeline only).
    ///
    /// A pipeline that had finished, while a buffer of it was not delivered when that run was stopped, rests: the tasks deliver
    /// what is left. Known from the state directory, so not where state is kept in memory.
    ///
    /// # Errors
    /// What keeps the state directory from being read; the rest comes from [`Group::wait`].
    pub async fn start(buffered: Buffered, home: &Home, mut options: impl FnMut(&Plan) -> RunOptions) -> Result<Group> {
        let Buffered { pipeline, tasks } = buffered;
        let own = options(&pipeline);
        let tasks = tasks.into_iter().map(|task| {
            let own = options(&task.plan);
            (task, own)
        });
        Group::start_each((pipeline, own), tasks.collect(), home).await
    }

    /// The same, with the options of each beside its plan.
    ///
    /// # Errors
    /// As [`Group::start`].
    pub async fn start_each(
        (pipeline, own): (Plan, RunOptions),
        tasks: Vec<(BufferTask, RunOptions)>,
        home: &Home,
    ) -> Result<Group> {
        let mut resting = false;
        if !own.fresh && !own.go_on && !tasks.is_empty() && pipeline.state == StateSpec::Embedded {
            let plans = iter::once(&pipeline).chain(tasks.iter().map(|(task, _)| &task.plan));
            let folders = plans.map(|plan| home.pipeline(&plan.name)).collect();
            // One that cannot be settled from here goes the whole way again.
            resting = rests(folders).await? && settle(&pipeline, own.dead_letters.clone(), home).await?;
        }
        let (over, overs) = mpsc::unbounded_channel();
        let mut members = Vec::new();
        if !resting {
            members.push(Member::start(0, pipeline, own, None, &over));
        }
        for (i, (task, mut own)) in tasks.into_iter().enumerate() {
            (own.count, own.start) = (None, None);
            if resting {
                task.buffer.finish();
            }
            members.push(Member::start(i + 1, task.plan, own, Some((task.sink, task.buffer)), &over));
        }
        let (members, sinks): (Vec<Member>, Vec<String>) = members.into_iter().unzip();
        let pipeline = members.first().filter(|_| !resting).map(|member| member.handle.clone());
        let tasks = members.iter().zip(sinks);
        let tasks: Vec<_> =
            tasks.filter_map(|(member, sink)| Some((sink, member.handle.clone(), member.buffer.clone()?))).collect();
        let (wishes, asked) = mpsc::unbounded_channel();
        let handle = GroupHandle { wishes, pipeline, tasks };
        let conductor = Conductor {
            pipeline: handle.pipeline.clone(),
            tasks: handle.tasks.iter().map(|(_, handle, buffer)| (handle.clone(), buffer.clone())).collect(),
            running: members.len(),
            deadline: watch::Sender::new(None),
            released: resting,
        };
        let conductor = tokio::spawn(conductor.run(overs, asked));
        Ok(Group { members, handle, resting, conductor })
    }

    /// A handle that can be given away.
    pub fn handle(&self) -> GroupHandle {
        self.handle.clone()
    }

    /// Waits for the end of all.
    ///
    /// # Errors
    /// The pipeline's failure, else that of the first task that failed. A task that was cut off by the deadline of a drain has
    /// not failed: what it had not delivered is `left`.
    pub async fn wait(mut self) -> Result<GroupSummary> {
        let mut results = Vec::new();
        for member in &mut self.members {
            results.push(member.wait().await);
        }
        let _ = self.conductor.await;
        let mut results = results.into_iter();
        let pipeline = if self.resting { None } else { results.next().transpose()? };
        let mut summary = GroupSummary { pipeline, tasks: BTreeMap::new(), left: BTreeMap::new() };
        for (result, (sink, _, buffer)) in results.zip(&self.handle.tasks) {
            let task = match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => None,
                result => Some(result?),
            };
            summary.tasks.insert(sink.clone(), task);
            summary.left.insert(sink.clone(), buffer.figures().records);
        }
        Ok(summary)
    }
}

impl Member {
    fn start(
        at: usize,
        plan: Plan,
        options: RunOptions,
        buffer: Option<(String, Buffer)>,
        over: &mpsc::UnboundedSender<(usize, Over)>,
    ) -> (Member, String) {
        let name = plan.name.clone();
        let mut running = Running::start(plan, options);
        let handle = running.handle();
        let (sender, result) = oneshot::channel();
        let over = over.clone();
        tokio::spawn(async move {
            let ended = running.wait().await;
            let how = match &ended {
                Ok(summary) => Over::Ended(summary.ended),
                Err(_) => Over::Failed,
            };
            // Nobody may listen any more.
            let _ = sender.send(ended);
            let _ = over.send((at, how));
        });
        let (sink, buffer) = buffer.map_or((String::new(), None), |(sink, buffer)| (sink, Some(buffer)));
        (Member { name, handle, buffer, result }, sink)
    }

    /// Waits for its end. To be called once.
    pub async fn wait(&mut self) -> Result<Summary> {
        let gone = || Error::new(ErrorKind::Bug, "cannot tell how the pipeline ended: it was asked before");
        (&mut self.result).await.unwrap_or_else(|_| Err(gone()))
    }
}

impl GroupHandle {
    /// Drains the pipeline, then lets its buffers' tasks deliver what is there, all of it until the deadline. What is left
    /// stays on disk for the next run.
    pub fn drain(&self, deadline: Duration) {
        // A group that is over has nothing to drain.
        let _ = self.wishes.send(Wish::Drain(deadline));
    }

    /// Stops all at once, without a last epoch.
    pub fn stop(&self) {
        let _ = self.wishes.send(Wish::Stop);
    }

    /// Waits until an epoch of the pipeline counts that covers all that it has read: in sinks, and durably in buffers.
    pub async fn checkpoint(&self) -> Result<Epoch> {
        match &self.pipeline {
            Some(pipeline) => pipeline.checkpoint().await,
            None => Err(Error::new(ErrorKind::Closed, "cannot commit: the pipeline is over")),
        }
    }

    /// The pipeline's own handle; `None` if it had finished before.
    pub fn pipeline(&self) -> Option<&Handle> {
        self.pipeline.as_ref()
    }

    /// Figures at this moment.
    pub fn status(&self) -> GroupStatus {
        let of = |(sink, handle, buffer): &(String, Handle, Buffer)| {
            let (figures, task) = (buffer.figures(), handle.status());
            let waiting = figures.waiting.map(|_| {
                let why = match &task.phase {
                    Phase::Restarting(cause) => Some(cause),
                    _ => task.waiting.get(sink),
                };
                let why = why.map(|why| format!(": {why}")).unwrap_or_default();
                format!("the buffer of `{sink}` is full, and the sink takes records more slowly than they come{why}")
            });
            (sink.clone(), BufferStatus { figures, waiting, task })
        };
        GroupStatus {
            pipeline: self.pipeline.as_ref().map(Handle::status),
            buffers: self.tasks.iter().map(of).collect(),
        }
    }
}

/// How one of a group ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Ended(Ended),
    Failed,
}

/// Sees to the order in which a group ends.
struct Conductor {
    pipeline: Option<Handle>,
    tasks: Vec<(Handle, Buffer)>,
    running: usize,
    /// When a drain gives up.
    deadline: watch::Sender<Option<Instant>>,
    /// The tasks have been told how to end.
    released: bool,
}

impl Conductor {
    async fn run(
        mut self,
        mut overs: mpsc::UnboundedReceiver<(usize, Over)>,
        mut wishes: mpsc::UnboundedReceiver<Wish>,
    ) {
        if self.released {
            self.release(Over::Ended(Ended::Finished));
        }
        while self.running > 0 {
            tokio::select! {
                biased;
                Some((at, how)) = overs.recv() => {
                    self.running -= 1;
                    match at {
                        0 => self.release(how),
                        _ => self.task_over(how),
                    }
                }
                Some(wish) = wishes.recv() => self.obey(wish),
                else => break,
            }
        }
        let buffers: Vec<Buffer> = self.tasks.into_iter().map(|(_, buffer)| buffer).collect();
        // Closing files may block for an instant.
        let _ = tokio::task::spawn_blocking(move || buffers.iter().for_each(Buffer::release)).await;
    }

    fn obey(&mut self, wish: Wish) {
        match wish {
            Wish::Drain(deadline) => {
                self.give(deadline);
                self.pipeline.iter().for_each(|pipeline| pipeline.drain(deadline));
            }
            Wish::Stop => {
                let tasks = self.tasks.iter().map(|(task, _)| task);
                self.pipeline.iter().chain(tasks).for_each(Handle::stop);
            }
        }
    }

    /// Sets the deadline, or an earlier one.
    fn give(&self, deadline: Duration) {
        let at = Instant::now() + deadline.min(NO_DEADLINE);
        self.deadline.send_modify(|old| *old = Some(old.map_or(at, |old| old.min(at))));
    }

    /// The pipeline is over: the tasks deliver what is there, and end.
    fn release(&mut self, how: Over) {
        self.released = true;
        match how {
            Over::Failed => self.give(FAILED_DRAIN),
            Over::Ended(Ended::Stopped | Ended::ReaderGone) => {
                return self.tasks.iter().for_each(|(task, _)| task.stop());
            }
            Over::Ended(_) => {}
        }
        // After a finished pipeline a task finishes by itself; after any other it is drained, because the next run goes on.
        let finished = how == Over::Ended(Ended::Finished);
        for (task, buffer) in &self.tasks {
            tokio::spawn(see_off(task.clone(), buffer.clone(), finished, self.deadline.subscribe()));
        }
    }

    fn task_over(&mut self, how: Over) {
        if self.released {
            return;
        }
        match (&self.pipeline, how) {
            (Some(pipeline), Over::Failed) => {
                self.give(FAILED_DRAIN);
                pipeline.drain(FAILED_DRAIN);
            }
            // Nobody reads what it writes, or somebody has stopped it alone.
            (Some(pipeline), _) => pipeline.stop(),
            (None, _) => {}
        }
    }
}

/// Ends a task when its buffer is delivered, or at the deadline.
async fn see_off(task: Handle, buffer: Buffer, finished: bool, mut deadline: watch::Receiver<Option<Instant>>) {
    let delivered = async {
        match finished {
            true => std::future::pending().await,
            false => {
                // One that still opens does not know yet what is there.
                task.started().await;
                buffer.handed_out().await;
            }
        }
    };
    tokio::select! {
        () = delivered => {}
        () = reached(&mut deadline) => {}
        () = over(&task) => return,
    }
    let left = deadline.borrow().map_or(NO_DEADLINE, |at| at.saturating_duration_since(Instant::now()));
    task.drain(left.max(LAST_EPOCH));
}

/// Waits for the deadline, if there is or comes one.
async fn reached(deadline: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let at = *deadline.borrow_and_update();
        let changed = match at {
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(at) => return,
                changed = deadline.changed() => changed,
            },
            None => deadline.changed().await,
        };
        if changed.is_err() {
            // The group is over.
            return std::future::pending().await;
        }
    }
}

/// Waits until a pipeline is over.
async fn over(task: &Handle) {
    let mut events = task.events();
    loop {
        if matches!(task.status().phase, Phase::Over) {
            return;
        }
        // One that was missed shows in the phase.
        let _ = events.recv().await;
    }
}

/// Whether the pipeline has finished while a task of it has not: the state of the first is in the first folder.
async fn rests(folders: Vec<PathBuf>) -> Result<bool> {
    blocking(move || {
        let mut finished = Vec::new();
        for folder in folders {
            let checkpoint = match inspect::summary(&folder) {
                Ok(summary) => summary.checkpoint,
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            finished.push(checkpoint.map(|checkpoint| checkpoint.finished));
        }
        let tasks = finished.get(1..).unwrap_or_default();
        // A task without a checkpoint has never reached its sink.
        Ok(finished.first() == Some(&Some(true)) && tasks.iter().any(|finished| *finished != Some(true)))
    })
    .await
}

/// Brings every sink of a finished pipeline to its checkpoint: a rename may be missing, or a buffer's published length. `false`
/// if one cannot be brought there without the whole pipeline.
async fn settle(plan: &Plan, dead_letters: Arc<dyn SinkPlan>, home: &Home) -> Result<bool> {
    let folder = home.pipeline(&plan.name);
    let Some(checkpoint) = blocking(move || inspect::summary(&folder)).await?.checkpoint else { return Ok(false) };
    if plan.host().is_some() {
        return Ok(false);
    }
    let nodes = plan.nodes.iter().filter_map(|node| match &node.component {
        Planned::Sink(sink) => Some((node.name.as_str(), sink)),
        _ => None,
    });
    let letters = plan.dead_letter.as_ref().unwrap_or(&dead_letters);
    for (name, sink) in nodes.chain([("dead_letter", letters)]) {
        let Some(tokens) = checkpoint.sinks.get(name) else { continue };
        if sink.capabilities().way == Way::Hosting {
            return Ok(false);
        }
        let mut sink = sink.create()?;
        let (pipeline, store_id) = (plan.name.clone(), checkpoint.store_id.clone());
        sink.introduce(name, &Stamp { pipeline, store_id, epoch: checkpoint.epoch });
        sink.open(tokens).await?;
        sink.close().await?;
    }
    Ok(true)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Error::new(ErrorKind::Bug, "cannot read the state directory: its thread was stopped")))
}
