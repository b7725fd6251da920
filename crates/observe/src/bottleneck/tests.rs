use super::find;
use crate::report::{BufferReport, PipelineReport, Queue, Rates, Shares, StageReport};

/// `source -> parse -> charge -> out`, all of them idle but moving.
fn pipeline() -> PipelineReport {
    let stage = |name: &str, role: &str, reads: &[&str]| StageReport {
        name: name.to_owned(),
        role: role.to_owned(),
        reads: reads.iter().map(|&from| from.to_owned()).collect(),
        workers: 1,
        scales: role == "step",
        rates: Rates { records_in: 100.0, records_out: 100.0, ..Rates::default() },
        shares: Shares { busy: 0.1, ..Shares::default() },
        ..StageReport::default()
    };
    PipelineReport {
        phase: "running".to_owned(),
        stages: vec![
            stage("orders", "source", &[]),
            stage("parse", "step", &["orders"]),
            stage("charge", "step", &["parse.good"]),
            stage("out", "sink", &["charge"]),
        ],
        ..PipelineReport::default()
    }
}

fn with(changes: &[(usize, f64, f64)]) -> PipelineReport {
    let mut pipeline = pipeline();
    for &(at, busy, blocked) in changes {
        pipeline.stages[at].shares = Shares { busy, blocked, idle: 0.0 };
    }
    pipeline
}

fn words(pipeline: &PipelineReport) -> String {
    find(pipeline).to_string()
}

#[test]
fn a_busy_step_that_others_wait_for_wants_concurrency() {
    let pipeline = with(&[(0, 0.0, 0.9), (1, 0.1, 0.85), (2, 0.98, 0.0)]);
    let said = "`charge` is busy 98 % of the time and everything before it waits for it: give it more concurrency";
    assert_eq!(words(&pipeline), said);
}

#[test]
fn several_workers_are_named() {
    let mut pipeline = with(&[(0, 0.0, 0.9), (1, 0.1, 0.85), (2, 0.98, 0.0)]);
    pipeline.stages[2].workers = 4;
    assert!(words(&pipeline).starts_with("all 4 workers of `charge` are busy 98 % of the time"));
}

#[test]
fn a_step_with_one_worker_for_ever_is_not_told_to_have_more() {
    let mut pipeline = with(&[(1, 0.0, 0.9), (2, 0.98, 0.0)]);
    pipeline.stages[2].scales = false;
    assert!(words(&pipeline).ends_with("make it cheaper: it has one worker and cannot have more"));
}

#[test]
fn a_busy_sink_is_about_its_system() {
    let pipeline = with(&[(0, 0.0, 0.9), (1, 0.9, 0.0), (2, 0.1, 0.9), (3, 0.9, 0.0)]);
    assert!(words(&pipeline).starts_with("`out` is busy 90 % of the time"), "the last one counts, not the busiest");
    assert!(words(&pipeline).contains("larger batches"));
}

#[test]
fn a_sink_that_only_waits_is_the_limit_too() {
    let pipeline = with(&[(0, 0.0, 0.9), (2, 0.2, 0.8), (3, 0.05, 0.0)]);
    let said = "`out` holds up everything before it, though it is busy only 5 % of the time: it waits for the system that it \
                writes to";
    assert_eq!(words(&pipeline), said);
}

#[test]
fn a_chain_of_fused_steps_is_told_by_its_busiest() {
    let pipeline = with(&[(0, 0.0, 0.9), (1, 0.3, 0.0), (2, 0.6, 0.0)]);
    assert!(words(&pipeline).starts_with("`charge` holds up everything before it"));
}

#[test]
fn a_step_that_waits_for_a_service_is_the_limit_however_busy_the_sink_behind_it_is() {
    let mut pipeline = with(&[(0, 0.0, 0.9), (1, 0.0, 0.9), (2, 0.05, 0.0), (3, 0.3, 0.0)]);
    pipeline.stages[3].queue = Some(Queue { batches: 0, batches_max: 4, bytes: 0, bytes_max: 1 << 20 });
    assert!(words(&pipeline).starts_with("`charge` holds up everything before it, though it is busy only 5 %"));
}

#[test]
fn a_full_queue_says_the_same_as_a_blocked_stage() {
    let mut pipeline = with(&[(2, 0.97, 0.0)]);
    pipeline.stages[2].queue = Some(Queue { batches: 4, batches_max: 4, bytes: 10, bytes_max: 1 << 20 });
    assert!(words(&pipeline).starts_with("`charge` is busy 97 % of the time and everything before it waits"));
}

#[test]
fn a_branch_that_is_not_held_up_is_not_blamed() {
    let mut pipeline = with(&[(0, 0.0, 0.9), (2, 0.95, 0.0)]);
    // A second sink, busier than all, on a source of its own.
    let mut other = pipeline.stages[0].clone();
    (other.name, other.shares) = ("other".to_owned(), Shares::default());
    let mut sink = pipeline.stages[3].clone();
    (sink.name, sink.reads, sink.shares.busy) = ("files".to_owned(), vec!["other".to_owned()], 0.99);
    pipeline.stages.extend([other, sink]);
    assert!(words(&pipeline).starts_with("`charge` is busy 95 %"));
}

#[test]
fn a_rate_limit_is_called_what_it_is() {
    let mut pipeline = with(&[(0, 0.0, 0.9), (2, 0.02, 0.0)]);
    pipeline.stages[1].name = "charge.rate_limit".to_owned();
    pipeline.stages[1].kind = "rate_limit".to_owned();
    pipeline.stages[2].reads = vec!["charge.rate_limit".to_owned()];
    assert_eq!(words(&pipeline), "`charge` is held to its rate limit, and everything before it waits for it");
}

#[test]
fn busy_without_a_queue_before_it_is_no_complaint() {
    assert_eq!(words(&with(&[(1, 0.9, 0.0)])), "`parse` is busy 90 % of the time, and still keeps up");
}

#[test]
fn a_source_that_gives_no_more_is_the_limit_of_a_healthy_pipeline() {
    let said =
        "nothing holds it up: `orders` gives 100 records/s, and the busiest stage, `parse`, works 35 % of the time";
    assert_eq!(words(&with(&[(1, 0.35, 0.0)])), said);
}

#[test]
fn without_records_there_is_nothing_to_do() {
    let mut pipeline = pipeline();
    pipeline.stages.iter_mut().for_each(|stage| stage.rates = Rates::default());
    assert_eq!(words(&pipeline), "nothing to do: no record has come of late");
}

#[test]
fn a_connection_that_is_down_is_named_while_nothing_moves() {
    let mut pipeline = with(&[(0, 0.0, 1.0)]);
    pipeline.stages[3].waiting = Some("waiting to try again: connection refused".to_owned());
    pipeline.stages[3].rates = Rates::default();
    assert_eq!(words(&pipeline), "nothing moves: `out` is waiting to try again: connection refused");
    pipeline.stages[3].rates.records_out = 5.0;
    assert!(!words(&pipeline).contains("nothing moves"));
}

#[test]
fn a_pipeline_that_does_not_run_says_why() {
    let restarting = PipelineReport { phase: "restarting".into(), cause: Some("disk full".into()), ..pipeline() };
    assert_eq!(words(&restarting), "it does not run: restarting: disk full");
    assert_eq!(words(&PipelineReport { phase: "paused".into(), ..pipeline() }), "it does not run: paused");
    assert_eq!(
        words(&PipelineReport { phase: "running".into(), ..PipelineReport::default() }),
        "nothing to do: no record has come of late"
    );
}

/// No figures, however odd, are answered by a panic.
#[test]
fn nonsense_is_survived() {
    let mut pipeline = with(&[(0, f64::NAN, f64::INFINITY), (1, -1.0, f64::NAN), (2, f64::NAN, 1.0)]);
    pipeline.stages[0].reads = vec!["out".to_owned(), "nobody".to_owned(), String::new()];
    pipeline.stages[1].name = String::new();
    assert!(!words(&pipeline).is_empty());
}

#[test]
fn a_buffer_without_room_is_the_limit_and_one_that_only_fills_is_none() {
    let mut pipeline = with(&[(1, 0.2, 0.8), (2, 0.2, 0.8)]);
    let why = Some("the buffer of `out` is full, and its disk is slow".to_owned());
    let buffer = BufferReport { sink: "out".to_owned(), fill: 0.99, waiting: why, ..BufferReport::default() };
    pipeline.buffers = vec![buffer];
    assert!(!words(&pipeline).contains("buffer"), "{}", words(&pipeline));
    pipeline.buffers[0].waiting_seconds = Some(2.0);
    assert_eq!(words(&pipeline), "everything waits: the buffer of `out` is full, and its disk is slow");
}
