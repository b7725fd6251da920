//! JSON through a map in VRL.

use anyhow::{Result, ensure};
use millstream_core::Form;
use serde_json::json;

use crate::{
    data::{self, Random, order},
    harness::{Contender, ROUNDS, Table, compete},
    parts::{Blocks, dropped, pipeline, run as run_pipeline},
};

const BATCH_RECORDS: usize = 2_048;
const BATCHES: u64 = 150;

const FIVE_FIELDS: &str = ".total = to_float!(.amount) * 1.19\n.name = upcase!(.customer)\n.ok = .status == 200\n\
    .place = .geo.lat\n.kind = \"order\"";

/// Measures the case: bytes in, bytes out.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    let folder = data::folder()?;
    let mut random = Random(3);
    let records: Vec<String> = (0..BATCH_RECORDS).map(|_| order(&mut random)).collect();
    let blocks = Blocks::of(&records, Form::Json, BATCHES);
    let count = blocks.records();
    let pipeline = pipeline("json", folder.path()).source_of(blocks).step_with("map", json!(FIVE_FIELDS)).sink("drop:");
    let ours = Contender::new("ours", || {
        let summary = run_pipeline(&pipeline)?;
        ensure!(dropped(&summary) == count, "{} of {count} records came through", dropped(&summary));
        Ok(count)
    });
    let rates = compete(ROUNDS, vec![ours])?;
    table.rate(&format!("JSON of {} bytes, five-field map", records[0].len()), &rates[0], 300e3);
    Ok(())
}
