//! Memory and processor time of a pipeline whose sink stalls, measured in a process of its own.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_core::Form;
use millstream_core::{
    BATCH_RECORDS_MAX, BatchBuilder, Event, Position, Record, Result, Resume, ShardKey, Source, SourceCapabilities,
    SourcePlan, StepPlan,
};
use millstream_runtime::{Dispatch, Entry, PipelineSpec, RateLimit};
use millstream_testkit::{
    FakeSink, FakeSource,
    process::{alone, is_alone, resident_kib, ticks},
};

use crate::{Bench, MapPlan, spec, until};

/// Full batches of 100-byte records, for ever.
#[derive(Debug)]
struct Endless {
    /// All records have the same key.
    hot: bool,
}

impl SourcePlan for Endless {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities { seek: false, seek_time: false, ..SourceCapabilities::LOG }
    }

    fn form(&self) -> Form {
        Form::Bytes
    }

    fn describe(&self) -> String {
        "endless".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(Reading(0, self.hot)))
    }
}

struct Reading(u64, bool);

#[async_trait]
impl Source for Reading {
    async fn open(&mut self, _: &Resume) -> Result<()> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        let (shard, mut builder) = (ShardKey::new("endless", 0), BatchBuilder::new());
        for _ in 0..BATCH_RECORDS_MAX {
            let own = self.0.to_string();
            let key = if self.1 { "hot" } else { own.as_str() };
            let value = Some(Bytes::from_static(&[b'x'; 100]));
            let of = Record { sequence: self.0.into(), origin: shard.clone(), value, ..Record::new("", "") };
            builder.push(&Record { key: Some(Bytes::copy_from_slice(key.as_bytes())), ..of });
            self.0 += 1;
        }
        Ok(Event::Batch(builder.finish().into()))
    }

    fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        position.set(ShardKey::new("endless", 0), &self.0)?;
        Ok(position)
    }
}

/// Runs a pipeline that cannot go on, or only slowly, and measures it while its source waits.
fn stays_flat(test: &str, hot: bool, records_max: u64, change: impl FnOnce(&mut PipelineSpec, &FakeSink)) {
    if !is_alone() {
        return alone(&format!("limits::{test}"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (sink, bench) = (FakeSink::plain(), Bench::new());
        let mut spec = spec(&FakeSource::live(), &[], &sink);
        spec.sources = vec![Entry::ready(Arc::new(Endless { hot }))];
        spec.limits.memory = "16MiB".parse().unwrap();
        spec.checkpoint.every = "50ms".parse().unwrap();
        change(&mut spec, &sink);
        let running = bench.start(&spec);
        let handle = running.handle();
        let read = || handle.status().stages["custom"].records_in;
        let (mut before, mut same) = (0, 0);
        until("the source to wait", || {
            let now = read();
            same = if std::mem::replace(&mut before, now) == now && now > 0 { same + 1 } else { 0 };
            same > 200
        })
        .await;
        let (read_before, memory_before, ticks_before) = (read(), resident_kib(), ticks());
        // The time over which is measured.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (memory, ticks) = (resident_kib().saturating_sub(memory_before), ticks() - ticks_before);
        let more = read() - read_before;
        assert!(more <= records_max, "the source reads on: {more} records");
        assert!(memory < 4 << 10, "memory grew by {memory} KiB");
        assert!(ticks <= 6, "{ticks} ticks of processor time in 3 s are above 2 %");
        handle.stop();
    });
}

fn in_workers(spec: &mut PipelineSpec, dispatch: Dispatch) {
    let mut step = Entry::ready(Arc::new(MapPlan(|value| Ok(Some(value.to_owned())))) as Arc<dyn StepPlan>);
    (step.name, step.concurrency, step.dispatch) = (Some("work".to_owned()), Some(4), Some(dispatch));
    spec.steps = vec![step];
}

const TWO_BATCHES: u64 = 2 * BATCH_RECORDS_MAX as u64;

#[test]
fn with_a_stalled_sink_memory_stays_flat_the_source_waits_and_nothing_spins() {
    let test = "with_a_stalled_sink_memory_stays_flat_the_source_waits_and_nothing_spins";
    stays_flat(test, false, TWO_BATCHES, |_, sink| sink.stall(true));
}

#[test]
fn behind_four_workers_a_stalled_sink_leaves_memory_flat_and_nothing_spins() {
    let test = "behind_four_workers_a_stalled_sink_leaves_memory_flat_and_nothing_spins";
    stays_flat(test, false, TWO_BATCHES, |spec, sink| {
        in_workers(spec, Dispatch::RoundRobin);
        sink.stall(true);
    });
}

#[test]
fn a_hot_key_over_four_workers_leaves_memory_flat_and_nothing_spins() {
    let test = "a_hot_key_over_four_workers_leaves_memory_flat_and_nothing_spins";
    stays_flat(test, true, TWO_BATCHES, |spec, sink| {
        in_workers(spec, Dispatch::Key);
        sink.stall(true);
    });
}

#[test]
fn a_rate_limit_leaves_memory_flat_and_nothing_spins() {
    stays_flat("a_rate_limit_leaves_memory_flat_and_nothing_spins", false, TWO_BATCHES, |spec, _| {
        spec.sources[0].rate_limit = Some(RateLimit { records: 5, per: "1s".parse().unwrap(), by_key: false });
        // Each epoch saves what waits.
        spec.checkpoint.every = "10s".parse().unwrap();
    });
}

#[test]
fn a_thousand_idle_pipelines_use_little_memory_and_no_processor_time() {
    if !is_alone() {
        return alone("limits::a_thousand_idle_pipelines_use_little_memory_and_no_processor_time");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let memory_before = resident_kib();
        let mut all = Vec::new();
        for i in 0..1000 {
            let mut spec = spec(&FakeSource::live(), &[], &FakeSink::plain());
            spec.name = format!("idle-{i}");
            let bench = Bench::new();
            all.push((bench.start(&spec), bench));
        }
        for (running, _) in &all {
            let handle = running.handle();
            until("all to run", || handle.status().epochs > 0).await;
        }
        let ticks_before = ticks();
        // The time over which is measured.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (memory, ticks) = (resident_kib() - memory_before, ticks() - ticks_before);
        assert!(memory < 60 << 10, "{memory} KiB");
        assert!(ticks <= 9, "{ticks} ticks of processor time in 3 s are above 3 %");
    });
}
