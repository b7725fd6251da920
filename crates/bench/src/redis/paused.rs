//! Memory while the server stands still and the input goes on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millstream::client::ProducerOptions;
use millstream_testkit::servers::Redis;

use super::runtime;
use crate::{
    data::letters,
    harness::{Table, Target},
    idle::resident,
    parts::RECORD_BYTES,
};

/// Records before the pause, so that every buffer has had its size.
const BEFORE: usize = 300_000;
const PAUSE: Duration = Duration::from_secs(10);
/// What a producer may hold, doubled: values and what is around them.
const GROWTH_MB_MAX: f64 = 64.0;

pub(super) fn run(table: &mut Table, redis: &Redis) -> Result<()> {
    let streamer = millstream::connect(&redis.url())?;
    runtime()?.block_on(async {
        let producer = streamer.create_producer("paused", ProducerOptions::default())?;
        let value = letters(RECORD_BYTES);
        for _ in 0..BEFORE {
            drop(producer.send(value.clone()).await?);
        }
        producer.flush().await?;
        let before = resident();
        redis.pause();
        let (since, mut accepted, mut most) = (Instant::now(), 0u64, before);
        while since.elapsed() < PAUSE {
            match tokio::time::timeout(Duration::from_millis(100), producer.send(value.clone())).await {
                Ok(receipt) => {
                    drop(receipt?);
                    accepted += 1;
                }
                // It is full, and waits: the input stands still as well.
                Err(_) => most = most.max(resident()),
            }
        }
        most = most.max(resident());
        redis.resume();
        producer.flush().await?;
        producer.end().await?;
        ensure!(accepted > 0, "nothing was accepted while the server stood still");
        let figures =
            (format!("{most:.1} MB"), format!("{before:.1} MB before, {accepted} records accepted meanwhile"));
        table.row(
            "redis stands still for 10 s: memory grows by",
            figures,
            most - before,
            " MB",
            Target::Below(GROWTH_MB_MAX),
        );
        Ok(())
    })
}
