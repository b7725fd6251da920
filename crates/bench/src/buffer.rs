//! A buffer on disk in front of a sink: written, read and delivered, beside a plain `.ss` write of the same records.

use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use millstream::{Buffered, Group, Home, registry};
use millstream_core::{SinkPlan, Size, SourcePlan};
use millstream_runtime::{BufferSpec, Entry, PipelineSpec, PlanOptions};
use serde_json::json;

use crate::{
    data,
    harness::{Contender, ROUNDS, Table, compete},
    parts::{Blocks, pipeline, run as run_pipeline},
};

const BATCH_RECORDS: usize = 2_048;
const RECORDS: u64 = 2_000_000 / BATCH_RECORDS as u64 * BATCH_RECORDS as u64;

/// Measures the case. Neither syncs more than it must: the `.ss` file never, the buffer once an epoch.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    let folder = data::folder()?;
    let home = Home::new(folder.path().join("state"));
    let blocks = || Blocks::plain(BATCH_RECORDS, RECORDS / BATCH_RECORDS as u64);
    let mut sink: Entry<dyn SinkPlan> = Entry::named("drop", json!({}));
    sink.name = Some("drop".to_owned());
    sink.buffer = Some(BufferSpec::new(Size(10 << 30)));
    let spec = PipelineSpec {
        name: "buffered".to_owned(),
        sources: vec![Entry::ready(Arc::new(blocks()) as Arc<dyn SourcePlan>)],
        sinks: vec![sink],
        ..PipelineSpec::default()
    };
    let options = json!({"path": folder.path().join("plain.ss"), "existing": "replace", "fsync": "never"});
    let plain = pipeline("plain", folder.path()).source_of(blocks()).sink_with("file", options);
    let contenders = vec![
        Contender::new("through a buffer", || {
            let planned = Buffered::new(&spec, &registry(), PlanOptions::default(), &home);
            let planned = planned.map_err(|errors| anyhow!("{errors:?}"))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let summary = runtime
                .block_on(async { Group::start(planned, &home, |plan| home.options(plan)).await?.wait().await })?;
            let task = summary.tasks.get("drop").cloned().flatten();
            let delivered = task.and_then(|task| Some(task.stages.get("drop")?.records_out)).unwrap_or(0);
            ensure!(delivered == RECORDS, "{delivered} of {RECORDS} records were delivered");
            Ok(delivered)
        }),
        Contender::new("plain .ss write", || {
            let written = run_pipeline(&plain)?.stages.get("file").map_or(0, |figures| figures.records_out);
            ensure!(written == RECORDS, "{written} of {RECORDS} records were written");
            Ok(written)
        }),
    ];
    let rates = compete(ROUNDS, contenders)?;
    table.ratio("buffer on disk, to a plain .ss write", &rates[0], &rates[1], 0.7);
    Ok(())
}
