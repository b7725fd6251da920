//! One program for every system: it writes numbers to a stream and reads them in each way that the system has.
//!
//! ```text
//! cargo run --example streamer -- 'stdio:?loopback=true' > /dev/null
//! cargo run --example streamer -- 'file:///tmp/numbers.ss?follow=true'
//! cargo run --example streamer -- redis://localhost numbers
//! cargo run --example streamer -- kafka://localhost:9092 numbers
//! ```
//!
//! The stream must be new; a topic must be there. It talks on standard error, because on `stdio:` the records themselves go to
//! standard output.

use std::collections::BTreeSet;

use millstream::{
    Error, ErrorKind, Record, Result, SeekTo, Timestamp,
    client::{Ack, Consumer, ConsumerOptions, Producer, ProducerOptions, Streamer},
};

/// When the number 0 happened; each follows a second later. Midnight on the first of January 2026.
const BEGIN_MS: i64 = 1_767_225_600_000;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "stdio:?loopback=true".to_owned());
    let stream = arguments.next().unwrap_or_else(|| "numbers".to_owned());
    tour(&millstream::connect(&url)?, &stream).await
}

async fn tour(streamer: &Streamer, stream: &str) -> Result<()> {
    let producer = streamer.create_producer(stream, ProducerOptions::default())?;
    // Whoever reads from now on finds a stream that is there.
    producer.send(numbered(0)).await?.await?;
    let now = ConsumerOptions { start: Some(SeekTo::End), ..ConsumerOptions::real_time() };
    let mut live = streamer.create_consumer(&[stream], now)?;
    let mut team = [member(streamer, stream)?, member(streamer, stream)?];
    for consumer in [&live, &team[0], &team[1]] {
        consumer.opened().await?;
    }

    let mut receipts = Vec::new();
    for number in 1..10 {
        receipts.push(producer.send(numbered(number)).await?);
    }
    let mut written = Vec::new();
    for receipt in receipts {
        written.push(receipt.await?.sequence);
    }
    tell("produced", Ok("0 to 9".to_owned()))?;

    let read = take(&mut live, 9).await?;
    tell("real time", Ok(listed(&read)))?;
    tell("event time", read[2].time.map(|time| format!("3 happened at {time}")).ok_or_else(not_here))?;
    tell("keys and headers", labels(&read[2]))?;
    let seen: Vec<_> = read.iter().map(|record| Some(record.sequence)).collect();
    tell("receipts", if written == seen { Ok("the sequences that readers see".to_owned()) } else { Err(not_here()) })?;
    tell("load balanced", share(&mut team).await)?;
    for member in team {
        member.close().await?;
    }
    tell("resumable", resume(streamer, stream).await)?;
    tell("rewind", rewind(&mut live, &producer, read[5].sequence).await)?;
    tell("seek", seek(&mut live).await)?;
    tell("assign", assign(&mut live, &producer).await)?;
    producer.end().await?;
    live.close().await
}

/// A number as a record: with a key, a header and the time when it happened.
fn numbered(number: i64) -> Record {
    let parity = if number % 2 == 0 { "even" } else { "odd" };
    Record {
        key: Some(parity.into()),
        headers: vec![("colour".to_owned(), Some("blue".into()))],
        time: Some(happened(number)),
        ..Record::new("", number.to_string())
    }
}

fn happened(number: i64) -> Timestamp {
    Timestamp::from_millis(BEGIN_MS + number * 1000)
}

/// A member of a group, which says itself what is done.
fn member(streamer: &Streamer, stream: &str) -> Result<Consumer> {
    let start = Some(SeekTo::Beginning);
    let options = ConsumerOptions { ack: Ack::Manual, start, ..ConsumerOptions::load_balanced("team") };
    streamer.create_consumer(&[stream], options)
}

/// Two members of a group: each record comes to one of them.
async fn share([one, two]: &mut [Consumer; 2]) -> Result<String> {
    let mut shared = BTreeSet::new();
    while shared.len() < 9 {
        let (record, of) = tokio::select! {
            record = one.next() => (record?, &*one),
            record = two.next() => (record?, &*two),
        };
        let Some(record) = record else { break };
        of.ack(&record)?;
        shared.extend(Some(number(&record)).filter(|number| *number > 0));
    }
    one.commit().await?;
    two.commit().await?;
    Ok(shared.iter().map(i64::to_string).collect::<Vec<_>>().join(" "))
}

/// What was acknowledged and committed does not come again; what was only read does.
async fn resume(streamer: &Streamer, stream: &str) -> Result<String> {
    let start = Some(SeekTo::Beginning);
    let options = ConsumerOptions { ack: Ack::Manual, start, ..ConsumerOptions::resumable("careful") };
    let mut consumer = streamer.create_consumer(&[stream], options.clone())?;
    let read = take(&mut consumer, 5).await?;
    for record in &read[..3] {
        consumer.ack(record)?;
    }
    consumer.commit().await?;
    consumer.close().await?;
    let mut consumer = streamer.create_consumer(&[stream], options)?;
    let again = take(&mut consumer, 2).await?;
    consumer.close().await?;
    Ok(format!("read {}, acknowledged {}, went on at {}", listed(&read), listed(&read[..3]), listed(&again)))
}

/// To a sequence, inclusive; to the beginning; to the end.
async fn rewind(consumer: &mut Consumer, producer: &Producer, sequence: u128) -> Result<String> {
    consumer.rewind(SeekTo::At(sequence)).await?;
    let at = take(consumer, 3).await?;
    consumer.rewind(SeekTo::Beginning).await?;
    let beginning = take(consumer, 2).await?;
    consumer.rewind(SeekTo::End).await?;
    producer.send(numbered(10)).await?.await?;
    let end = take(consumer, 1).await?;
    Ok(format!("to 6: {}; to the beginning: {}; to the end: {}", listed(&at), listed(&beginning), listed(&end)))
}

/// To a time, inclusive.
async fn seek(consumer: &mut Consumer) -> Result<String> {
    consumer.seek(happened(4)).await?;
    let exactly = take(consumer, 2).await?;
    consumer.seek(Timestamp::from_millis(BEGIN_MS + 7_500)).await?;
    let between = take(consumer, 3).await?;
    Ok(format!("to 4 s: {}; to 7.5 s: {}", listed(&exactly), listed(&between)))
}

/// A shard that is put aside and taken up again goes on where it was.
async fn assign(consumer: &mut Consumer, producer: &Producer) -> Result<String> {
    // Only where it can go back, it finds what came meanwhile.
    consumer.rewind(SeekTo::End).await?;
    let shards = consumer.shards();
    consumer.unassign(&shards).await?;
    producer.send(numbered(11)).await?.await?;
    consumer.assign(&shards).await?;
    Ok(format!("put aside, and taken up again at {}", listed(&take(consumer, 1).await?)))
}

/// The key and the header of a record, where the system keeps them.
fn labels(record: &Record) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let key = record.key.as_deref().map(text).ok_or_else(not_here)?;
    let (name, value) = record.headers.first().ok_or_else(not_here)?;
    Ok(format!("{} is {key}, its {name} {}", number(record), text(value.as_deref().unwrap_or_default())))
}

async fn take(consumer: &mut Consumer, count: usize) -> Result<Vec<Record>> {
    let mut records = Vec::with_capacity(count);
    while records.len() < count {
        let ended = || Error::new(ErrorKind::Closed, "the stream has ended too early");
        records.push(consumer.next().await?.ok_or_else(ended)?);
    }
    Ok(records)
}

fn number(record: &Record) -> i64 {
    std::str::from_utf8(record.value.as_deref().unwrap_or_default())
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(-1)
}

fn listed(records: &[Record]) -> String {
    records.iter().map(|record| number(record).to_string()).collect::<Vec<_>>().join(" ")
}

fn not_here() -> Error {
    Error::new(ErrorKind::Unsupported, "this system has no such thing")
}

/// Tells what was done, or that the system cannot do it; any other error ends the tour.
fn tell(what: &str, done: Result<String>) -> Result<()> {
    match done {
        Ok(text) => eprintln!("{what}: {text}"),
        Err(error) if error.kind() == ErrorKind::Unsupported => eprintln!("{what}: not on this system"),
        Err(error) => return Err(error),
    }
    Ok(())
}
