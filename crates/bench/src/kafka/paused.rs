//! The memory of a sink whose broker stands still while its input goes on.

use std::time::Duration;

use anyhow::{Result, ensure};
use millstream_core::Form;
use millstream_testkit::servers::Kafka;
use serde_json::json;

use crate::{
    data,
    harness::{Table, Target},
    idle::resident,
    parts::{Blocks, Cut, pipeline},
};

const RECORD_BYTES: usize = 1024;
/// Until records flow.
const WARM: Duration = Duration::from_secs(3);
/// Until all buffers are full; then memory may grow no more.
const FILL: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(10);
const WATCHED_LONG: Duration = Duration::from_secs(60);
/// What the allocator may move about.
const GROWTH_MB: f64 = 8.0;

/// Measures it.
pub(super) fn run(table: &mut Table, kafka: &Kafka) -> Result<()> {
    let folder = data::folder()?;
    kafka.create_topic("paused", 1, &[("retention.bytes", "268435456")]);
    let block = data::letters(RECORD_BYTES * 256).into();
    let blocks = Blocks { block, cut: Cut::Every(RECORD_BYTES), form: Form::Bytes, batches: u64::MAX };
    let pipeline = pipeline("kafka-paused", folder.path())
        .in_memory()
        .source_of(blocks)
        .sink_with("kafka", json!({"url": format!("kafka://{}/paused", kafka.bootstrap())}));
    let watched = if std::env::var_os("MILLSTREAM_LONG").is_some() { WATCHED_LONG } else { WATCHED };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (flowing, full, after) = runtime.block_on(async {
        let mut running = pipeline.start()?;
        tokio::time::sleep(WARM).await;
        let flowing = resident();
        kafka.pause(1);
        tokio::time::sleep(FILL).await;
        let full = resident();
        tokio::time::sleep(watched).await;
        let after = resident();
        kafka.resume(1);
        // What waited is written after all.
        let summary = running.drain(Duration::from_secs(60)).await?;
        let written = summary.stages.get("kafka").map_or(0, |figures| figures.records_out);
        ensure!(written > 0, "no record was written");
        anyhow::Ok((flowing, full, after))
    })?;
    kafka.delete_topic("paused");
    let figures =
        (format!("{after:.0} MB"), format!("{full:.0} MB {} s before, {flowing:.0} MB flowing", watched.as_secs()));
    table.row("kafka broker paused, growth of RSS", figures, after - full, " MB", Target::Below(GROWTH_MB));
    Ok(())
}
