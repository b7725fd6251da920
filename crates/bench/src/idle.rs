//! Pipelines that have nothing to do, and how soon one has done its first record.

use std::{
    io::BufRead as _,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use millstream_core::{SinkPlan, SourcePlan};
use millstream_std::{ChannelOptions, channel, receiver};
use millstream_testkit::process::resident_kib;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    data,
    harness::{Table, Target, median},
    parts::pipeline,
    roles,
};

const PIPELINES: usize = 1_000;
const SETTLE: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(10);
const STARTS: usize = 30;

/// Measures the case.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    let output = roles::command("idle")?.arg(PIPELINES.to_string()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the child ended with {}", output.status);
    let line = output.stdout.lines().next().context("the child said nothing")??;
    let figures: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [cpu, memory, empty] = figures[..] else { anyhow::bail!("the child said `{line}`") };
    table.below("1,000 idle pipelines, share of a core", cpu * 100.0, " %", 3.0);
    let figures = (format!("{memory:.1} MB"), format!("{empty:.1} MB before the first"));
    table.row("  resident memory of the process", figures, memory, " MB", Target::Below(60.0));
    start(table)
}

/// Starts so many pipelines, lets them be, and prints the share of a core that they take, the resident memory of the
/// process in MB, and how much that was before.
pub(crate) fn child(pipelines: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let empty = resident();
        let mut kept = Vec::new();
        for i in 0..pipelines {
            let (sender, source) = channel(ChannelOptions::default());
            let pipeline = pipeline(&format!("idle-{i}"), folder.path())
                .source_of(Ready(source))
                .filter(|record| record.value().is_some())
                .sink("drop:");
            let running = pipeline.start()?;
            kept.push((sender, running));
        }
        for (_, running) in &kept {
            running.handle().started().await.context("a pipeline did not start")?;
        }
        tokio::time::sleep(SETTLE).await;
        let (since, before) = (Instant::now(), used()?);
        tokio::time::sleep(WATCHED).await;
        let share = (used()? - before).as_secs_f64() / since.elapsed().as_secs_f64();
        println!("{share} {} {empty}", resident());
        Ok(())
    })
}

/// From `start` to the first record at the sink, with a new state directory on the disk.
fn start(table: &mut Table) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let text = folder.path().join("text.txt");
    std::fs::write(&text, data::lines(1_000, 99))?;
    let mut millis = Vec::with_capacity(STARTS);
    for i in 0..STARTS {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let took = runtime.block_on(async {
            let (sink, mut received) = receiver(4);
            let since = Instant::now();
            let mut running = pipeline(&format!("start-{i}"), folder.path())
                .source(&format!("file:{}", text.display()))
                .filter(|record| record.value().is_some())
                .sink_of(Ready(sink))
                .start()?;
            let first = received.recv().await;
            let took = since.elapsed();
            ensure!(first.is_some(), "no record came");
            while received.recv().await.is_some() {}
            running.wait().await?;
            Ok(took)
        })?;
        millis.push(took.as_secs_f64() * 1e3);
    }
    millis.sort_by(f64::total_cmp);
    let (p50, most) = (median(&millis), millis.last().copied().unwrap_or(f64::NAN));
    let figures = (format!("{p50:.1} ms"), format!("at most {most:.1} ms of {STARTS}"));
    table.row("start to first record, p50", figures, p50, " ms", Target::Below(100.0));
    Ok(())
}

/// A plan in a box, as a plan.
#[derive(Debug)]
struct Ready<P: ?Sized>(Box<P>);

impl SourcePlan for Ready<dyn SourcePlan> {
    fn capabilities(&self) -> millstream_core::SourceCapabilities {
        self.0.capabilities()
    }

    fn form(&self) -> millstream_core::Form {
        self.0.form()
    }

    fn start(&self) -> millstream_core::SeekTo {
        self.0.start()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn transaction(&self) -> Option<String> {
        self.0.transaction()
    }

    fn create(&self) -> millstream::Result<Box<dyn millstream_core::Source>> {
        self.0.create()
    }

    fn observer(&self) -> millstream::Result<Box<dyn millstream_core::Source>> {
        self.0.observer()
    }

    fn over(&self) {
        self.0.over();
    }
}

impl SinkPlan for Ready<dyn SinkPlan> {
    fn capabilities(&self) -> millstream_core::SinkCapabilities {
        self.0.capabilities()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn transaction(&self) -> Option<String> {
        self.0.transaction()
    }

    fn host(&self) -> millstream::Result<Box<dyn millstream_core::Host>> {
        self.0.host()
    }

    fn warnings(&self) -> Vec<String> {
        self.0.warnings()
    }

    fn create(&self) -> millstream::Result<Box<dyn millstream_core::Sink>> {
        self.0.create()
    }
}

/// Processor time of this process.
fn used() -> Result<Duration> {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Ok(Duration::new(time.tv_sec.try_into()?, time.tv_nsec.try_into()?))
}

/// Resident memory of this process in MB.
pub(crate) fn resident() -> f64 {
    resident_kib() as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use millstream_core::Record;

    use super::*;

    /// Longer than anybody should wait.
    const LATE: Duration = Duration::from_secs(10);

    #[test]
    fn who_waits_for_an_answer_of_a_wrapped_source_is_told_that_its_run_is_over() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (sender, source) = channel(ChannelOptions::default());
            let ready = Ready(source);
            let pushed = tokio::spawn(async move { sender.push_and_wait(Record::new("s", "value")).await });
            // It waits now.
            tokio::task::yield_now().await;
            ready.over();
            let told = tokio::time::timeout(LATE, pushed).await.expect("nobody was told").unwrap();
            assert!(told.is_err(), "{told:?}");
        });
    }
}
