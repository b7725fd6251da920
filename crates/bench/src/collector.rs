//! Callers that push values into a pipeline, each waiting for the commit of its value before it pushes the next.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millstream::{CollectorOptions, runtime::CheckpointSpec};

use crate::{
    harness::{Contender, Table, Target, compete, rate},
    parts::pipeline,
};

const CALLERS: u64 = 1_000;
/// Pushes of each caller where the state lies in memory.
const PUSHES: u64 = 500;
/// Where each epoch is a sync of the disk.
const PUSHES_DISK: u64 = 20;
const ROUNDS: usize = 3;
/// Commits in a second that a web server can rely on.
const TARGET: f64 = 200e3;

/// Measures the case.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    let (mut memory, mut disk) = (Vec::new(), Vec::new());
    let rates = compete(
        ROUNDS,
        vec![
            Contender::new("memory", || push(true, PUSHES, &mut memory)),
            Contender::new("embedded", || push(false, PUSHES_DISK, &mut disk)),
        ],
    )?;
    let [in_memory, on_disk] = &rates[..] else { anyhow::bail!("two contenders have two rates") };
    let ours = format!("{}, {}", rate(in_memory.median_wall()), latency(&mut memory));
    let other = format!("{}, {} with the embedded store", rate(on_disk.median_wall()), latency(&mut disk));
    let reached = in_memory.median_wall() / TARGET;
    table.row("push_and_wait, 1,000 callers, of 200 k/s", (ours, other), reached, "", Target::AtLeast(1.0));
    Ok(())
}

/// Lets all callers push, and notes how long each push took.
fn push(in_memory: bool, pushes: u64, took: &mut Vec<Duration>) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    took.clear();
    let delivered = runtime.block_on(async {
        let mut pipeline = pipeline("collector", folder.path()).checkpoint(CheckpointSpec::default());
        if in_memory {
            pipeline = pipeline.in_memory();
        }
        let (collector, values) = pipeline.collector::<u64>(CollectorOptions::default());
        values.drop();
        let mut running = pipeline.start()?;
        running.handle().started().await;
        let callers: Vec<tokio::task::JoinHandle<millstream::Result<Vec<Duration>>>> = (0..CALLERS)
            .map(|caller| {
                let collector = collector.clone();
                tokio::spawn(async move {
                    let mut took = Vec::with_capacity(pushes as usize);
                    for push in 0..pushes {
                        let since = Instant::now();
                        collector.push_and_wait(caller * pushes + push).await?;
                        took.push(since.elapsed());
                    }
                    Ok(took)
                })
            })
            .collect();
        drop(collector);
        for caller in callers {
            took.extend(caller.await??);
        }
        let summary = running.wait().await?;
        anyhow::Ok(summary.stages["drop"].records_out)
    })?;
    ensure!(delivered == CALLERS * pushes, "{delivered} of {} values came through", CALLERS * pushes);
    Ok(delivered)
}

fn latency(took: &mut [Duration]) -> String {
    took.sort_unstable();
    let at = |share: f64| {
        let index = (took.len() as f64 * share) as usize;
        took.get(index).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    };
    format!("p50 {:.2} ms, p99 {:.2} ms", at(0.5), at(0.99))
}
