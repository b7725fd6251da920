//! A pipeline's lives: ended by kills and drains, steered meanwhile; the last one comes to the end.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use millstream::{
    Ended, Handle, RateLimit, Running,
    core::Store,
    runtime::{Probe, RunOptions, Step},
    state::{EmbeddedStore, MemoryStore},
};
use millstream_testkit::Dice;
use serde_json::json;

use super::case::Case;
use crate::pipeline::bed::balanced;

/// What may be changed while it runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Knobs {
    pub(super) resized: Vec<String>,
    /// Batch handlers, and the largest count that they may be told.
    pub(super) batches: Vec<(String, u64)>,
    pub(super) bounded: Vec<String>,
    pub(super) limited: Vec<String>,
}

fn one<'a, T>(dice: &mut Dice, of: &'a [T]) -> Option<&'a T> {
    of.get(dice.roll(of.len() as u64) as usize)
}

/// Steers a pipeline while it runs; errors are of no account, because it may be over.
async fn steer(mut dice: Dice, knobs: Knobs, handle: Handle, drains: bool) {
    handle.started().await;
    for _ in 0..dice.roll(7) {
        tokio::time::sleep(Duration::from_millis(dice.roll(60))).await;
        match dice.roll(7) {
            0 | 1 => {
                if let Some(step) = one(&mut dice, &knobs.resized) {
                    drop(handle.set_concurrency(step, 1 + dice.roll(4) as u32).await);
                }
            }
            2 => drop(handle.checkpoint().await),
            3 => {
                if let Some((step, most)) = one(&mut dice, &knobs.batches) {
                    let _ = handle.set_option(step, "batch.count", &json!(1 + dice.roll(*most)));
                    let linger = format!("{}ms", 1 + dice.roll(50));
                    let _ = handle.set_option(step, "batch.linger", &json!(linger));
                }
            }
            4 => {
                if let Some(step) = one(&mut dice, &knobs.bounded) {
                    let _ = handle.set_option(step, "in_flight", &json!(1 + dice.roll(8)));
                }
            }
            5 => {
                if let Some(stage) = one(&mut dice, &knobs.limited) {
                    let limit = RateLimit { records: 200 + dice.roll(2000), per: "1s".parse().unwrap(), by_key: false };
                    let _ = handle.set_rate_limit(stage, &limit);
                }
            }
            _ => {
                handle.pause();
                tokio::time::sleep(Duration::from_millis(dice.roll(30))).await;
                handle.resume();
            }
        }
    }
    if drains {
        tokio::time::sleep(Duration::from_millis(dice.roll(60))).await;
        let patience = [0, 20, 200, 5000][dice.roll(4) as usize];
        handle.drain(Duration::from_millis(dice.roll(1 + patience)));
    }
}

/// Runs it to its end; the first lives end by a kill or a drain.
pub(super) async fn lives(seed: u64, dice: &mut Dice, case: &Case) {
    for life in 0.. {
        let nth_max = [3, 8, 20][dice.roll(3) as usize];
        let kill = (life < 3 && dice.roll(2) == 0).then(|| (Step::ALL[dice.roll(10) as usize], 1 + dice.roll(nth_max)));
        // Behind the very end a run that begins anew would give such sinks all once more.
        let kill = kill.filter(|(step, _)| case.cut || !matches!(step, Step::BeforeRecord | Step::AfterRecord));
        let killed = Arc::new(Mutex::new(None));
        let (told, again) = (killed.clone(), !case.cut || dice.roll(2) == 0);
        let die = move |step| {
            *told.lock().unwrap() = Some(step);
            panic!("killed at {step:?}");
        };
        let store: Box<dyn Store> = match &case.folder {
            Some(folder) => Box::new(EmbeddedStore::new(folder.path().to_owned())),
            None => Box::new(MemoryStore::new(case.memory.clone())),
        };
        let mut options = RunOptions::new(store, Arc::new(case.letters.clone()));
        options.probe = kill.map_or_else(Probe::default, |(step, nth)| Probe::at(step, nth, move || die(step)));
        options.restarts_per_minute_max = if again { 1000 } else { 0 };
        let mut running = Running::start(case.pipeline.plan().unwrap(), options);
        let drains = case.cut && life < 3 && dice.roll(3) == 0;
        let handle = running.handle();
        let steering = steer(Dice::new(dice.roll(u64::MAX)), case.knobs.clone(), running.handle(), drains);
        let steering = tokio::spawn(steering);
        let ended = running.wait().await;
        steering.abort();
        // Objects of steps that were dropped where they stood come to their ends by themselves.
        tokio::time::sleep(Duration::from_secs(10)).await;
        if std::env::var_os("MILLSTREAM_SEED").is_some() {
            let how = ended.as_ref().map(|summary| summary.ended);
            eprintln!("life {life}: {:?} drains {drains} again {again}: {how:?}", *killed.lock().unwrap());
        }
        // A kill of the coordinator is one of the process: nothing is closed.
        let process = matches!(*killed.lock().unwrap(), Some(Step::BeforeRecord | Step::AfterRecord));
        case.world.over(ended.is_ok() && handle.status().restarts == 0, process);
        match ended {
            Ok(summary) => {
                // Also one that was told to drain before all was open.
                assert_ne!(summary.ended, Ended::Stopped, "seed {seed}: nobody stops it");
                balanced(&summary);
                if summary.ended == Ended::Finished {
                    return;
                }
            }
            Err(error) => {
                let text = error.chain();
                let known =
                    ["killed at", "longer than its deadline", "away", "supervisor", "cannot begin", "cannot end"];
                assert!(known.iter().any(|known| text.contains(known)), "seed {seed}: {error:?}");
            }
        }
        assert!(life < 100, "seed {seed} does not come to its end");
    }
}
