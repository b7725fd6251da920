//! Typed pipelines: what steps made of closures cost beside loops and channels written by hand.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use async_trait::async_trait;
use millstream::{BatchOf, Batching, Pipeline, Stream, Typed};
use millstream_core::{
    Batch, Envelope, Event, Form, Output, Position, Resume, Sequences, ShardKey, Shards, Source, SourceCapabilities,
    SourcePlan, Step, StepPlan, Times, Told, Transform,
};

use crate::{
    harness::{Contender, ROUNDS, Table, Target, compete, median, on_all_cores, rate},
    parts::{dropped, no_epochs, run as run_pipeline},
};

/// Numbers of each run.
const NUMBERS: u64 = 20_000_000;
/// Numbers of each batch: 64 KiB.
const BATCH: u64 = 8192;
/// Threads where there are several.
const THREADS: usize = 2;

/// Measures the case.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    fused(table)?;
    on_all_cores(|| {
        unfused(table)?;
        by_key(table)?;
        batches(table)?;
        broadcast(table)?;
        waiting(table)
    })
}

fn numbered(name: &str, numbers: u64) -> (Pipeline, Stream<u64>) {
    let pipeline = Pipeline::new(name).in_memory().checkpoint(no_epochs());
    let stream = pipeline.typed_source_of::<u64>(Numbers { numbers });
    (pipeline, stream)
}

/// The five steps, on one value; the same in a pipeline and in a loop.
fn mixed(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn folded(n: u64) -> u64 {
    n ^ (n >> 29)
}

fn kept(n: u64) -> bool {
    !n.is_multiple_of(4)
}

fn fused(table: &mut Table) -> Result<()> {
    let (pipeline, numbers) = numbered("typed-fused", NUMBERS);
    numbers
        .map(|&n| mixed(n))
        .map(|&n| folded(n))
        .filter(|&n| kept(n))
        .map(|&n| n >> 3)
        .map(|&n| n.wrapping_add(7))
        .drop();
    let ours = move || {
        let summary = run_pipeline(&pipeline)?;
        ensure!(dropped(&summary) > NUMBERS / 2, "{} came through", dropped(&summary));
        Ok(NUMBERS)
    };
    let by_hand = || {
        let mut sum = 0u64;
        for n in (0..NUMBERS).map(black_box).map(mixed).map(folded).filter(|n| kept(*n)).map(|n| n >> 3) {
            sum = sum.wrapping_add(black_box(n.wrapping_add(7)));
        }
        black_box(sum);
        Ok(NUMBERS)
    };
    let rates = compete(ROUNDS, vec![Contender::new("ours", ours), Contender::new("iterator", by_hand)])?;
    table.ratio("typed, five fused steps of u64", &rates[0], &rates[1], 1.0 / 3.0);
    Ok(())
}

/// Runs a pipeline on several threads.
fn on_threads(pipeline: &Pipeline) -> Result<millstream::Summary> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    Ok(runtime.block_on(pipeline.run())?)
}

fn unfused(table: &mut Table) -> Result<()> {
    let (pipeline, numbers) = numbered("typed-unfused", NUMBERS);
    let two = THREADS as u32;
    // Each change of the number of workers is an edge.
    numbers
        .map(|&n| mixed(n))
        .concurrency(two)
        .map(|&n| folded(n))
        .concurrency(1)
        .filter(|&n| kept(n))
        .concurrency(two)
        .map(|&n| n >> 3)
        .concurrency(1)
        .map(|&n| n.wrapping_add(7))
        .concurrency(two)
        .drop();
    let ours = move || on_threads(&pipeline).map(|_| NUMBERS);
    let sent = NUMBERS / 40;
    let channels = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        runtime.block_on(one_by_one(sent));
        Ok(sent)
    };
    let rates = compete(ROUNDS, vec![Contender::new("ours", ours), Contender::new("tokio mpsc", channels)])?;
    wall(table, "  unfused over 2 workers", &rates[0], 10e6);
    let figures = (rate(rates[0].median_wall()), format!("{} {}", rate(rates[1].median_wall()), rates[1].name));
    table.row("  against one by one", figures, rates[0].ratio_wall(&rates[1]), "", Target::AtLeast(5.0));
    Ok(())
}

/// The same five steps as tasks with channels of single numbers between them.
async fn one_by_one(numbers: u64) {
    let steps: [fn(u64) -> Option<u64>; 5] = [
        |n| Some(mixed(n)),
        |n| Some(folded(n)),
        |n| kept(n).then_some(n),
        |n| Some(n >> 3),
        |n| Some(n.wrapping_add(7)),
    ];
    let (first, mut from) = tokio::sync::mpsc::channel(1024);
    tokio::spawn(async move {
        for n in 0..numbers {
            if first.send(n).await.is_err() {
                return;
            }
        }
    });
    for step in steps {
        let (next, to) = tokio::sync::mpsc::channel(1024);
        let mut taken = std::mem::replace(&mut from, to);
        tokio::spawn(async move {
            while let Some(n) = taken.recv().await {
                if let Some(n) = step(n)
                    && next.send(n).await.is_err()
                {
                    return;
                }
            }
        });
    }
    while let Some(n) = from.recv().await {
        black_box(n);
    }
}

/// A rate by the clock on the wall that must be reached by itself.
fn wall(table: &mut Table, case: &str, ours: &crate::harness::Rates, target: f64) {
    let reached = ours.median_wall();
    table.row(case, (rate(reached), format!("{} wanted", rate(target))), reached / target, "", Target::AtLeast(1.0));
}

fn by_key(table: &mut Table) -> Result<()> {
    let (pipeline, numbers) = numbered("typed-keys", NUMBERS / 2);
    let keyed = numbers.partition_by(|&n| n % 1000);
    keyed.map(|&n| mixed(n)).concurrency(THREADS as u32).drop();
    let ours = move || on_threads(&pipeline).map(|_| NUMBERS / 2);
    let rates = compete(ROUNDS, vec![Contender::new("ours", ours)])?;
    wall(table, "  partition by key over 2 workers, 1,000 keys", &rates[0], 8e6);
    Ok(())
}

fn batches(table: &mut Table) -> Result<()> {
    let handled = |name: &str, batching: Batching<u64>| {
        let (pipeline, numbers) = numbered(name, NUMBERS / 2);
        let sums = numbers.batch(batching).handle(|batch: BatchOf<u64>| async move {
            black_box(batch.values().iter().sum::<u64>());
        });
        sums.drop();
        move || run_pipeline(&pipeline).map(|_| NUMBERS / 2)
    };
    let contenders = vec![
        Contender::new("by count", handled("typed-count", Batching::count(100))),
        // As a log with keys gives them: some records of each come together.
        Contender::new("by key", handled("typed-by-key", Batching::count(100).key(|n| (n / 16) % 10))),
    ];
    let rates = compete(ROUNDS, contenders)?;
    table.rate("  batches of 100 by count", &rates[0], 10e6);
    table.rate("  batches of 100 by key", &rates[1], 10e6);
    Ok(())
}

fn broadcast(table: &mut Table) -> Result<()> {
    const RECORDS: u64 = 4_000_000;
    let to = |branches: usize, copied: bool| {
        let block = crate::parts::Blocks::of(&vec!["x".repeat(1000); 256], Form::Bytes, RECORDS / 256);
        let pipeline = Pipeline::new(format!("typed-broadcast-{branches}")).in_memory().checkpoint(no_epochs());
        let records = pipeline.source_of(block);
        for branch in 0..branches {
            let records = records.clone();
            let records = if copied { records.step_of(Copied) } else { records };
            records.sink("drop:").name(format!("drop-{branch}"));
        }
        move || run_pipeline(&pipeline).map(|_| RECORDS)
    };
    let contenders = vec![
        Contender::new("one", to(1, false)),
        Contender::new("four", to(4, false)),
        Contender::new("four with copies", to(4, true)),
    ];
    let rates = compete(ROUNDS, contenders)?;
    let nanos = |i: usize| 1e9 / rates[i].median();
    let (each, copy) = ((nanos(1) - nanos(0)) / 3.0, (nanos(2) - nanos(1)) / 4.0);
    let figures = (format!("{each:.2} ns each"), format!("{copy:.2} ns a copy"));
    table.row("  broadcast to 4, a branch's share of a copy", figures, each / copy * 100.0, " %", Target::Below(5.0));
    Ok(())
}

/// A step that makes a copy of its own, as a branch would that could not share its records.
#[derive(Clone, Copy, Debug)]
struct Copied;

impl StepPlan for Copied {
    fn form(&self) -> Form {
        Form::Bytes
    }

    fn create(&self) -> millstream::Result<Step> {
        Ok(Step::Transform(Box::new(*self)))
    }
}

impl Transform for Copied {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        out.emit(0, batch.compact());
    }
}

/// A thousand futures under way, each of a millisecond.
fn waiting(table: &mut Table) -> Result<()> {
    const RECORDS: u64 = 1_000_000;
    const UNDER_WAY: usize = 1000;
    let mut reached = Vec::new();
    for _ in 0..3 {
        let (pipeline, numbers) = numbered("typed-waiting", RECORDS);
        let waited = numbers.map_async(|n| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok::<u64, millstream::Error>(n)
        });
        // As many as in the loop, by as many threads.
        waited.in_flight(UNDER_WAY / THREADS).concurrency(THREADS as u32).unordered().drop();
        let began = Instant::now();
        on_threads(&pipeline)?;
        reached.push(RECORDS as f64 / began.elapsed().as_secs_f64());
    }
    // What a loop of so many tasks comes to: the timer's own grain is a millisecond, so a sleep of one takes up to two.
    let ideal = loop_of_sleeps(RECORDS, UNDER_WAY)?;
    let figures = (rate(median(&reached)), format!("{} loops of sleeps", rate(ideal)));
    table.row("  async map, 1,000 under way of 1 ms", figures, median(&reached) / ideal, "", Target::AtLeast(0.95));
    Ok(())
}

fn loop_of_sleeps(records: u64, under_way: usize) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let each = records / under_way as u64;
    let began = Instant::now();
    runtime.block_on(async {
        let mut loops = tokio::task::JoinSet::new();
        for _ in 0..under_way {
            loops.spawn(async move {
                for _ in 0..each {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
        while loops.join_next().await.is_some() {}
    });
    Ok(records as f64 / began.elapsed().as_secs_f64())
}

/// Numbers from 0 on, as typed batches.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    numbers: u64,
}

impl SourcePlan for Numbers {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities { bounded: true, seek: false, seek_time: false, ..SourceCapabilities::LOG }
    }

    fn form(&self) -> Form {
        Form::Json
    }

    fn describe(&self) -> String {
        "numbers".to_owned()
    }

    fn create(&self) -> millstream::Result<Box<dyn Source>> {
        Ok(Box::new(Counting { numbers: self.numbers, next: 0, shard: ShardKey::new("numbers", 0) }))
    }
}

struct Counting {
    numbers: u64,
    next: u64,
    shard: ShardKey,
}

#[async_trait]
impl Source for Counting {
    async fn open(&mut self, resume: &Resume) -> millstream::Result<()> {
        let saved = resume.position.as_ref().map(|position| position.shard(&self.shard)).transpose()?.flatten();
        self.next = saved.unwrap_or(0);
        Ok(())
    }

    async fn next(&mut self) -> millstream::Result<Event> {
        if self.next == self.numbers {
            return Ok(Event::End);
        }
        let (from, to) = (self.next, self.numbers.min(self.next + BATCH));
        self.next = to;
        let envelope = Envelope {
            shards: Shards::Same(self.shard.clone()),
            sequences: Sequences::Run(u128::from(from)),
            times: Times::Absent,
            keys: None,
            headers: None,
            told: Told::default(),
        };
        Ok(Event::Batch(Batch::new(envelope, Typed::body((from..to).collect())).into()))
    }

    fn position(&self) -> millstream::Result<Position> {
        let mut position = Position::default();
        position.set(self.shard.clone(), &self.next)?;
        Ok(position)
    }
}
