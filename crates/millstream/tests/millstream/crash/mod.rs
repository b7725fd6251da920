//! A process that dies at any named step of an epoch loses nothing and doubles nothing.
//!
//! The test binary runs itself as a child, which aborts at the step; the parent starts it again until it comes through, while
//! the input grows, and compares what came out with what went in, by value.

mod batches;
mod collector;
mod example;
mod files;
mod letters;
mod parked;
mod sources;
mod steps;

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use millstream::{
    Delivery, Home, Pipeline,
    runtime::{CheckpointSpec, Plan, Probe, Running, Step},
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
        self.start(job, step, nth).wait_with_output().unwrap()
    }

    /// Starts such a child. One whose job begins with `live` goes on until there is a file `drain`.
    pub(crate) fn start(&self, job: &str, step: Step, nth: u64) -> Child {
        let step = Step::ALL.iter().position(|other| *other == step).unwrap();
        let order = format!("{job} {step} {nth} {}", self.folder.path().display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["crash::child", "--exact", "--nocapture"]).env(CHILD, order).env("RUST_BACKTRACE", "0");
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Lets a live child drain, and waits for its end.
    pub(crate) fn drain(&self, child: Child) -> Output {
        std::fs::write(self.path("drain"), "").unwrap();
        let output = child.wait_with_output().unwrap();
        std::fs::remove_file(self.path("drain")).unwrap();
        output
    }
}

/// Asks again and again, until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same lines; if not, where they differ first, and which are missing.
#[track_caller]
pub(crate) fn same(found: &[String], expected: &[String], what: &str) {
    if found == expected {
        return;
    }
    let at = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    let around = |lines: &[String]| lines.iter().skip(at.saturating_sub(2)).take(6).cloned().collect::<Vec<_>>();
    let has: std::collections::HashSet<_> = found.iter().collect();
    let missing: Vec<_> = expected.iter().filter(|line| !has.contains(line)).take(20).collect();
    let (found_there, expected_there) = (around(found), around(expected));
    panic!(
        "{what}: {} lines and not {}; line {at}: {found_there:?} and not {expected_there:?}; missing: {missing:?} ...",
        found.len(),
        expected.len(),
    );
}

/// The plan of a job: each module knows its own.
fn plan(job: &str, folder: &Path) -> Plan {
    let plans = [batches::plan, collector::plan, files::plan, letters::plan, parked::plan, sources::plan];
    let found = plans.iter().find_map(|plan| plan(job, folder));
    found.unwrap_or_else(|| steps::pipeline(job, folder).plan().unwrap())
}

/// Not a test of its own: what a child process does.
#[test]
fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let parts: Vec<&str> = order.splitn(4, ' ').collect();
    let (step, nth): (usize, u64) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
    let probe = Probe::at(Step::ALL[step], nth, || std::process::abort());
    let folder = Path::new(parts[3]);
    let plan = plan(parts[0], folder);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let summary = runtime.block_on(async {
        let mut options = Home::new(folder.join("state")).options(&plan);
        options.probe = probe;
        options.until_end = !parts[0].starts_with("live");
        let live = !options.until_end;
        let mut running = Running::start(plan, options);
        if live {
            let (handle, file) = (running.handle(), folder.join("drain"));
            tokio::spawn(async move {
                while !file.exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                handle.drain(Duration::from_millis(300));
            });
        }
        running.wait().await.unwrap()
    });
    std::fs::write(folder.join("parked"), summary.parked().to_string()).unwrap();
    for (name, stage) in &summary.stages {
        assert_eq!(stage.in_flight(), 0, "the books of `{name}` balance: {stage:?}");
    }
}

/// Small epochs, so that every step is reached often.
pub(crate) fn base(job: &str, delivery: Delivery) -> Pipeline {
    let checkpoint = CheckpointSpec { count: Some(150), ..CheckpointSpec::default() };
    Pipeline::new(job).delivery(delivery).checkpoint(checkpoint)
}
