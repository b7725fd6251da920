//! A process with a folder; both end with us, however we end.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The shell program that starts and ends the server; it says itself how it is talked to.
const KEEPER: &str = include_str!("keeper.sh");

/// Between two looks at a condition: short beside what a server needs to start.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long a server may take to end when it is asked to; then it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// How much of a log a failed test shows.
const LOG_LINES_SHOWN: usize = 30;

/// A server's process and folder. When this is dropped, or when this process dies, both are gone.
#[derive(Debug)]
pub(crate) struct Keeper {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    shell: Child,
    /// Dropped first when we end: that is what the shell waits for.
    to_shell: Option<ChildStdin>,
    from_shell: BufReader<ChildStdout>,
    pid: Option<u32>,
    paused: bool,
    runs: u32,
}

impl Keeper {
    /// Makes the folder; `name` is part of its name.
    pub(crate) fn new(name: &str) -> Keeper {
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper", name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        // In a group of its own, so that it outlives us when the whole group of the test is killed.
        let spawned = command.stderr(Stdio::null()).process_group(0).spawn();
        let mut shell = spawned.unwrap_or_else(|error| panic!("cannot start `sh`: {error}"));
        let (to_shell, from_shell) = (shell.stdin.take(), shell.stdout.take());
        let Some(from_shell) = from_shell else { unreachable!("it was asked for") };
        let mut state =
            State { shell, to_shell, from_shell: BufReader::new(from_shell), pid: None, paused: false, runs: 0 };
        let folder = PathBuf::from(state.answer());
        Keeper { folder, state: Mutex::new(state) }
    }

    /// Where the server keeps its files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a file into the folder; answers with its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        if let Err(error) = fs::write(&path, text) {
            panic!("cannot write `{}`: {error}", path.display());
        }
        path
    }

    /// Starts the process, which must not be running.
    pub(crate) fn start(&self, command: &[String]) {
        let mut state = self.lock();
        assert!(state.pid.is_none(), "it is running already");
        let quoted: Vec<_> = command.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        self.write("start", &format!("cd '{}' && exec {}\n", self.folder.display(), quoted.join(" ")));
        state.runs += 1;
        let log = format!("start {}", log_name(state.runs));
        let pid = state.ask(&log);
        state.pid = Some(pid.parse().unwrap_or_else(|_| panic!("`{pid}` is no process id")));
    }

    /// Makes the process stand still.
    pub(crate) fn pause(&self) {
        let mut state = self.lock();
        state.ask("signal STOP");
        state.paused = true;
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        let mut state = self.lock();
        state.ask("signal CONT");
        state.paused = false;
    }

    /// Kills the process; when this returns, it is gone with all its sockets.
    pub(crate) fn kill(&self) {
        let mut state = self.lock();
        if state.pid.take().is_some() {
            state.ask("signal KILL");
            state.ask("reap");
            state.paused = false;
        }
    }

    /// Asks the process to end, and waits for it.
    pub(crate) fn stop(&self) {
        self.resume();
        self.lock().ask("signal TERM");
        let began = Instant::now();
        while self.runs() && began.elapsed() < STOP_WITHIN {
            thread::sleep(LOOK_EVERY);
        }
        self.kill();
    }

    /// Whether the process can be asked something: one that stands still would never answer.
    pub(crate) fn responds(&self) -> bool {
        !self.lock().paused && self.runs()
    }

    /// Whether the process is there, be it paused.
    pub(crate) fn runs(&self) -> bool {
        let Some(pid) = self.lock().pid else { return false };
        // `pid (name) state ...`; without /proc we only learn it by waiting too long.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(!Path::new("/proc/self").exists(), |stat| {
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            !matches!(state, Some('Z' | 'X') | None)
        })
    }

    /// The process id, for tests that look at it from outside.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.lock().pid
    }

    /// What the process has printed since it was last started.
    pub(crate) fn log(&self) -> String {
        let path = self.folder.join(log_name(self.lock().runs));
        fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Waits until the process has printed `line`, or fails with what it has printed instead.
    pub(crate) fn wait_for(&self, line: &str, limit: Duration) {
        let began = Instant::now();
        loop {
            // Asked first: what it prints before it ends is in the log when we look.
            let runs = self.runs();
            let log = self.log();
            if log.contains(line) {
                return;
            }
            if !runs || began.elapsed() > limit {
                let why = if runs { format!("is not ready after {limit:?}") } else { "has ended".to_owned() };
                let lines: Vec<_> = log.lines().collect();
                let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
                panic!("the server in {} {why}; it says:\n{shown}", self.folder.display());
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn ask(&mut self, line: &str) -> String {
        let Some(to_shell) = &mut self.to_shell else { unreachable!("it is taken only by drop") };
        if let Err(error) = writeln!(to_shell, "{line}") {
            panic!("cannot talk to the shell that keeps the server: {error}");
        }
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        match self.from_shell.read_line(&mut line) {
            Ok(read) if read > 0 => line.trim_end().to_owned(),
            other => panic!("the shell that keeps the server does not answer: {other:?}"),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.to_shell = None;
        // It ends by itself now; that it has tells us that all is gone.
        let _ = self.shell.wait();
    }
}

/// Each run has its log, so that nobody takes the last one's `ready` for this one's.
fn log_name(run: u32) -> String {
    format!("log.{run}")
}

/// Asks until the answer is yes; fails after `limit`, with what was waited for.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < limit, "not {what} after {limit:?}");
        thread::sleep(LOOK_EVERY);
    }
}
