//! One record at a time, from its producer to a consumer that waits for it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use millstream::client::{ConsumerOptions, ProducerOptions};
use millstream_core::{Event, SeekTo};
use millstream_testkit::servers::Redis;
use serde_json::json;
use tokio::runtime::Handle;

use super::{raw::*, records, runtime, sink, source};
use crate::harness::{Table, Target, median};

/// Records of one round.
const SAMPLES: usize = 1_000;
const ROUNDS: usize = 5;

pub(super) fn run(table: &mut Table, redis: &Redis) -> Result<()> {
    let mut rounds: [Vec<f64>; 4] = Default::default();
    for round in 0..=ROUNDS {
        let figures = [raw(redis)?, connector(redis)?, client(redis, true)?, client(redis, false)?];
        if round > 0 {
            rounds.iter_mut().zip(figures).for_each(|(all, figure)| all.push(figure));
        }
    }
    let [raw, connector, client, apart] = &rounds;
    let ratio = |ours: &[f64]| median(&ours.iter().zip(raw).map(|(ours, raw)| ours / raw).collect::<Vec<_>>());
    let figures =
        |ours: &[f64]| (format!("{:.0} us", median(ours)), format!("{:.0} us XADD and blocked XREAD", median(raw)));
    let mut row = |case: &str, ours: &[f64]| table.row(case, figures(ours), ratio(ours), "", Target::Below(1.3));
    row("redis produce to consume, p50, sink and source", connector);
    row("  Producer and Consumer, on the program's runtime", client);
    table.told("  the same on a thread of their own", figures(apart), ratio(apart));
    Ok(())
}

fn p50(mut all: Vec<Duration>) -> f64 {
    all.sort();
    all.get(all.len() / 2).map_or(f64::NAN, |middle| middle.as_secs_f64() * 1e6)
}

/// Whether a reader waits.
fn reader_waits(watch: &mut Raw) -> Result<bool> {
    let mut out = Vec::new();
    words(&mut out, &[b"INFO", b"clients"]);
    watch.send(&out)?;
    let mut waits = false;
    watch.replies(1, |text| waits = String::from_utf8_lossy(text).contains("blocked_clients:1"))?;
    Ok(waits)
}

fn raw(redis: &Redis) -> Result<f64> {
    let (mut writer, mut reader) = (Raw::connect(&redis.address())?, Raw::connect(&redis.address())?);
    let mut times = Vec::with_capacity(SAMPLES);
    let value = crate::data::letters(crate::parts::RECORD_BYTES);
    for _ in 0..SAMPLES {
        let mut out = Vec::new();
        words(&mut out, &[b"XREAD", b"BLOCK", b"0", b"STREAMS", b"one", b"$"]);
        reader.send(&out)?;
        while !reader_waits(&mut writer)? {}
        let begun = Instant::now();
        let mut out = Vec::new();
        xadd(&mut out, "one", &value);
        writer.send(&out)?;
        reader.replies(1, |_| {})?;
        times.push(begun.elapsed());
        writer.replies(1, |_| {})?;
    }
    Ok(p50(times))
}

/// As a pipeline drives them: a sink and a source in the tasks of one runtime.
fn connector(redis: &Redis) -> Result<f64> {
    let mut watch = Raw::connect(&redis.address())?;
    runtime()?.block_on(async {
        let mut sink = sink(redis, json!({"stream": "one"})).await?;
        let mut source = source(redis, json!({"stream": "one", "start": "end"}), false).await?;
        source.seek(&SeekTo::End, None).await?;
        let batch = records(1);
        let mut times = Vec::with_capacity(SAMPLES);
        for _ in 0..SAMPLES {
            let waiting = async {
                while !matches!(source.next().await?, Event::Batch(_)) {}
                anyhow::Ok(())
            };
            tokio::pin!(waiting);
            // It asks only while it is polled. Nobody sleeps here, as a timeout would: a cold processor would be measured.
            while !reader_waits(&mut watch)? {
                tokio::select! {
                    biased;
                    ended = &mut waiting => bail!("a record came before it was written: {ended:?}"),
                    () = tokio::task::yield_now() => {}
                }
            }
            let begun = Instant::now();
            sink.write(batch.clone()).await?;
            waiting.await?;
            times.push(begun.elapsed());
            sink.flush().await?;
        }
        Ok(p50(times))
    })
}

/// As programs use them.
fn client(redis: &Redis, on_runtime: bool) -> Result<f64> {
    let mut watch = Raw::connect(&redis.address())?;
    let streamer = millstream::connect(&redis.url())?;
    runtime()?.block_on(async {
        let streamer = if on_runtime { streamer.on_runtime(Handle::current()) } else { streamer };
        let mut consumer = streamer.create_consumer(&["one"], ConsumerOptions::real_time())?;
        let producer = streamer.create_producer("one", ProducerOptions::default())?;
        consumer.opened().await?;
        let value = crate::data::letters(crate::parts::RECORD_BYTES);
        let mut times = Vec::with_capacity(SAMPLES);
        for _ in 0..SAMPLES {
            while !reader_waits(&mut watch)? {
                // Its tasks may be on this thread; nobody sleeps, see above.
                tokio::task::yield_now().await;
            }
            let begun = Instant::now();
            let receipt = producer.send(value.clone()).await?;
            consumer.next().await?.context("the stream has ended")?;
            times.push(begun.elapsed());
            receipt.await?;
        }
        producer.end().await?;
        consumer.close().await?;
        Ok(p50(times))
    })
}
