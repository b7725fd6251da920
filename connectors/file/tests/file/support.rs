//! What the tests of source and sink share.
#![allow(unreachable_pub)]

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use millstream_core::{
    Batch, BatchBuilder, Delivery, Error, Event, Form, Last, PlanContext, Planner, Position, Resume, SeekTo, ShardKey,
    Sink, Source, SourcePlan, Token,
};
use serde_json::Value;

/// Long enough for a loaded machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Dir(pub tempfile::TempDir);

impl Dir {
    pub fn new() -> Self {
        Dir(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    pub fn append(&self, name: &str, bytes: impl AsRef<[u8]>) {
        append(&self.path(name), bytes);
    }

    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        String::from_utf8(fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// Names that are not hidden, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    pub fn hidden(&self, name: &str) -> bool {
        self.path(name).exists()
    }
}

pub fn append(path: &Path, bytes: impl AsRef<[u8]>) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(bytes.as_ref()).unwrap();
}

pub fn plan_source(options: Value) -> Result<Box<dyn SourcePlan>, Error> {
    for component in millstream_file::components() {
        if let Planner::Source(plan) = component.planner {
            return plan(&options, &PlanContext::default());
        }
    }
    unreachable!()
}

pub fn source(options: Value) -> Box<dyn Source> {
    plan_source(options).unwrap().create().unwrap()
}

pub fn sink_with(options: Value, context: &PlanContext) -> Result<Box<dyn Sink>, Error> {
    for component in millstream_file::components() {
        if let Planner::Sink(plan) = component.planner {
            return plan(&options, context)?.create();
        }
    }
    unreachable!()
}

pub fn resume(position: Option<Position>, start: SeekTo) -> Resume {
    Resume { position, start, ..Resume::default() }
}

pub fn fresh() -> Resume {
    Resume::default()
}

/// The next batch's values as text; `None` at the end.
pub async fn next(source: &mut dyn Source) -> Option<Vec<String>> {
    loop {
        match tokio::time::timeout(PATIENCE, source.next()).await.expect("a batch in time").unwrap() {
            Event::Batch(read) => return Some(values(&read.batch)),
            Event::End => return None,
            _ => {}
        }
    }
}

/// Everything up to the end.
pub async fn all(source: &mut dyn Source) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(more) = next(source).await {
        all.extend(more);
    }
    all
}

/// At least `n` records of a source that follows.
pub async fn take(source: &mut dyn Source, n: usize) -> Vec<String> {
    let mut got = Vec::new();
    while got.len() < n {
        got.extend(next(source).await.expect("more records"));
    }
    got
}

/// Nothing comes for a while.
pub async fn quiet(source: &mut dyn Source) {
    let wait = Duration::from_millis(150);
    while let Ok(event) = tokio::time::timeout(wait, source.next()).await {
        match event.unwrap() {
            Event::Batch(read) => panic!("unexpected {:?}", values(&read.batch)),
            Event::End => panic!("unexpected end"),
            _ => {}
        }
    }
}

pub fn values(batch: &Batch) -> Vec<String> {
    batch.iter().map(|record| String::from_utf8_lossy(record.value().unwrap_or(b"<none>")).into_owned()).collect()
}

pub fn lines(range: std::ops::Range<usize>) -> String {
    range.map(|i| format!("line {i}\n")).collect()
}

pub fn expected(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("line {i}")).collect()
}

pub fn batch(values: &[&str]) -> Batch {
    form_batch(values, Form::Text)
}

pub fn form_batch(values: &[&str], form: Form) -> Batch {
    let mut builder = BatchBuilder::new();
    for (i, value) in values.iter().enumerate() {
        builder.push_value(&ShardKey::new("in", 0), i as u128 + 1, None, form, None, Some(value.as_bytes()));
    }
    builder.finish()
}

pub fn context(delivery: Delivery, bounded: bool) -> PlanContext {
    PlanContext { delivery, bounded, ..PlanContext::default() }
}

pub fn sink(options: Value) -> Box<dyn Sink> {
    sink_with(options, &PlanContext::default()).unwrap()
}

pub async fn put(sink: &mut dyn Sink, values: &[&str]) {
    sink.write(batch(values)).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
}

pub async fn prepare(sink: &mut dyn Sink, epoch: u64, last: Last) -> (u64, Token) {
    sink.flush().await.unwrap();
    let token = sink.prepare(epoch, last).await.unwrap().unwrap();
    // As it comes back from a checkpoint.
    (epoch, serde_json::from_str(&serde_json::to_string(&token).unwrap()).unwrap())
}
