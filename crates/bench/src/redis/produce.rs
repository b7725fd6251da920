//! Producing: one stream, and three shards.

use anyhow::{Result, ensure};
use millstream_testkit::servers::Redis;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{CALL, RECORDS, raw::*, records, rows, runtime, sink, stream};
use crate::{
    data::letters,
    harness::{Contender, ROUNDS, Table, Target, compete, rate},
    parts::RECORD_BYTES,
};

/// Outcomes are asked for this often, in batches, as often as epochs would.
const FLUSH_EVERY: usize = 100;

pub(super) fn run(table: &mut Table, redis: &Redis) -> Result<()> {
    let runtime = runtime()?;
    let value = letters(RECORD_BYTES);
    let empty = || {
        // All of it, so that memory is as in the first round.
        Raw::connect(&redis.address())?.tell(&[b"FLUSHALL"])
    };
    let contenders = vec![
        Contender::new("ours", || ours(&runtime, redis, stream("out"))).after(empty),
        Contender::new("ours over 3 shards", || ours(&runtime, redis, json!({"stream": "out", "shards": 3})))
            .after(empty),
        Contender::new("raw socket", || raw(redis, &value)).after(empty),
        #[cfg(feature = "peers")]
        Contender::new("crate redis", || super::krate::produce(redis, &value)).after(empty),
    ];
    let rates = compete(ROUNDS, contenders)?;
    rows(table, "redis produce", &rates[0], &rates[2], 0.75);
    rates[3..].iter().for_each(|peer| rows(table, "  against the crate", &rates[0], peer, 1.0));
    let figures = (rate(rates[1].median_wall()), format!("{} one stream", rate(rates[0].median_wall())));
    table.row("  over three shards", figures, rates[1].ratio_wall(&rates[0]), "", Target::AtLeast(1.0));
    rows(table, "  over three shards, against raw", &rates[1], &rates[2], 0.75);
    empty()
}

fn ours(runtime: &Runtime, redis: &Redis, options: Value) -> Result<u64> {
    runtime.block_on(async {
        let mut sink = sink(redis, options).await?;
        let batch = records(CALL);
        for i in 1..=RECORDS / CALL {
            sink.write(batch.clone()).await?;
            if i % FLUSH_EVERY == 0 || i == RECORDS / CALL {
                ensure!(sink.flush().await?.rejected.is_empty(), "records were rejected");
            }
        }
        sink.close().await?;
        Ok(RECORDS as u64)
    })
}

fn raw(redis: &Redis, value: &[u8]) -> Result<u64> {
    let mut raw = Raw::connect(&redis.address())?;
    let mut out = Vec::new();
    for _ in 0..RECORDS / CALL {
        out.clear();
        (0..CALL).for_each(|_| xadd(&mut out, "out", value));
        raw.send(&out)?;
        raw.replies(CALL, |_| {})?;
    }
    Ok(RECORDS as u64)
}
