//! A process that dies at any named step of an epoch loses nothing and doubles nothing.
//!
//! The test binary runs itself as a child, which aborts at the step; the parent starts it again until it comes through, while
//! the input grows, and compares what came out with what went in, by value.

mod steps;

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU64, Ordering},
};

use millstream::{
    Delivery, Home, Pipeline,
    runtime::{CheckpointSpec, Probe, Running, Step},
};

/// What a child is to do, in its environment.
const CHILD: &str = "MILLSTREAM_CRASH_CHILD";

/// A folder with an input that grows, the state and the outputs.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    written: usize,
}

impl Place {
    pub(crate) fn new() -> Self {
        Place { folder: tempfile::tempdir().unwrap(), written: 0 }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Appends lines `0`, `1`, ... to the input.
    pub(crate) fn grow(&mut self, lines: usize) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path("in.txt")).unwrap();
        let text: String = (self.written..self.written + lines).map(|i| format!("{i}\n")).collect();
        file.write_all(text.as_bytes()).unwrap();
        self.written += lines;
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        std::fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Runs a child that aborts when `step` is reached for the `nth` time; 0: never.
    pub(crate) fn run(&self, job: &str, step: Step, nth: u64) -> Output {
        let step = Step::ALL.iter().position(|other| *other == step).unwrap();
        let order = format!("{job} {step} {nth} {}", self.folder.path().display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["child", "--exact", "--nocapture"]).env(CHILD, order).env("RUST_BACKTRACE", "0").output().unwrap()
    }
}

/// Not a test of its own: what a child process does.
#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let parts: Vec<&str> = order.splitn(4, ' ').collect();
    let (step, nth): (usize, u64) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
    let (step, passed) = (Step::ALL[step], AtomicU64::new(0));
    let probe = Probe::new(move |reached, _| {
        if reached == step && passed.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            std::process::abort();
        }
    });
    let folder = Path::new(parts[3]);
    let pipeline = steps::pipeline(parts[0], folder);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let summary = runtime.block_on(async {
        let plan = pipeline.plan().unwrap();
        let mut options = Home::new(folder.join("state")).options(&plan);
        options.probe = probe;
        options.until_end = true;
        Running::start(plan, options).wait().await.unwrap()
    });
    for (name, stage) in &summary.stages {
        assert_eq!(stage.in_flight(), 0, "the books of `{name}` balance: {stage:?}");
    }
}

/// Small epochs, so that every step is reached often.
pub(crate) fn base(job: &str, delivery: Delivery) -> Pipeline {
    let checkpoint = CheckpointSpec { count: Some(150), ..CheckpointSpec::default() };
    Pipeline::new(job).delivery(delivery).checkpoint(checkpoint)
}
