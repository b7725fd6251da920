//! Runs any number of pipelines to their end in one tokio runtime, steered by signals.

use std::time::Duration;

use millstream::{
    core::{Error, Result, Role},
    runtime::{Ended, Handle, Plan, RunOptions, Running, Summary},
};
use tokio::task::JoinSet;

use crate::{
    exit::Exit,
    progress::{Gauge, Progress, watched},
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
    /// Tell the promise and the books.
    pub(crate) told: bool,
    /// Dead letters make the exit code 1.
    pub(crate) letters_fail: bool,
    /// Shows a failure with its place.
    pub(crate) locate: Box<dyn Fn(Error) -> millstream_config::Diagnostic + Send + Sync>,
}

/// What is the same for all pipelines of the process.
pub(crate) struct Settings {
    pub(crate) drain_timeout: Duration,
    /// Progress may be shown; not where the records themselves appear on a terminal.
    pub(crate) progress: bool,
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
    /// It writes to standard output, and has nothing to do when nobody reads that.
    prints: bool,
    story: Story,
    told: bool,
    letters_fail: bool,
    locate: Box<dyn Fn(Error) -> millstream_config::Diagnostic + Send + Sync>,
}

async fn drive(jobs: Vec<Job>, settings: &Settings, talk: &Talk) -> Result<Exit> {
    let mut signals = Signals::new()?;
    let mut progress = Progress::new(talk, settings.progress);
    let mut tasks: JoinSet<Told> = JoinSet::new();
    let mut all: Vec<Started> = Vec::new();
    for job in jobs {
        let (plan, gauges) = match progress.shown() {
            true => watched(job.plan),
            false => (job.plan, Vec::<std::sync::Arc<Gauge>>::new()),
        };
        let prints = plan.role(Role::Sink).any(|(_, node)| matches!(node.kind.as_str(), "stdout" | "stdio"));
        let mut running = Running::start(plan, job.options);
        let handle = running.handle();
        progress.add(&job.story, handle.clone(), gauges);
        let (at, begun) = (all.len(), handle.clone());
        tasks.spawn(async move { Told::Began(at, begun.started().await) });
        tasks.spawn(async move { Told::Ended(at, Box::new(running.wait().await)) });
        let Job { story, told, letters_fail, locate, .. } = job;
        all.push(Started { handle, prints, story, told, letters_fail, locate });
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
                    exit = exit.max(all[at].ended(talk, *result, stopping));
                }
                Some(Err(error)) => {
                    return Err(Error::new(millstream::core::ErrorKind::Bug, "a task died").caused_by(error));
                }
            },
            () = reader.gone(), if read => {
                read = false;
                all.iter().filter(|started| started.prints).for_each(|started| started.handle.stop());
            }
            () = signals.next() => {
                if std::mem::replace(&mut stopping, true) {
                    all.iter().for_each(|started| started.handle.stop());
                    let _ = tokio::time::timeout(STOP_WAIT, async { while tasks.join_next().await.is_some() {} }).await;
                    exit = Exit::Killed;
                    break;
                }
                let most = millstream::core::Span(settings.drain_timeout);
                talk.say(&format!("draining, for at most {most}; a second signal stops at once"));
                all.iter().for_each(|started| started.handle.drain(settings.drain_timeout));
            }
            () = progress.tick() => {}
        }
    }
    progress.close();
    Ok(exit)
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
        let undone = summary.parked() > 0 || (stopping && summary.ended == Ended::Stopped);
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
