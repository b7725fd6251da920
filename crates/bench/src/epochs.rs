//! What checkpoints cost a pipeline that has nothing else to do.

use anyhow::{Result, ensure};
use millstream::runtime::CheckpointSpec;

use crate::{
    flow::CutFront,
    harness::{Contender, Table, Target, compete, rate},
    parts::{Blocks, dropped, no_epochs, pipeline},
};

/// Enough for some epochs of a second.
const RECORDS: u64 = 1_600_000_000;
const BATCH_RECORDS: usize = 2_048;
const ROUNDS: usize = 3;

/// Measures the case. The state lies on the disk, as it does for users.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let flow = |name: &str, checkpoint: CheckpointSpec, epochs_min: u64| {
        let blocks = Blocks::plain(BATCH_RECORDS, RECORDS / BATCH_RECORDS as u64);
        let records = blocks.records();
        let pipeline = pipeline(name, folder.path()).checkpoint(checkpoint);
        pipeline.source_of(blocks).step_of(CutFront).sink("drop:");
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (summary, epochs) = runtime.block_on(async {
                let mut running = pipeline.start()?;
                let summary = running.wait().await?;
                anyhow::Ok((summary, running.handle().status().epochs))
            })?;
            ensure!(dropped(&summary) == records, "{} of {records} records came through", dropped(&summary));
            ensure!(epochs >= epochs_min, "only {epochs} epochs were cut; there is nothing to measure");
            Ok(records)
        }
    };
    let rates = compete(
        ROUNDS,
        vec![
            Contender::new("epochs on", flow("epochs-on", CheckpointSpec::default(), 3)),
            Contender::new("epochs off", flow("epochs-off", no_epochs(), 0)),
        ],
    )?;
    let (on, off) = (&rates[0], &rates[1]);
    let mut row = |case: &str, figures: (f64, f64), ratio: f64| {
        let slower = (1.0 / ratio - 1.0) * 100.0;
        table.row(case, (rate(figures.0), format!("{} epochs off", rate(figures.1))), slower, " %", Target::Below(5.0));
    };
    row("epochs on, slower by", (on.median(), off.median()), on.ratio(off));
    row("  by the clock on the wall", (on.median_wall(), off.median_wall()), on.ratio_wall(off));
    Ok(())
}
