//! Several sources, a source without a file, and what each mode promises where the sink cannot take back what it wrote.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use millstream::{
    Delivery, Result,
    core::{Batch, Epoch, Outcomes, Sink, SinkCapabilities, SinkPlan, Token, WriteId},
    runtime::{Plan, Step},
};
use serde_json::json;

use super::{
    Place, base, same,
    steps::{bracket, bracketed, kill_at},
};

pub(crate) fn plan(job: &str, folder: &Path) -> Option<Plan> {
    let path = |name: &str| folder.join(name).display().to_string();
    let out = json!({ "path": path("out.txt"), "existing": "append" });
    let input = |name: &str| json!({ "path": path(name), "follow": true, "start": "beginning" });
    let plain = Plain { path: folder.join("out.txt"), file: None, writes: 0 };
    let pipeline = match job {
        "once-two" => {
            let pipeline = base(job, Delivery::ExactlyOnce);
            let (a, b) = ("in.txt", "in-b.txt");
            let a = pipeline.source_with("file", input(a)).name("a");
            a.merge(pipeline.source_with("file", input(b)).name("b")).map(bracket).sink_with("file", out)
        }
        "once-generated" => base(job, Delivery::ExactlyOnce)
            .source_with("generate", json!({ "count": GENERATED, "template": "{n}" }))
            .map(bracket)
            .sink_with("file", out),
        "most-plain" => {
            base(job, Delivery::AtMostOnce).source_with("file", input("in.txt")).map(bracket).sink_of(plain)
        }
        "least-plain" => {
            base(job, Delivery::AtLeastOnce).source_with("file", input("in.txt")).map(bracket).sink_of(plain)
        }
        _ => return None,
    };
    Some(pipeline.plan().unwrap())
}

/// Enough for many batches, and so for many epochs.
const GENERATED: usize = 30_000;

/// A sink that appends to a file at once, and can take nothing back: as a pipe or a printer.
#[derive(Debug)]
struct Plain {
    path: PathBuf,
    file: Option<File>,
    writes: WriteId,
}

impl SinkPlan for Plain {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities::VALUES
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Plain { path: self.path.clone(), file: None, writes: 0 }))
    }
}

#[async_trait]
impl Sink for Plain {
    async fn open(&mut self, _: &[(Epoch, Token)]) -> Result<()> {
        let file = OpenOptions::new().create(true).append(true).open(&self.path).unwrap();
        // A kill may end a write between two pages.
        let written = std::fs::read(&self.path).unwrap();
        file.set_len(written.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1)).unwrap();
        self.file = Some(file);
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        let batch = batch.into_bytes();
        let lines = (0..batch.len()).flat_map(|row| [batch.get(row).value().unwrap_or_default(), b"\n"].concat());
        self.file.as_mut().unwrap().write_all(&lines.collect::<Vec<u8>>()).unwrap();
        self.writes += 1;
        Ok(self.writes)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        Ok(Outcomes::default())
    }
}

#[test]
fn two_sources_into_one_sink_are_each_there_once_and_in_order_at_every_step() {
    for step in Step::ALL {
        let mut place = Place::new();
        let other: String = (0..1500).map(|i| format!("b{i}\n")).collect();
        std::fs::write(place.path("in-b.txt"), other).unwrap();
        kill_at(&mut place, "once-two", step);
        let (b, a): (Vec<_>, Vec<_>) = place.lines("out.txt").into_iter().partition(|line| line.starts_with("<b"));
        assert_eq!(a, bracketed(0..2100), "{step:?}");
        assert_eq!(b, (0..1500).map(|i| format!("<b{i}>")).collect::<Vec<_>>(), "{step:?}");
    }
}

#[test]
fn generated_records_are_there_once_at_every_step() {
    for step in Step::ALL {
        let place = Place::new();
        let mut nth = 1;
        // The run that comes to the end is the last one: the next would begin anew.
        loop {
            let child = place.run("once-generated", step, nth);
            if child.status.signal().is_none() {
                assert!(child.status.success(), "{step:?}: {}", String::from_utf8_lossy(&child.stderr));
                break;
            }
            nth = if nth < 4 { nth + 1 } else { 0 };
        }
        assert!(nth != 1, "{step:?} was never reached");
        assert_eq!(place.lines("out.txt"), bracketed(1..GENERATED + 1), "{step:?}");
    }
}

/// The steps that an epoch has where sinks have nothing to commit.
fn steps() -> impl Iterator<Item = Step> {
    Step::ALL.into_iter().filter(|step| !matches!(step, Step::BeforeSinkCommit | Step::AfterSinkCommit))
}

#[test]
fn at_most_once_never_doubles_also_where_nothing_can_be_taken_back() {
    let mut lost = 0;
    for step in steps() {
        let mut place = Place::new();
        for nth in [1, 1, 2, 3] {
            place.grow(525);
            place.run("most-plain", step, nth);
        }
        assert!(place.run("most-plain", step, 0).status.success());
        // What is read by a run that is not killed is not lost.
        place.grow(300);
        assert!(place.run("most-plain", step, 0).status.success());
        let mut expected = bracketed(0..2400).into_iter().peekable();
        let lines = place.lines("out.txt");
        for line in &lines {
            assert!(expected.any(|other| other == *line), "{step:?}: `{line}` is there twice, or out of order");
        }
        assert_eq!(lines[lines.len() - 300..], bracketed(2100..2400), "{step:?}");
        lost += 2400 - lines.len();
    }
    assert!(lost > 0, "some were lost, or no kill was at the right moment");
}

#[test]
fn at_least_once_never_loses_also_where_nothing_can_be_taken_back() {
    let mut doubled = 0;
    for step in steps() {
        let mut place = Place::new();
        kill_at(&mut place, "least-plain", step);
        let lines = place.lines("out.txt");
        let mut found = lines.clone();
        found.sort_unstable();
        found.dedup();
        let mut expected = bracketed(0..2100);
        expected.sort_unstable();
        same(&found, &expected, &format!("{step:?}"));
        doubled += lines.len() - 2100;
    }
    assert!(doubled > 0, "some were doubled, or no kill was at the right moment");
}
