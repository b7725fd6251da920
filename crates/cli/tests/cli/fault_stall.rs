//! A sink that stalls: a FIFO that nobody reads. The run drains until its deadline, says what is left, and loses nothing.

use std::{
    fs::File,
    io::Read as _,
    process::Child,
    time::{Duration, Instant},
};

use millstream_testkit::process::ticks_of;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    process::Signal,
};

use crate::{
    crash::Kept,
    support::{Folder, finish, signal, until},
};

const PIPELINE: &str = "\
name: p
checkpoint: { every: 20ms }
source: { file: { path: in.txt, follow: true, start: beginning } }
sink: { stdout: { codec: lines } }
";

/// The FIFO, held open so that its writers never find it without a reader.
struct Fifo {
    end: File,
    read: Vec<u8>,
}

impl Fifo {
    fn new(folder: &Folder) -> Self {
        let path = folder.path("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let end = rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap();
        Fifo { end: end.into(), read: Vec::new() }
    }

    /// Nothing more can be written.
    fn is_full(&self) -> bool {
        let mut polled = [PollFd::new(&self.end, PollFlags::OUT)];
        poll(&mut polled, Some(&Timespec::default())).unwrap();
        !polled[0].revents().contains(PollFlags::OUT)
    }

    /// Waits until its writer can write no more and has read ahead what it may: it works no more.
    fn stalls(&self, writer: &Child) {
        let (mut last, mut still) = (0, 0);
        until("a writer that waits", || {
            let now = ticks_of(writer.id());
            still = if now == last { still + 1 } else { 0 };
            last = now;
            self.is_full() && still >= 40
        });
    }

    /// Reads what is in it.
    fn read(&mut self) -> &str {
        // It ends with "would block", as nobody closes the other end.
        let _ = self.end.read_to_end(&mut self.read);
        std::str::from_utf8(&self.read).unwrap()
    }
}

fn start(folder: &Folder, timeout: &str) -> Kept {
    // The child's own end, which blocks as ends of pipes do.
    let fifo = File::options().write(true).open(folder.path("fifo")).unwrap();
    Kept::spawn(folder.command(["run", "p.yaml", "--drain-timeout", timeout]).stdout(fifo))
}

/// More than the pipe takes in four runs; and the size of a line is no divisor of the pipe's, so that a full pipe always
/// leaves something half written.
const RECORDS: usize = 300_000;

fn lines(from: usize, to: usize) -> String {
    (from..to).map(|n| format!("record {n:09}\n")).collect()
}

#[test]
fn a_stalled_sink_drains_at_its_deadline_and_the_next_run_loses_nothing() {
    let folder = Folder::new();
    folder.write("p.yaml", PIPELINE);
    folder.write("in.txt", lines(0, RECORDS));
    let mut fifo = Fifo::new(&folder);
    for timeout in ["200ms", "400ms"] {
        let child = start(&folder, timeout);
        fifo.stalls(&child);
        let began = Instant::now();
        signal(child.id(), Signal::TERM);
        let done = finish(child.take()).code(3).says("draining").says("E_INTERRUPTED").says("the next run goes on");
        assert!(began.elapsed() < Duration::from_secs(10), "{done:?}");
        fifo.read();
    }
    // Killed while it is stalled, too.
    let mut child = start(&folder, "1s");
    fifo.stalls(&child);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = start(&folder, "30s");
    let last = lines(RECORDS - 1, RECORDS);
    until("the last record", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        fifo.read().ends_with(&last)
    });
    signal(child.id(), Signal::TERM);
    finish(child.take()).code(0);
    // Each run has gone on somewhere, and from there on in order: pieces that overlap, and between them nothing is missing.
    let mut next = 0;
    for (n, found) in fifo.read().lines().enumerate() {
        // A run that was stopped has cut its last line anywhere, and the next one's first line stands behind that.
        let digits = found.rsplit("record ").next().filter(|digits| digits.len() == 9);
        let found = digits.and_then(|digits| digits.parse::<usize>().ok());
        let Some(found) = found else { continue };
        assert!(found <= next, "record {next} is missing before line {n}");
        next = next.max(found + 1);
    }
    assert_eq!(next, RECORDS);
}
