//! A folder of its own for each test, and the binary in it.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// No test waits longer for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A folder in which the binary runs.
pub(crate) struct Folder(tempfile::TempDir);

/// What a finished process has left.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The binary with these arguments, without input, its output kept.
    pub(crate) fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(arguments).current_dir(self.0.path());
        command.env_remove("MILLSTREAM_STATE_DIR").env_remove("NO_COLOR").env("TERM", "xterm");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end. Arguments are divided by blanks.
    pub(crate) fn run(&self, arguments: &str) -> Done {
        self.run_all(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// The same with arguments that hold blanks.
    pub(crate) fn run_all(&self, arguments: &[&str]) -> Done {
        finish(self.command(arguments).spawn().unwrap())
    }

    /// Runs it with standard input.
    pub(crate) fn feed(&self, arguments: &str, input: &[u8]) -> Done {
        self.feed_all(&arguments.split_whitespace().collect::<Vec<_>>(), input)
    }

    /// The same with arguments that hold blanks.
    pub(crate) fn feed_all(&self, arguments: &[&str], input: &[u8]) -> Done {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let feeder = std::thread::spawn(move || {
            // A child that stops reading breaks the pipe.
            let _ = stdin.write_all(&input);
        });
        let done = finish(child);
        feeder.join().unwrap();
        done
    }

    /// Runs a shell command in which `millstream` is the binary.
    pub(crate) fn shell(&self, script: &str) -> Done {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("set -o pipefail; millstream() {{ \"$MILLSTREAM\" \"$@\"; }}; {script}")]);
        command.current_dir(self.0.path()).env("MILLSTREAM", env!("CARGO_BIN_EXE_millstream"));
        command.env("MILLSTREAM_STATE_DIR", self.path(".millstream"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command.spawn().unwrap())
    }
}

/// Waits for a child, and kills it past the deadline.
pub(crate) fn finish(child: Child) -> Done {
    let id = child.id();
    let (sender, receiver) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        let _ = sender.send(());
        output
    });
    let late = receiver.recv_timeout(DEADLINE).is_err();
    if late {
        signal(id, rustix::process::Signal::KILL);
    }
    let Output { status, stdout, stderr } = waiter.join().unwrap();
    let done = Done {
        code: status.code(),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    };
    assert!(!late, "still running after {DEADLINE:?}: {done:?}");
    // No input, however bad, is answered by a panic.
    assert!(!done.err.contains("panicked at"), "{done:?}");
    done
}

impl Done {
    /// It ended with this exit code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Standard error says this.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "no `{text}` in\n{}\n{self:?}", self.err);
        self
    }

    /// Standard error is empty.
    #[track_caller]
    pub(crate) fn silent(self) -> Self {
        assert_eq!(self.err, "", "{self:?}");
        self
    }

    /// Standard error is one line, with this in it.
    #[track_caller]
    pub(crate) fn silent_but(self, text: &str) -> Self {
        assert!(self.err.lines().count() == 1 && self.err.contains(text), "{self:?}");
        self
    }

    /// Standard output is this.
    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        assert_eq!(self.out, text, "{self:?}");
        self
    }
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Asks again and again, until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < DEADLINE, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Root may read everything: a test of permissions says nothing.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
