//! A process of its own for a test, and what the system says of a process.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::{env, fs, panic, process::Command};

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
