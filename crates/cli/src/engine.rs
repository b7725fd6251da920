//! Runs any number of pipelines to their end in one tokio runtime, steered by signals.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream::{
    BufferTask, Group, GroupHandle, Home, Member,
    buffer::Buffer,
    core::{Error, Result, Role},
    observe::{Observed, Shape},
    runtime::{Ended, Handle, Plan, RunOptions, Summary},
};
use tokio::task::JoinSet;

use crate::{
    count::thousands,
    exit::Exit,
    observing::{Watched, Watching, buffers},
    progress::{Gauge, Progress, watched as gauged},
    reader::Reader,
    signals::Signals,
    story::Story,
    talk::Talk,
};

/// How long pipelines may take to let go after the second signal.
const STOP_WAIT: Duration = Duration::from_millis(500);

/// One pipeline to run.
pub(crate) struct Job {
    pub(crate) plan: Plan,
    pub(crate) options: RunOptions,
    pub(crate) story: Story,
    /// The tasks between its buffers and their sinks.
    pub(crate) tasks: Vec<(BufferTask, RunOptions, Story)>,
    /// The state directory.
    pub(crate) home: Home,
    /// The pipeline's variables.
    pub(crate) vars: BTreeMap<String, String>,
    /// Tell the promise and the books.
    pub(crate) told: bool,
    /// Dead letters make the exit code 1.
    pub(crate) letters_fail: bool,
    /// Shows a failure with its place.
    pub(crate) locate: Arc<Locate>,
}

/// Shows a failure with its place.
pub(crate) type Locate = dyn Fn(Error) -> millstream_config::Diagnostic + Send + Sync;

/// What is the same for all pipelines of the process.
pub(crate) struct Settings {
    pub(crate) drain_timeout: Duration,
    /// Progress may be shown; not where the records themselves appear on a terminal.
    pub(crate) progress: bool,
    /// How the process can be watched.
    pub(crate) watching: Watching,
}

/// Runs all of them. A failure of one does not stop the others.
pub(crate) fn run(jobs: Vec<Job>, settings: &Settings, talk: &Talk) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("cannot start the threads of the runtime", error))?;
    let exit = runtime.block_on(drive(jobs, settings, talk));
    // A thread may hang in a read of standard input; nothing of it is needed any more.
    runtime.shutdown_background();
    exit
}

/// A pipeline that runs, as this module sees it.
struct Started {
    handle: Handle,
    /// Ends it together with the tasks of its buffers, in the right order.
    group: GroupHandle,
    /// It writes to standard output, and has nothing to do when nobody reads that.
    prints: bool,
    /// What it delivers, if it is the task of a buffer.
    buffer: Option<Buffer>,
    story: Story,
    told: bool,
    letters_fail: bool,
    locate: Arc<Locate>,
}

async fn drive(jobs: Vec<Job>, settings: &Settings, talk: &Talk) -> Result<Exit> {
    let mut signals = Signals::new()?;
    let watched = Watched::start(&settings.watching, talk).await?;
    let mut progress = Progress::new(talk, settings.progress);
    let mut tasks: JoinSet<Told> = JoinSet::new();
    let mut all: Vec<Started> = Vec::new();
    for job in jobs {
        for (mut member, observed, gauges, started) in start(job, progress.shown(), talk).await? {
            progress.add(&started.story, started.handle.clone(), gauges);
            watched.add(observed, &started.story);
            let (at, begun) = (all.len(), started.handle.clone());
            tasks.spawn(async move { Told::Began(at, begun.started().await) });
            tasks.spawn(async move { Told::Ended(at, Box::new(member.wait().await)) });
            all.push(started);
        }
    }
    let mut exit = Exit::Done;
    let mut stopping = false;
    let mut reader = Reader::new();
    let mut read = true;
    loop {
        tokio::select! {
            told = tasks.join_next() => match told {
                None => break,
                Some(Ok(Told::Began(at, start))) => all[at].began(talk, start),
                Some(Ok(Told::Ended(at, result))) => {
                    progress.ended(at);
                    if let Err(error) = &*result {
                        watched.failed(&all[at].story, error);
                    }
                    exit = exit.max(all[at].ended(talk, *result, stopping));
                }
                Some(Err(error)) => {
                    return Err(Error::new(millstream::core::ErrorKind::Bug, "a task died").caused_by(error));
                }
            },
            () = reader.gone(), if read => {
                read = false;
                all.iter().filter(|started| started.prints).for_each(|started| started.group.stop());
            }
            () = signals.next() => {
                if std::mem::replace(&mut stopping, true) {
                    all.iter().for_each(|started| started.group.stop());
                    let _ = tokio::time::timeout(STOP_WAIT, async { while tasks.join_next().await.is_some() {} }).await;
                    exit = Exit::Killed;
                    break;
                }
                let most = millstream::core::Span(settings.drain_timeout);
                talk.say(&format!("draining, for at most {most}; a second signal stops at once"));
                all.iter().for_each(|started| started.group.drain(settings.drain_timeout));
            }
            () = progress.tick() => {}
        }
    }
    progress.close();
    watched.close().await;
    Ok(exit)
}

/// Starts a pipeline with the tasks of its buffers; each with what is shown of it.
async fn start(job: Job, shows: bool, talk: &Talk) -> Result<Vec<(Member, Observed, Vec<Arc<Gauge>>, Started)>> {
    let Job { plan, options, story, tasks, home, vars, told, letters_fail, locate } = job;
    let pipeline = plan.name.clone();
    let (mut shown, mut parts) = (vec![(Shape::of(&plan), prints(&plan), story)], Vec::new());
    for (task, options, story) in tasks {
        shown.push((Shape::of(&task.plan), prints(&task.plan), story));
        parts.push((task, options));
    }
    let (plan, mut gauges) = if shows { gauged(plan) } else { (plan, Vec::new()) };
    let running = Group::start_each((plan, options), parts, &home).await?;
    let group = running.handle();
    if running.resting {
        let (.., story) = shown.remove(0);
        gauges.clear();
        talk.say(&format!("{}: finished before; what is left in its buffers is delivered", story.name));
    }
    let started = running.members.into_iter().zip(shown).map(|(member, (shape, prints, story))| {
        let (handle, group, locate) = (member.handle.clone(), group.clone(), locate.clone());
        // The buffers are the pipeline's; where it rests, each task has its own.
        let of = running.resting.then(|| member.name.clone());
        let all = group.clone();
        let mut observed = Observed::new(shape, handle.clone())
            .with_vars(vars.clone())
            .with_drain(Arc::new(move |deadline| all.drain(deadline)));
        if member.buffer.is_none() || running.resting {
            observed = observed.with_buffers(buffers(&pipeline, group.clone(), of));
        }
        let buffer = member.buffer.clone();
        let started = Started { handle, group, prints, buffer, story, told, letters_fail, locate };
        // They are the pipeline's, which comes first.
        (member, observed, std::mem::take(&mut gauges), started)
    });
    Ok(started.collect())
}

/// Whether a plan writes to standard output.
fn prints(plan: &Plan) -> bool {
    plan.role(Role::Sink).any(|(_, node)| matches!(node.kind.as_str(), "stdout" | "stdio"))
}

/// What the tasks around a pipeline tell.
enum Told {
    Began(usize, Option<millstream::runtime::Start>),
    Ended(usize, Box<Result<Summary>>),
}

impl Started {
    fn began(&self, talk: &Talk, start: Option<millstream::runtime::Start>) {
        if let Some(start) = start.filter(|_| self.told) {
            talk.say(&self.story.promise(start));
        }
    }

    fn ended(&self, talk: &Talk, result: Result<Summary>, stopping: bool) -> Exit {
        let summary = match result {
            Ok(summary) => summary,
            Err(error) => return self.failed(talk, error),
        };
        if self.told {
            self.story.tell_end(talk, &summary);
        }
        let left = self.buffer.as_ref().map_or(0, |buffer| buffer.figures().records);
        if left > 0 {
            let story = &self.story.name;
            talk.say(&format!(
                "{story}: {} records are left in the buffer; the next run delivers them",
                thousands(left)
            ));
        }
        let undone = summary.parked() > 0 || left > 0 || (stopping && summary.ended == Ended::Stopped);
        let dead = self.letters_fail && summary.dead() > 0;
        match (dead, undone) {
            (true, _) => Exit::Failed,
            (false, true) => Exit::Undone,
            (false, false) => Exit::Done,
        }
    }

    fn failed(&self, talk: &Talk, error: Error) -> Exit {
        let books = self.story.stages.books(&self.handle.status().stages);
        let exit = match Exit::of(&error) {
            // Nothing was started only if nothing was read.
            Exit::Usage if books.read > 0 => Exit::Failed,
            exit => exit,
        };
        talk.error(&(self.locate)(error));
        if self.told && books.read > 0 {
            self.story.tell_failed(talk, &books);
        }
        exit
    }
}
