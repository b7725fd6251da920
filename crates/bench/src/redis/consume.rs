//! Consuming: by id, as a group of two with acks, and from stream to stream.

use std::cell::Cell;

use anyhow::{Result, ensure};
use millstream::{Home, Pipeline};
use millstream_core::Event;
use millstream_runtime::Running;
use millstream_testkit::servers::Redis;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{CALL, INPUT, RECORDS, raw::*, records, rows, runtime, sink, source, stream};
use crate::{
    data,
    harness::{Contender, ROUNDS, Table, compete},
};

/// A member commits this often, in records: as often as epochs would.
const COMMIT_EVERY: usize = 20_000;

pub(super) fn run(table: &mut Table, redis: &Redis) -> Result<()> {
    let runtime = runtime()?;
    runtime.block_on(fill(redis))?;
    by_id(table, redis, &runtime)?;
    group(table, redis, &runtime)?;
    relay(table, redis, &runtime)
}

async fn fill(redis: &Redis) -> Result<()> {
    let mut sink = sink(redis, stream(INPUT)).await?;
    let batch = records(CALL);
    for _ in 0..RECORDS / CALL {
        sink.write(batch.clone()).await?;
    }
    ensure!(sink.flush().await?.rejected.is_empty(), "records were rejected");
    Ok(sink.close().await?)
}

fn by_id(table: &mut Table, redis: &Redis, runtime: &Runtime) -> Result<()> {
    let contenders = vec![
        Contender::new("ours", || Ok(runtime.block_on(read(redis, stream(INPUT), false))? as u64)),
        Contender::new("XREAD loop", || raw_read(redis, |_, _| Ok(()))),
        #[cfg(feature = "peers")]
        Contender::new("crate redis", || super::krate::consume(redis)),
    ];
    let rates = compete(ROUNDS, contenders)?;
    rows(table, "redis consume", &rates[0], &rates[1], 0.9);
    rates[2..].iter().for_each(|peer| rows(table, "  against the crate", &rates[0], peer, 1.0));
    Ok(())
}

/// Reads to the end; how many records.
async fn read(redis: &Redis, options: Value, commit: bool) -> Result<usize> {
    let mut source = source(redis, options, true).await?;
    let (mut got, mut committed) = (0, 0);
    loop {
        let event = source.next().await?;
        if let Event::Batch(read) = &event {
            got += read.batch.len();
        }
        let end = matches!(event, Event::End);
        if commit && (got - committed >= COMMIT_EVERY || end) {
            committed = got;
            let position = source.position()?;
            source.commit(&position, None).await?;
        }
        if end {
            source.close().await?;
            return Ok(got);
        }
    }
}

/// `each` gets the connection and the number of entries of each answer.
fn raw_read(redis: &Redis, mut each: impl FnMut(&mut Raw, &[Vec<u8>]) -> Result<()>) -> Result<u64> {
    let mut raw = Raw::connect(&redis.address())?;
    let (mut after, mut got) = (b"0-0".to_vec(), 0);
    while got < RECORDS {
        let mut out = Vec::new();
        words(&mut out, &[b"XREAD", b"COUNT", b"1000", b"STREAMS", INPUT.as_bytes(), &after]);
        raw.send(&out)?;
        let mut values = Vec::with_capacity(CALL);
        raw.replies(1, |text| {
            if is_id(text) {
                after.clear();
                after.extend_from_slice(text);
            } else if text.len() == crate::parts::RECORD_BYTES {
                values.push(text.to_vec());
            }
        })?;
        got += values.len();
        each(&mut raw, &values)?;
    }
    Ok(got as u64)
}

fn group(table: &mut Table, redis: &Redis, runtime: &Runtime) -> Result<()> {
    let turn = Cell::new(0);
    let name = |who: &str| {
        turn.set(turn.get() + 1);
        format!("{who}{}", turn.get())
    };
    let contenders = vec![
        Contender::new("ours", || runtime.block_on(two(redis, &name("ours")))),
        Contender::new("XREADGROUP and XACK loops", || raw_two(redis, &name("raw"))),
    ];
    let rates = compete(ROUNDS, contenders)?;
    rows(table, "redis group of two, with acks", &rates[0], &rates[1], 0.9);
    Ok(())
}

async fn two(redis: &Redis, group: &str) -> Result<u64> {
    let member = |member: &str| json!({"stream": INPUT, "group": {"name": group, "member": member}});
    let (first, second) = tokio::join!(read(redis, member("a"), true), read(redis, member("b"), true));
    let got = first? + second?;
    ensure!(got == RECORDS, "{got} of {RECORDS} records were read");
    Ok(got as u64)
}

fn raw_two(redis: &Redis, group: &str) -> Result<u64> {
    Raw::connect(&redis.address())?.tell(&[b"XGROUP", b"CREATE", INPUT.as_bytes(), group.as_bytes(), b"0"])?;
    let got = std::thread::scope(|scope| {
        let members = ["a", "b"].map(|member| scope.spawn(move || raw_member(redis, group, member)));
        let mut got = 0;
        for member in members {
            got += member.join().map_err(|_| anyhow::anyhow!("a member has panicked"))??;
        }
        anyhow::Ok(got)
    })?;
    ensure!(got == RECORDS, "{got} of {RECORDS} records were read");
    Ok(got as u64)
}

fn raw_member(redis: &Redis, group: &str, member: &str) -> Result<usize> {
    let mut raw = Raw::connect(&redis.address())?;
    let (mut got, key) = (0, INPUT.as_bytes());
    loop {
        let mut out = Vec::new();
        let (group, member) = (group.as_bytes(), member.as_bytes());
        words(&mut out, &[b"XREADGROUP", b"GROUP", group, member, b"COUNT", b"1000", b"STREAMS", key, b">"]);
        raw.send(&out)?;
        let mut ids: Vec<Vec<u8>> = Vec::with_capacity(CALL);
        raw.replies(1, |text| {
            if is_id(text) {
                ids.push(text.to_vec());
            }
        })?;
        if ids.is_empty() {
            return Ok(got);
        }
        got += ids.len();
        let mut ack: Vec<&[u8]> = vec![b"XACK", key, group];
        ack.extend(ids.iter().map(Vec::as_slice));
        raw.tell(&ack)?;
    }
}

fn relay(table: &mut Table, redis: &Redis, runtime: &Runtime) -> Result<()> {
    let folder = data::folder()?;
    let turn = Cell::new(0);
    let empty = || Raw::connect(&redis.address())?.tell(&[b"DEL", b"relayed"]);
    let pipeline = || {
        turn.set(turn.get() + 1);
        let home = Home::new(folder.path().join("state"));
        let pipeline = Pipeline::new(format!("relay-{}", turn.get()))
            .source(&format!("{}/{INPUT}", redis.url()))
            .sink(&format!("{}/relayed", redis.url()));
        let plan = pipeline.plan()?;
        let mut options = home.options(&plan);
        options.until_end = true;
        let summary = runtime.block_on(async { Running::start(plan, options).wait().await })?;
        let written: u64 = summary.stages.values().map(|figures| figures.records_out).max().unwrap_or(0);
        ensure!(written == RECORDS as u64, "{written} of {RECORDS} records were written");
        Ok(written)
    };
    let loops = || {
        let mut out = Vec::new();
        raw_read(redis, |raw, values| {
            out.clear();
            values.iter().for_each(|value| xadd(&mut out, "relayed", value));
            raw.send(&out)?;
            raw.replies(values.len(), |_| {})
        })
    };
    let contenders =
        vec![Contender::new("ours", pipeline).after(empty), Contender::new("XREAD and XADD loop", loops).after(empty)];
    let rates = compete(ROUNDS, contenders)?;
    rows(table, "redis relay, stream to stream", &rates[0], &rates[1], 0.9);
    empty()
}
