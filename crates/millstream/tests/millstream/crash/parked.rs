//! One record that fails and waits for another try, while the others flow.

use std::path::Path;

use millstream::{
    Delivery, Error, ErrorKind, Span,
    runtime::{ErrorRule, Plan, Retry, Step},
};
use serde_json::json;

use super::{
    Place, base,
    steps::{bracket, bracketed},
    until,
};

/// The record that fails until there is a file `marker`.
const SLOW: usize = 42;

pub(crate) fn plan(job: &str, folder: &Path) -> Option<Plan> {
    let delay = job.strip_prefix("live-parked-").or(job.strip_prefix("parked-"))?;
    let path = |name: &str| folder.join(name).display().to_string();
    let marker = folder.join("marker");
    let delay: Span = serde_json::from_value(json!(delay)).unwrap();
    let retry = Retry { attempts: Some(1000), delay, backoff: 1.0, jitter: 0.0, ..Retry::default() };
    let pipeline = base("parked", Delivery::ExactlyOnce)
        .source_with("file", json!({ "path": path("in.txt"), "follow": true, "start": "beginning" }))
        .map(move |record, value| {
            if record.value() == Some(SLOW.to_string().as_bytes()) && !marker.exists() {
                return Err(Error::new(ErrorKind::Unavailable, "not now"));
            }
            bracket(record, value)
        })
        .on_error(ErrorRule::any().retry(retry))
        .sink_with("file", json!({ "path": path("out.txt"), "existing": "append" }));
    Some(pipeline.plan().unwrap())
}

fn without_slow(upto: usize) -> Vec<String> {
    bracketed((0..upto).filter(|i| *i != SLOW))
}

#[test]
fn others_flow_past_a_parked_record_which_survives_kills_and_drains() {
    let mut place = Place::new();
    for round in 1..=4 {
        place.grow(500);
        let mut child = place.start("live-parked-30s", Step::BeforeRecord, 0);
        // Long before the 30 s are over.
        until("the others", || place.lines("out.txt").len() == round * 500 - 1);
        assert_eq!(place.lines("out.txt"), without_slow(round * 500));
        if round == 4 {
            // It does not hold up the drain either: it stays in the state, and is counted.
            let output = place.drain(child);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(place.lines("parked"), ["1"]);
        } else {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    assert_eq!(place.lines("out.txt"), without_slow(2000));
}

#[test]
fn a_parked_record_arrives_once_when_it_can_after_an_abort_at_every_step() {
    for step in Step::ALL {
        let mut place = Place::new();
        for nth in 1..=2 {
            place.grow(500);
            let mut child = place.start("live-parked-100ms", step, nth);
            until("the abort", || child.try_wait().unwrap().is_some());
        }
        let child = place.start("live-parked-100ms", step, 0);
        until("the others", || place.lines("out.txt").len() == 999);
        std::fs::write(place.path("marker"), "").unwrap();
        until("the parked one", || place.lines("out.txt").len() == 1000);
        let output = place.drain(child);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (slow, others): (Vec<_>, Vec<_>) =
            place.lines("out.txt").into_iter().partition(|line| *line == format!("<{SLOW}>"));
        assert_eq!(
            (slow.len(), others, place.lines("parked")),
            (1, without_slow(1000), vec!["0".to_owned()]),
            "{step:?}"
        );
    }
}

#[test]
fn a_run_to_the_end_that_was_killed_while_a_record_was_parked_is_gone_on_with() {
    let mut place = Place::new();
    place.grow(500);
    let mut child = place.start("parked-30s", Step::BeforeRecord, 0);
    until("the others", || place.lines("out.txt").len() == 499);
    // Time for the epoch that knows that the input has been read to its end.
    let log = place.path("state/parked/checkpoints.log");
    until("the end in a checkpoint", || {
        String::from_utf8_lossy(&std::fs::read(&log).unwrap()).contains("}},\"ended\":true")
    });
    child.kill().unwrap();
    child.wait().unwrap();
    // The next run follows: for it that was not the end of the input.
    place.grow(500);
    let child = place.start("live-parked-30s", Step::BeforeRecord, 0);
    until("the others", || place.lines("out.txt").len() == 999);
    assert!(place.drain(child).status.success());
    assert_eq!((place.lines("out.txt"), place.lines("parked")), (without_slow(1000), vec!["1".to_owned()]));
}
