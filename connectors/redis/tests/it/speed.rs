//! How fast it is beside raw loops on the same server. Run by hand:
//! `cargo test --release -p millstream-redis --test it speed -- --ignored --nocapture --test-threads 1`

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use millstream_core::{Event, Record};
use millstream_testkit::{servers::Redis, started};
use serde_json::json;

use crate::support::*;

const RECORDS: usize = 500_000;
const CALL: usize = 1000;
const ROUNDS: usize = 5;

/// A reply that is only looked through.
struct Raw {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    fn connect(redis: &Redis) -> Raw {
        let socket = TcpStream::connect(redis.address()).unwrap();
        socket.set_nodelay(true).unwrap();
        Raw { socket, read: Vec::new() }
    }

    fn line(&mut self, at: usize) -> (u8, i64, usize) {
        loop {
            if let Some(end) = self.read[at..].iter().position(|byte| *byte == b'\n') {
                let number = std::str::from_utf8(&self.read[at + 1..at + end - 1]).unwrap().parse().unwrap_or(0);
                return (self.read[at], number, at + end + 1);
            }
            self.more();
        }
    }

    fn more(&mut self) {
        let mut buffer = [0; 65536];
        let read = self.socket.read(&mut buffer).unwrap();
        assert!(read > 0);
        self.read.extend_from_slice(&buffer[..read]);
    }

    /// Reads replies; the texts of the last one.
    fn replies(&mut self, count: usize, mut each: impl FnMut(&[u8])) {
        let (mut at, mut missing) = (0, count as i64);
        while missing > 0 {
            let (kind, number, next) = self.line(at);
            at = next;
            missing -= 1;
            match kind {
                b'$' if number >= 0 => {
                    while self.read.len() < at + number as usize + 2 {
                        self.more();
                    }
                    each(&self.read[at..at + number as usize]);
                    at += number as usize + 2;
                }
                b'*' if number > 0 => missing += number,
                _ => {}
            }
        }
        self.read.drain(..at);
    }
}

fn words(out: &mut Vec<u8>, words: &[&[u8]]) {
    write!(out, "*{}\r\n", words.len()).unwrap();
    for word in words {
        write!(out, "${}\r\n", word.len()).unwrap();
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn raw_produce(redis: &Redis, key: &str, value: &[u8]) -> Duration {
    let mut raw = Raw::connect(redis);
    let begun = Instant::now();
    for _ in 0..RECORDS / CALL {
        let mut out = Vec::new();
        (0..CALL).for_each(|_| words(&mut out, &[b"XADD", key.as_bytes(), b"*", b"msg", value]));
        raw.socket.write_all(&out).unwrap();
        raw.replies(CALL, |_| {});
    }
    begun.elapsed()
}

fn crate_produce(redis: &Redis, key: &str, value: &[u8]) -> Duration {
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let begun = Instant::now();
    for _ in 0..RECORDS / CALL {
        let mut pipe = redis::pipe();
        for _ in 0..CALL {
            pipe.cmd("XADD").arg(key).arg("*").arg("msg").arg(value);
        }
        let ids: Vec<String> = pipe.query(&mut connection).unwrap();
        assert_eq!(ids.len(), CALL);
    }
    begun.elapsed()
}

async fn ours_produce(redis: &Redis, options: serde_json::Value, value: &[u8]) -> Duration {
    let mut sink = sink(redis, options).await;
    let batch = batch(&vec![Record::new("in", value.to_vec()); CALL]);
    let begun = Instant::now();
    for i in 0..RECORDS / CALL {
        sink.write(batch.clone()).await.unwrap();
        if i % 50 == 49 {
            assert!(sink.flush().await.unwrap().rejected.is_empty());
        }
    }
    sink.flush().await.unwrap();
    begun.elapsed()
}

fn rate(elapsed: Duration) -> f64 {
    RECORDS as f64 / elapsed.as_secs_f64() / 1000.0
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn producing() {
    let redis = started!(Redis::start());
    let value = [b'x'; 100];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); 4];
    for _ in 0..ROUNDS {
        let mut note = |i: usize, elapsed| {
            rates[i].push(rate(elapsed));
            redis.cli(&["FLUSHALL"]);
        };
        note(0, raw_produce(&redis, "a", &value));
        note(1, crate_produce(&redis, "a", &value));
        note(2, ours_produce(&redis, json!({"stream": "a"}), &value).await);
        note(3, ours_produce(&redis, json!({"stream": "a", "shards": 3}), &value).await);
    }
    let [raw, krate, ours, sharded] = [0, 1, 2, 3].map(|i| median(rates[i].clone()));
    println!(
        "produce, 100 B, k/s: raw socket {raw:.0}, redis crate {krate:.0}, ours {ours:.0}, ours over 3 shards {sharded:.0}"
    );
    println!("ours / raw {:.2}, ours / crate {:.2}, sharded / one {:.2}", ours / raw, ours / krate, sharded / ours);
}

fn raw_consume(redis: &Redis, key: &str) -> Duration {
    let mut raw = Raw::connect(redis);
    let begun = Instant::now();
    let (mut after, mut got) = (b"0-0".to_vec(), 0);
    while got < RECORDS {
        let mut out = Vec::new();
        words(&mut out, &[b"XREAD", b"COUNT", b"1000", b"STREAMS", key.as_bytes(), &after]);
        raw.socket.write_all(&out).unwrap();
        raw.replies(1, |text| {
            if text.len() == 100 {
                got += 1;
            } else if text.contains(&b'-') {
                after = text.to_vec();
            }
        });
    }
    begun.elapsed()
}

fn crate_consume(redis: &Redis, key: &str) -> Duration {
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let begun = Instant::now();
    let (mut after, mut got) = ("0-0".to_owned(), 0);
    while got < RECORDS {
        let reply: redis::streams::StreamReadReply = redis::cmd("XREAD")
            .arg("COUNT")
            .arg(1000)
            .arg("STREAMS")
            .arg(key)
            .arg(&after)
            .query(&mut connection)
            .unwrap();
        let ids = &reply.keys[0].ids;
        got += ids.len();
        after = ids.last().unwrap().id.clone();
    }
    begun.elapsed()
}

async fn ours_consume(redis: &Redis, options: serde_json::Value, commit: bool) -> Duration {
    let mut source = source(redis, options).await;
    let begun = Instant::now();
    let (mut got, mut committed) = (0, 0);
    while got < RECORDS {
        if let Event::Batch(read) = source.next().await.unwrap() {
            got += read.batch.len();
        }
        if commit && (got - committed >= 20_000 || got >= RECORDS) {
            committed = got;
            let position = source.position().unwrap();
            source.commit(&position, None).await.unwrap();
        }
    }
    begun.elapsed()
}

fn raw_group(redis: &Redis, key: &str, group: &str) -> Duration {
    let mut raw = Raw::connect(redis);
    redis.cli(&["XGROUP", "CREATE", key, group, "0"]);
    let begun = Instant::now();
    let mut got = 0;
    while got < RECORDS {
        let mut out = Vec::new();
        words(
            &mut out,
            &[b"XREADGROUP", b"GROUP", group.as_bytes(), b"m", b"COUNT", b"1000", b"STREAMS", key.as_bytes(), b">"],
        );
        raw.socket.write_all(&out).unwrap();
        let mut ids: Vec<Vec<u8>> = Vec::new();
        raw.replies(1, |text| {
            if text.len() != 100 && text.contains(&b'-') {
                ids.push(text.to_vec());
            }
        });
        got += ids.len();
        let mut ack: Vec<&[u8]> = vec![b"XACK", key.as_bytes(), group.as_bytes()];
        ack.extend(ids.iter().map(Vec::as_slice));
        let mut out = Vec::new();
        words(&mut out, &ack);
        raw.socket.write_all(&out).unwrap();
        raw.replies(1, |_| {});
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn consuming() {
    let redis = started!(Redis::start());
    raw_produce(&redis, "a", &[b'x'; 100]);
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); 5];
    for round in 0..ROUNDS {
        rates[0].push(rate(raw_consume(&redis, "a")));
        rates[1].push(rate(crate_consume(&redis, "a")));
        rates[2].push(rate(ours_consume(&redis, json!({"stream": "a"}), false).await));
        rates[3].push(rate(raw_group(&redis, "a", &format!("r{round}"))));
        rates[4].push(rate(ours_consume(&redis, json!({"stream": "a", "group": format!("g{round}")}), true).await));
    }
    let [raw, krate, ours, raw_group, group] = [0, 1, 2, 3, 4].map(|i| median(rates[i].clone()));
    println!(
        "consume, 100 B, k/s: raw socket {raw:.0}, redis crate {krate:.0}, ours {ours:.0}; group with acks: raw {raw_group:.0}, ours {group:.0}"
    );
    println!("ours / raw {:.2}, ours / crate {:.2}, group / raw {:.2}", ours / raw, ours / krate, group / raw_group);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn one_record_at_a_time() {
    let redis = started!(Redis::start());
    let median_us = |mut all: Vec<Duration>| {
        all.sort();
        all[all.len() / 2].as_secs_f64() * 1e6
    };
    let (mut writer, mut reader) = (Raw::connect(&redis), Raw::connect(&redis));
    let mut raw_times = Vec::new();
    for i in 0..3000 {
        let mut out = Vec::new();
        words(&mut out, &[b"XREAD", b"BLOCK", b"0", b"STREAMS", b"a", b"$"]);
        reader.socket.write_all(&out).unwrap();
        while !redis_blocked(&mut writer) {}
        let begun = Instant::now();
        let mut out = Vec::new();
        words(&mut out, &[b"XADD", b"a", b"*", b"msg", i.to_string().as_bytes()]);
        writer.socket.write_all(&out).unwrap();
        reader.replies(1, |_| {});
        raw_times.push(begun.elapsed());
        writer.replies(1, |_| {});
    }
    let mut source = source(&redis, json!({"stream": "b"})).await;
    let mut sink = sink(&redis, json!({"stream": "b"})).await;
    sink.write(value_batch(0..1)).await.unwrap();
    sink.flush().await.unwrap();
    take(&mut *source, 1).await;
    let mut our_times = Vec::new();
    for _ in 0..3000 {
        while !redis_blocked(&mut writer) {}
        let begun = Instant::now();
        sink.write(value_batch(0..1)).await.unwrap();
        loop {
            if let Event::Batch(_) = source.next().await.unwrap() {
                break;
            }
        }
        our_times.push(begun.elapsed());
        sink.flush().await.unwrap();
    }
    let (raw, ours) = (median_us(raw_times), median_us(our_times));
    println!("one at a time, p50: raw {raw:.0} us, ours {ours:.0} us, {:.2} x", ours / raw);
}

fn redis_blocked(raw: &mut Raw) -> bool {
    let mut out = Vec::new();
    words(&mut out, &[b"INFO", b"clients"]);
    raw.socket.write_all(&out).unwrap();
    let mut blocked = false;
    raw.replies(1, |text| blocked = String::from_utf8_lossy(text).contains("blocked_clients:1"));
    blocked
}
