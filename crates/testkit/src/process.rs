//! A process of its own for a test, and what the system says of a process.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    env, fs, panic,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Set for a test that runs alone.
const ALONE: &str = "MILLSTREAM_TEST_ALONE";

/// Whether this process is one that [`alone`] has started.
pub fn is_alone() -> bool {
    env::var_os(ALONE).is_some()
}

/// Runs the test of that name, and no other, in a process of its own.
///
/// # Panics
/// If it fails there, or there is no such test.
pub fn alone(test: &str) {
    let program = env::current_exe().expect("the program of this test");
    let run = Command::new(program).args([test, "--exact", "--nocapture"]).env(ALONE, "1").output();
    let run = run.expect("a process");
    let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && text.contains("1 passed"), "{text}");
}

/// The test of that name, run alone in a child that the test which started it kills, or waits for. It does not outlive that test,
/// also if it fails.
#[derive(Debug)]
pub struct Process {
    child: Child,
    said: PathBuf,
}

impl Process {
    /// Starts it with an order in a variable of its environment; what it says on standard error goes into a file.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(test: &str, (variable, order): (&str, &str), said: PathBuf) -> Self {
        let log = fs::File::create(&said).expect("a file");
        let mut command = Command::new(env::current_exe().expect("the program of this test"));
        command.args([test, "--exact", "--nocapture"]).env(variable, order);
        command.env("RUST_BACKTRACE", "0").stdout(Stdio::null()).stderr(log);
        Process { child: command.spawn().expect("a process"), said }
    }

    /// What it has said on standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// If it has ended by itself.
    pub fn kill(&mut self) {
        assert!(self.ended().is_none(), "it has ended by itself: {}", self.said());
        self.child.kill().expect("a child that can be killed");
        self.child.wait().expect("its end");
    }

    /// Makes it stand still (`-STOP`), or go on (`-CONT`).
    ///
    /// # Panics
    /// If there is no such signal.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "`kill {signal}`");
    }

    /// How it has ended, if it has.
    ///
    /// # Panics
    /// Where the system does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("how it stands")
    }

    /// Waits for its end. Blocks.
    ///
    /// # Panics
    /// If it has not ended by then.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(began.elapsed() < limit, "it does not end: {}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it has ended well. Blocks.
    ///
    /// # Panics
    /// If it ends in another way, or not in time.
    pub fn succeed(&mut self, limit: Duration) {
        let status = self.wait(limit);
        assert!(status.success(), "{status}: {}", self.said());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Names of the threads of this process, sorted.
///
/// # Panics
/// Where there is no `/proc`.
pub fn threads() -> Vec<String> {
    let threads = fs::read_dir("/proc/self/task").expect("a system with /proc");
    // One that ends meanwhile has no name any more.
    let names = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    let mut names: Vec<_> = names.map(|name| name.trim_end().to_owned()).collect();
    names.sort_unstable();
    names
}

/// Memory that this process has now, in KiB.
///
/// # Panics
/// Where there is no `/proc`.
pub fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a system with /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|figure| figure.parse().ok()).expect("a figure")
}

/// The time that this process has worked so far, in ticks of 10 ms.
///
/// # Panics
/// Where there is no `/proc`.
pub fn ticks() -> u64 {
    ticks_of(std::process::id())
}

/// The time that a process has worked so far, in user mode and in the kernel, in ticks of 10 ms.
///
/// # Panics
/// If there is no such process.
pub fn ticks_of(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
    // Behind the name, which may hold anything, the times are the 12th and 13th.
    let behind_name = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    behind_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// Keeps the panics of kills at a step, whose words begin with "killed at", out of the output of this process.
pub fn silence_kills() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload().downcast_ref::<String>().is_some_and(|text| text.starts_with(KILLED)) {
            usual(info);
        }
    }));
}

pub(crate) const KILLED: &str = "killed at";
