//! Every step, for a copy and for a count.

use std::{os::unix::process::ExitStatusExt, path::Path};

use millstream::{Delivery, End, Error, ErrorKind, Pipeline, runtime::Step};
use serde_json::json;

use super::{Place, base};

/// The pipelines that children run.
pub(crate) fn pipeline(job: &str, folder: &Path) -> End {
    let path = |name: &str| folder.join(name).display().to_string();
    let input = json!({ "path": path("in.txt"), "follow": true, "start": "beginning" });
    let delivery = if job.starts_with("once") { Delivery::ExactlyOnce } else { Delivery::AtLeastOnce };
    let pipeline = base(job, delivery).source_with("file", input);
    match job.rsplit('-').next() {
        Some("copy") => {
            pipeline.map(bracket).sink_with("file", json!({ "path": path("out.txt"), "existing": "append" }))
        }
        Some("gzip") => {
            pipeline.map(bracket).sink_with("file", json!({ "path": path("out.txt.gz"), "existing": "append" }))
        }
        Some("ss") => pipeline
            .map(bracket)
            .sink_with("file", json!({ "path": path("out.ss"), "existing": "append", "stream": "out" })),
        Some("letters") => pipeline
            .map(|record, value| match record.value() {
                Some(text) if text.ends_with(b"7") => Err(Error::new(ErrorKind::Data, "no sevens")),
                _ => bracket(record, value),
            })
            .sink_with("file", json!({ "path": path("out.txt"), "existing": "append" })),
        _ => pipeline
            .step_with(
                "aggregate",
                json!({ "key": "length(string!(.))", "fields": { "n": "count()" }, "emit": "change" }),
            )
            .name("count")
            .sink_with("file", json!({ "path": path("out.txt"), "existing": "append", "codec": "ndjson" })),
    }
}

pub(crate) fn bracket(record: millstream::RecordRef<'_>, value: &mut millstream::Value<'_>) -> millstream::Result<()> {
    value.push(b'<');
    value.extend_from_slice(record.value().unwrap_or_default());
    value.push(b'>');
    Ok(())
}

/// Kills a job at `step` for the first, second and third time, while the input grows, and lets it come through at last.
pub(crate) fn kill_at(place: &mut Place, job: &str, step: Step) {
    let mut killed = 0;
    for nth in 1..=3 {
        place.grow(700);
        let child = place.run(job, step, nth);
        match child.status.signal() {
            Some(_) => killed += 1,
            None => assert!(child.status.success(), "{job} at {step:?}: {}", String::from_utf8_lossy(&child.stderr)),
        }
    }
    assert!(killed > 0, "{job}: {step:?} was never reached");
    let child = place.run(job, step, 0);
    assert!(child.status.success(), "{job} after {step:?}: {}", String::from_utf8_lossy(&child.stderr));
}

pub(crate) fn bracketed(lines: impl IntoIterator<Item = usize>) -> Vec<String> {
    lines.into_iter().map(|i| format!("<{i}>")).collect()
}

#[test]
fn exactly_once_the_output_equals_the_input_at_every_step() {
    for step in Step::ALL {
        let mut place = Place::new();
        kill_at(&mut place, "once-copy", step);
        assert_eq!(place.lines("out.txt"), bracketed(0..2100), "{step:?}");
    }
}

#[test]
fn at_least_once_nothing_is_lost_at_any_step() {
    for step in Step::ALL {
        let mut place = Place::new();
        kill_at(&mut place, "copy", step);
        let mut lines = place.lines("out.txt");
        lines.sort();
        lines.dedup();
        let mut expected = bracketed(0..2100);
        expected.sort();
        assert_eq!(lines, expected, "{step:?}");
    }
}

#[test]
fn state_counts_each_record_once_at_every_step_in_both_modes() {
    for (job, step) in ["count", "once-count"].iter().flat_map(|job| Step::ALL.map(|step| (*job, step))) {
        let mut place = Place::new();
        kill_at(&mut place, job, step);
        let mut newest = std::collections::BTreeMap::new();
        for line in place.lines("out.txt") {
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            newest.insert(value["key"].to_string(), value["n"].as_u64().unwrap());
        }
        let expected = [("1", 10), ("2", 90), ("3", 900), ("4", 1100)];
        assert_eq!(newest, expected.map(|(key, n)| (key.to_owned(), n)).into(), "{job} at {step:?}");
    }
}

#[test]
fn each_failed_record_is_one_dead_letter_at_every_step() {
    for step in Step::ALL {
        let mut place = Place::new();
        kill_at(&mut place, "once-letters", step);
        assert_eq!(place.lines("out.txt"), bracketed((0..2100).filter(|i| i % 10 != 7)), "{step:?}");
        let letters = millstream::state::read_dead_letters(&place.path("state/once-letters"), 0, 9999).unwrap();
        let values: Vec<_> =
            letters.iter().map(|(_, letter)| String::from_utf8_lossy(letter.record.value.as_ref().unwrap())).collect();
        let expected: Vec<_> = (0..2100).filter(|i| i % 10 == 7).map(|i| i.to_string()).collect();
        assert_eq!(values, expected, "{step:?}");
    }
}

#[test]
fn exactly_once_holds_for_compressed_outputs() {
    for step in Step::ALL {
        let mut place = Place::new();
        kill_at(&mut place, "once-gzip", step);
        let output = std::process::Command::new("gzip").arg("-dc").arg(place.path("out.txt.gz")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines, bracketed(0..2100), "{step:?}");
    }
}

#[test]
fn exactly_once_holds_for_stream_files() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for step in Step::ALL {
        let mut place = Place::new();
        kill_at(&mut place, "once-ss", step);
        let read = Pipeline::new("read")
            .in_memory()
            .source_with("file", json!({ "path": place.path("out.ss") }))
            .sink_with("file", json!({ "path": place.path("out.txt") }));
        runtime.block_on(read.run()).unwrap();
        assert_eq!(place.lines("out.txt"), bracketed(0..2100), "{step:?}");
    }
}
