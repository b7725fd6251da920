//! Pipes, and records in and out of them.
#![allow(unreachable_pub)]

use std::io::{Read, Write};
use std::time::Duration;

use millstream_core::{Batch, BatchBuilder, Event, Form, Record, Resume, Sink, SinkPlan, Source, SourcePlan};
use millstream_std::{Reading, Stdio};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A `Stdio` over pipes: it, the end to write its input to, the end to read its output from.
pub fn pipes(reading: Reading) -> (Stdio, std::io::PipeWriter, std::io::PipeReader) {
    let (input, feed) = std::io::pipe().unwrap();
    let (seen, output) = std::io::pipe().unwrap();
    (Stdio::with(reading, input, output).unwrap(), feed, seen)
}

/// Writes everything and closes, from a thread of its own.
pub fn feed(mut pipe: std::io::PipeWriter, bytes: impl Into<Vec<u8>>) -> std::thread::JoinHandle<()> {
    let bytes = bytes.into();
    std::thread::spawn(move || {
        let _ = pipe.write_all(&bytes);
    })
}

pub async fn open(plan: &dyn SourcePlan) -> Box<dyn Source> {
    let mut source = plan.create().unwrap();
    source.open(&Resume::default()).await.unwrap();
    source
}

pub async fn open_sink(plan: &dyn SinkPlan) -> Box<dyn Sink> {
    let mut sink = plan.create().unwrap();
    sink.open(&[]).await.unwrap();
    sink
}

/// The next batch's records, with their errors; `None` at the end.
pub async fn next(source: &mut dyn Source) -> Option<Vec<Result<Record, millstream_core::Error>>> {
    match tokio::time::timeout(PATIENCE, source.next()).await.expect("in time").unwrap() {
        Event::Batch(read) => {
            let mut failed = read.failed.into_iter().peekable();
            let one = |(i, record): (usize, millstream_core::RecordRef<'_>)| match failed
                .next_if(|(row, _)| *row as usize == i)
            {
                Some((_, error)) => Err(error),
                None => Ok(record.to_record()),
            };
            Some(read.batch.iter().enumerate().map(one).collect())
        }
        Event::End => None,
        other => panic!("{other:?}"),
    }
}

/// Everything up to the end.
pub async fn all(source: &mut dyn Source) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some(batch) = next(source).await {
        records.extend(batch.into_iter().map(Result::unwrap));
    }
    records
}

pub fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8(record.value.as_ref().unwrap().to_vec()).unwrap()).collect()
}

/// Stream, shard, sequence and value of each.
pub fn shown(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| format!("{} {}", record.id(), texts(std::slice::from_ref(record))[0])).collect()
}

pub fn batch(stream: &str, values: &[&str]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (i, value) in values.iter().enumerate() {
        builder.push(&Record {
            sequence: i as u128,
            form: Form::Text,
            ..Record::new(stream, value.as_bytes().to_vec())
        });
    }
    builder.finish()
}

/// Exactly as many bytes as there are in `expected`.
pub fn read_exactly(pipe: &mut impl Read, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    pipe.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
}

pub fn read_all(mut pipe: impl Read) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    text
}
