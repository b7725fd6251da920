//! A process that dies at any step of the pipeline or of its buffer's task loses nothing and doubles nothing.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use millstream::{
    Buffered, Group, Home, Span, registry,
    runtime::{BufferSpec, CheckpointSpec, Entry, PipelineSpec, PlanOptions, Probe, Step},
};
use millstream_testkit::budget;
use serde_json::json;

use super::{EXACTLY_ONCE, run};

/// What a child is to do, in its environment: which of both dies, the step, the nth time that it is reached, the folder.
const CHILD: &str = "MILLSTREAM_BUFFER_CHILD";
const LINES: usize = 3_000;
const LINE_BYTES: usize = 400;

#[test]
fn a_crash_at_any_step_of_either_loses_nothing_and_doubles_nothing() {
    let times: &[u64] = budget(&[2, 4], &[1, 2, 3, 4, 6, 9, 14]);
    // So long that they are read in many batches, which makes many epochs.
    let text: String = (0..LINES).map(|i| format!("{i} {}\n", "x".repeat(LINE_BYTES))).collect();
    let mut died = 0;
    for who in ["p", "p.ledger"] {
        for (step, of) in Step::ALL.iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("in.txt"), &text).unwrap();
            // One after another in one folder: each goes on where the one before it died.
            died += times.iter().filter(|nth| !child(who, step, **nth, folder.path())).count();
            assert!(child(who, step, 0, folder.path()), "{who} at {of:?}");
            let out = std::fs::read_to_string(folder.path().join("out.txt")).unwrap();
            assert_eq!(out.lines().count(), LINES, "{who} at {of:?}");
            assert!(out == text, "{who} at {of:?}: the order is another");
        }
    }
    assert!(died >= 20, "only {died} children have died");
}

/// Runs a child; whether it came through.
fn child(who: &str, step: usize, nth: u64, folder: &Path) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["buffers::crash::the_child", "--exact", "--nocapture"]);
    command.env(CHILD, format!("{who} {step} {nth} {}", folder.display())).env("RUST_BACKTRACE", "0");
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let aborted = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(6);
    assert!(output.status.success() || aborted && nth > 0, "{}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

/// Not a test of its own: what a child process does.
#[test]
fn the_child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let parts: Vec<&str> = order.splitn(4, ' ').collect();
    let (who, step, nth) = (parts[0], parts[1].parse::<usize>().unwrap(), parts[2].parse::<u64>().unwrap());
    let folder = Path::new(parts[3]);
    let mut sink = Entry::named("file", json!({ "path": folder.join("out.txt") }));
    sink.name = Some("ledger".to_owned());
    sink.buffer = Some(BufferSpec::new(millstream::Size(1 << 20)));
    let spec = PipelineSpec {
        name: "p".to_owned(),
        sources: vec![Entry::named("file", json!({ "path": folder.join("in.txt") }))],
        sinks: vec![sink],
        delivery: EXACTLY_ONCE,
        checkpoint: CheckpointSpec {
            every: Span(std::time::Duration::from_millis(1)),
            count: Some(50),
            ..Default::default()
        },
        ..PipelineSpec::default()
    };
    let home = Home::new(folder.join("state"));
    let buffered = Buffered::new(&spec, &registry(), PlanOptions::default(), &home).unwrap();
    let summary = run(async {
        let options = |plan: &millstream::runtime::Plan| {
            let mut options = home.options(plan);
            if plan.name == who {
                options.probe = Probe::at(Step::ALL[step], nth, || std::process::abort());
            }
            options
        };
        Group::start(buffered, &home, options).await.unwrap().wait().await.unwrap()
    });
    assert_eq!(summary.left["ledger"], 0);
}
