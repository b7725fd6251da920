//! Batches that are open when the process dies.

use std::{collections::BTreeMap, path::Path, time::Duration};

use millstream::{
    BatchOf, Batching, Delivery, Error, Trigger,
    runtime::{Plan, Step},
};
use serde_json::json;

use super::{Place, base, steps::kill_at};

const KEYS: u64 = 10;
/// A key gets 15 records an epoch, so that a batch is open over several.
const RECORDS: usize = 40;

/// Batches by key that only their number and the end of a run close. Each record says how many its batch had, and what closed it.
pub(crate) fn plan(job: &str, folder: &Path) -> Option<Plan> {
    (job == "open-batches").then_some(())?;
    let path = |name: &str| folder.join(name).display().to_string();
    let input = json!({ "path": path("in.txt"), "follow": true, "start": "beginning" });
    let lines = base(job, Delivery::ExactlyOnce).source_with("file", input).text();
    let keyed = lines.try_map(|line| line.parse::<u64>()).key_by(|n| n % KEYS);
    let batching = Batching::count(RECORDS).linger(Duration::from_secs(3600)).by_key();
    let handled = keyed.batch(batching).handle(|batch: BatchOf<u64>| async move {
        let (records, full) = (batch.len(), batch.trigger() == Trigger::Count);
        batch.into_iter().map(|n| Ok::<_, Error>(format!("{n} {records} {full}"))).collect::<Vec<_>>()
    });
    Some(handled.to_text().sink_with("file", json!({ "path": path("out.txt"), "existing": "append" })).plan().unwrap())
}

#[test]
fn what_is_in_an_open_batch_comes_once_and_in_order_after_an_abort_at_every_step() {
    for step in Step::ALL {
        let mut place = Place::new();
        kill_at(&mut place, "open-batches", step);
        let lines = place.lines("out.txt");
        let fields: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
        let mut keys: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for record in &fields {
            let n: u64 = record[0].parse().unwrap();
            keys.entry(n % KEYS).or_default().push(n);
        }
        let expected = (0..KEYS).map(|key| (key, (key..2100).step_by(KEYS as usize).collect())).collect();
        assert_eq!(keys, expected, "{step:?}");
        // A kill closes no batch, and no barrier does: only the ends of runs, of which there are at most four.
        let closed_early: f64 = fields
            .iter()
            .filter(|record| record[2] == "false")
            .map(|record| 1.0 / record[1].parse::<f64>().unwrap())
            .sum();
        assert!(closed_early <= 4.1 * KEYS as f64, "{closed_early} batches of {step:?}");
        assert!(fields.iter().filter(|record| record[2] == "true").all(|record| record[1] == RECORDS.to_string()));
    }
}
