//! Pipelines that die at named steps of their epochs, over and over.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use millstream_runtime::{Plan, Probe, RunOptions, Running, Step};
use millstream_state::{Memory, MemoryStore};

use crate::{Dice, FakeSink, process::KILLED};

/// Runs a pipeline to the end of its sources, on one store, and lets up to `kills` lives end by a panic at a random step of
/// one of the first `epochs` epochs that reach it. Answers how many did: a life may come to its end before.
///
/// # Panics
/// If a life ends by anything else, or takes longer than `patience`.
pub async fn run_killed(plan: impl Fn() -> Plan, kills: usize, epochs: u64, seed: u64, patience: Duration) -> usize {
    let steps: Vec<Step> = Step::ALL.into_iter().chain(Step::HOSTED).collect();
    let (memory, mut dice, mut killed) = (Memory::new(), Dice::new(seed), 0);
    for life in 0.. {
        let mut options = RunOptions::new(Box::new(MemoryStore::new(memory.clone())), Arc::new(FakeSink::truncating()));
        options.restarts_per_minute_max = 0;
        options.until_end = true;
        if life < kills {
            let step = steps[dice.roll(steps.len() as u64) as usize];
            options.probe = Probe::at(step, 1 + dice.roll(epochs), move || panic!("{KILLED} {step:?}"));
        }
        match tokio::time::timeout(patience, Running::start(plan(), options).wait()).await.expect("an end in time") {
            Ok(_) if life >= kills => break,
            // It came to its end before the step.
            Ok(_) => {}
            Err(error) => {
                assert!(error.chain().contains(KILLED), "{error:?}");
                killed += 1;
            }
        }
    }
    killed
}
