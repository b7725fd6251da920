//! Kafka: writing, reading and copying topics of one partition, against `rdkafka_performance` on the same broker, and how
//! much memory a sink takes whose broker stands still.
//!
//! Broker and clients share all cores here, so rates are by the clock on the wall, from the start of a client to its end; the
//! processor time of the client alone stands in rows of its own. The peer copies no topic: it reads one and writes another at
//! the same time, as two processes. As it comes, it looks neither at headers nor at checksums: in the rows "without headers and
//! checksums" we do not either, in the rows "with both" it does too.

mod paused;
mod performance;

use std::{cell::RefCell, path::Path};

use anyhow::{Result, ensure};
use bytes::Bytes;
use millstream::{End, Home, Pipeline, Running, Summary};
use millstream_core::Form;
use millstream_testkit::servers::Kafka;
use serde_json::json;

use self::performance::Performance;
use crate::{
    data,
    harness::{Contender, Rates, Table, Target, compete, on_all_cores, rate},
    parts::{Blocks, Cut, dropped, pipeline, run as run_pipeline},
};

/// Bytes of the batches that ours is given.
const BATCH_BYTES: usize = 256 << 10;
/// What each comparison must reach.
const RATE: f64 = 0.9;
/// Times the processor time of the peer.
const CPU: f64 = 2.0;

/// Measures the case. With `MILLSTREAM_LONG` 10 M records are moved at a time.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    on_all_cores(|| {
        // What is deleted must be gone before the disk is full.
        let kafka = match Kafka::setup().patient().property("log.segment.delete.delay.ms", "100").start() {
            Ok(kafka) => kafka,
            Err(missing) => {
                table.skipped("kafka", &missing);
                return Ok(());
            }
        };
        let long = std::env::var_os("MILLSTREAM_LONG").is_some();
        match Performance::build(&kafka.bootstrap()) {
            Ok(peer) => {
                for (bytes, records) in [(100, 2_000_000), (1024, 500_000)] {
                    let (records, rounds) = if long { (10_000_000, 2) } else { (records, 3) };
                    // Whole batches of ours.
                    let batch = (BATCH_BYTES / bytes) as u64;
                    let records = records / batch * batch;
                    Bench { kafka: &kafka, peer: &peer, bytes, records }.run(table, rounds)?;
                }
            }
            Err(error) => table.skipped("kafka against rdkafka_performance", &format!("{error:#}")),
        }
        paused::run(table, &kafka)
    })
}

/// Records of one size.
struct Bench<'a> {
    kafka: &'a Kafka,
    peer: &'a Performance,
    bytes: usize,
    records: u64,
}

impl Bench<'_> {
    fn run(&self, table: &mut Table, rounds: usize) -> Result<()> {
        let folder = data::folder()?;
        let (from, to) = (format!("from-{}", self.bytes), RefCell::new(None));
        self.kafka.create_topic(&from, 1, &[]);
        self.peer.produce(&from, self.records, self.bytes)?.finish()?;
        let fresh = || self.fresh(&to);
        let target = || to.borrow().clone().unwrap_or_default();

        let ours = || {
            let summary = run_pipeline(&self.producing(&target(), folder.path()))?;
            let written = summary.stages.get("kafka").map_or(0, |figures| figures.records_out);
            ensure!(written == self.records, "{written} of {} records were written", self.records);
            Ok(written)
        };
        let peer = || self.peer.produce(&target(), self.records, self.bytes)?.finish().map(|()| self.records);
        let contenders =
            vec![Contender::new("ours producing", ours).after(fresh), Contender::new("rdkafka", peer).after(fresh)];
        if let [ours, peer] = &compete(rounds, contenders)?[..] {
            self.rows(table, "produce", [ours, peer]);
        }

        self.consume(table, rounds, &from, folder.path())?;

        let ours = || {
            let copy = pipeline("kafka-relay", folder.path())
                .in_memory()
                .source(&self.url(&from))
                .sink_with("kafka", json!({"url": self.url(&target())}))
                .name("out");
            let summary = to_the_end(&copy, folder.path())?;
            let copied = summary.stages.get("out").map_or(0, |figures| figures.records_out);
            ensure!(copied == self.records, "{copied} of {} records were copied", self.records);
            Ok(copied)
        };
        let peer = || {
            let reading = self.peer.consume(&from, self.records, false)?;
            self.peer.produce(&target(), self.records, self.bytes)?.finish()?;
            reading.finish().map(|()| self.records)
        };
        let contenders =
            vec![Contender::new("ours relaying", ours).after(fresh), Contender::new("rdkafka", peer).after(fresh)];
        if let [ours, peer] = &compete(rounds, contenders)?[..] {
            self.rows(table, "relay", [ours, peer]);
        }
        self.kafka.delete_topic(&from);
        if let Some(last) = to.take() {
            self.kafka.delete_topic(&last);
        }
        Ok(())
    }

    fn consume(&self, table: &mut Table, rounds: usize, from: &str, folder: &Path) -> Result<()> {
        let consuming = |all: bool| {
            let mut source = json!({"url": self.url(from)});
            if !all {
                source["headers"] = false.into();
                source["property"] = json!({"check.crcs": false});
            }
            let reading = pipeline("kafka-consume", folder).in_memory().source_with("kafka", source).sink("drop:");
            let read = dropped(&to_the_end(&reading, folder)?);
            ensure!(read == self.records, "{read} of {} records were read", self.records);
            Ok(read)
        };
        let peer = |all: bool| self.peer.consume(from, self.records, all)?.finish().map(|()| self.records);
        let contenders = vec![
            Contender::new("ours consuming", || consuming(true)),
            Contender::new("ours consuming less", || consuming(false)),
            Contender::new("rdkafka", || peer(false)),
            Contender::new("rdkafka with both", || peer(true)),
        ];
        if let [ours, ours_less, peer, peer_more] = &compete(rounds, contenders)?[..] {
            self.rows(table, "consume", [ours, peer]);
            self.rows(table, "consume without headers and checksums", [ours_less, peer]);
            self.rows(table, "consume with both", [ours, peer_more]);
        }
        Ok(())
    }

    /// A new topic to write to, in place of the one before.
    fn fresh(&self, topic: &RefCell<Option<String>>) -> Result<()> {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        if let Some(old) = topic.take() {
            self.kafka.delete_topic(&old);
        }
        let new = format!("to-{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        self.kafka.create_topic(&new, 1, &[]);
        topic.replace(Some(new));
        Ok(())
    }

    fn url(&self, topic: &str) -> String {
        format!("kafka://{}/{topic}", self.kafka.bootstrap())
    }

    fn producing(&self, topic: &str, folder: &Path) -> End {
        let block: Bytes = data::letters(BATCH_BYTES / self.bytes * self.bytes).into();
        let batches = self.records / (block.len() / self.bytes) as u64;
        let blocks = Blocks { block, cut: Cut::Every(self.bytes), form: Form::Bytes, batches };
        pipeline("kafka-produce", folder)
            .in_memory()
            .source_of(blocks)
            .sink_with("kafka", json!({"url": self.url(topic)}))
    }

    fn rows(&self, table: &mut Table, what: &str, [ours, peer]: [&Rates; 2]) {
        let case = format!("kafka {what}, {} B", self.bytes);
        let figures = (rate(ours.median_wall()), format!("{} {}", rate(peer.median_wall()), peer.name));
        table.row(&case, figures, ours.ratio_wall(peer), "", Target::AtLeast(RATE));
        let each = |rates: &Rates| format!("{:.0} ns", 1e9 / rates.median());
        let figures = (each(ours), format!("{} {}", each(peer), peer.name));
        table.row("  processor time of a record", figures, 1.0 / ours.ratio(peer), "", Target::Below(CPU));
    }
}

/// Runs a pipeline until its source has given what is there. A copy begins anew each time: nothing of it is kept.
fn to_the_end(pipeline: &Pipeline, folder: &Path) -> Result<Summary> {
    let plan = pipeline.plan()?;
    let mut options = Home::new(folder.join("state")).options(&plan);
    options.until_end = true;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async { Running::start(plan, options).wait().await })?)
}
