//! `top` on a real terminal: a pseudo-terminal with a shell on it, whose screen is read as a person would see it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process_group},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};

use crate::{
    support::{Folder, signal, until},
    watching::{Running, append, folder},
};

/// A shell on a terminal of its own, which runs `millstream` and then waits for a line.
struct Terminal {
    shell: Child,
    /// What a person holds: keys go in, the screen comes out.
    master: File,
    /// The side of the programs, kept open to look at its settings.
    slave: OwnedFd,
    settings: String,
    shown: Arc<Mutex<Vec<u8>>>,
}

const SCRIPT: &str = "trap : TERM; \"$0\" \"$@\"; echo code=$?; read line; echo line=$line";

impl Terminal {
    /// `None`, said, where there is no `setsid` to give the shell its terminal.
    fn start(folder: &Folder, arguments: &str, size: (u16, u16)) -> Option<Self> {
        Self::start_script(folder, SCRIPT, arguments, size, None)
    }

    /// With another script, or with standard error elsewhere.
    fn start_script(
        folder: &Folder,
        script: &str,
        arguments: &str,
        size: (u16, u16),
        stderr: Option<OwnedFd>,
    ) -> Option<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        resize(&master, size);
        let side = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "sh", "-c", script, env!("CARGO_BIN_EXE_millstream")]);
        command.args(arguments.split_whitespace()).current_dir(folder.path("")).env("TERM", "xterm");
        command.env_remove("MILLSTREAM_STATE_DIR").env_remove("NO_COLOR");
        let shell = match command.stdin(side()).stdout(side()).stderr(stderr.map_or_else(side, Stdio::from)).spawn() {
            Ok(shell) => shell,
            Err(error) => {
                println!("skipped: cannot run setsid: {error}");
                return None;
            }
        };
        let (master, shown) = (File::from(master), Arc::<Mutex<Vec<u8>>>::default());
        let (mut reader, seen) = (master.try_clone().unwrap(), Arc::downgrade(&shown));
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            // An error says that nobody has the other side any more, and without `shown` nobody looks.
            while let (Ok(read @ 1..), Some(seen)) = (reader.read(&mut block), seen.upgrade()) {
                seen.lock().unwrap().extend_from_slice(&block[..read]);
            }
        });
        let settings = settings(&slave);
        Some(Terminal { shell, master, slave, settings, shown })
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    fn raw(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// The lines of the screen.
    fn screen(&self) -> Vec<String> {
        screen(&self.raw())
    }

    /// Waits until a line of the screen says this.
    #[track_caller]
    fn sees(&self, text: &str) {
        until(text, || self.screen().iter().any(|line| line.contains(text)));
    }

    /// The cells of a stage's row.
    fn row(&self, stage: &str) -> Vec<String> {
        let rows = self.screen();
        let row = rows.iter().find(|row| row.trim_start_matches('│').starts_with(stage));
        row.map(|row| row.replace('│', " ").split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// `top` has ended in this way: the screen of before is back, the settings too, and the shell can read a line.
    #[track_caller]
    fn ends_as_it_was(mut self, code: i32) {
        self.sees(&format!("code={code}"));
        assert_eq!(settings(&self.slave), self.settings);
        let raw = self.raw();
        let last = |text: &str| raw.rfind(text).unwrap_or_else(|| panic!("no {text:?} in {raw:?}"));
        assert!(last("\u{1b}[?1049l") > last("\u{1b}[?1049h"), "the other screen was not left: {raw:?}");
        assert!(last("\u{1b}[?25h") > last("\u{1b}[?25l"), "the cursor was not shown again: {raw:?}");
        self.press("hello\n");
        self.sees("line=hello");
        assert!(self.screen().iter().any(|line| line == "hello"), "it is echoed: {:?}", self.screen());
        assert!(self.shell.wait().unwrap().success());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The shell leads the group, with all that it has started.
        if let Ok(None) = self.shell.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.shell), Signal::KILL);
            let _ = self.shell.wait();
        }
    }
}

fn settings(terminal: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

fn resize(terminal: impl std::os::fd::AsFd, (columns, rows): (u16, u16)) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

/// What a terminal shows that got all this: text, moves of the cursor, and erasing are followed, colours are not.
fn screen(raw: &str) -> Vec<String> {
    let mut cells: Vec<Vec<char>> = Vec::new();
    let (mut row, mut column) = (0, 0);
    let mut all = raw.chars();
    while let Some(c) = all.next() {
        match c {
            '\u{1b}' if all.as_str().starts_with('[') => {
                let rest = &all.as_str()[1..];
                // Cut short: it goes on with the next bytes.
                let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) else { break };
                let (numbers, order) = (&rest[..end], &rest[end..=end]);
                all = rest[end + 1..].chars();
                let number =
                    |at: usize| numbers.split(';').nth(at).and_then(|text| text.parse().ok()).unwrap_or(1usize);
                match (order, numbers) {
                    ("H", _) => (row, column) = (number(0) - 1, number(1) - 1),
                    ("J", _) | ("h" | "l", "?1049") => cells.clear(),
                    ("K", _) => cells.get_mut(row).into_iter().for_each(|line| line.truncate(column)),
                    _ => {}
                }
            }
            '\r' => column = 0,
            '\n' => row += 1,
            c if c.is_control() => {}
            c => {
                cells.resize_with(cells.len().max(row + 1), Vec::new);
                let line = &mut cells[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                column += 1;
            }
        }
    }
    cells.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned()).collect()
}

/// Three numbers, and all of them have come through.
fn running() -> (Folder, Running) {
    let folder = folder("1\n2\n3\n");
    let running = Running::start(&folder, "run p.yaml");
    until("the sink", || folder.read("out.txt").contains("\"n\":3"));
    (folder, running)
}

#[test]
fn top_shows_what_changes_fits_the_window_steers_and_leaves_the_terminal_as_it_was() {
    let (folder, _running) = running();
    let Some(mut terminal) = Terminal::start(&folder, "top", (130, 24)) else { return };
    terminal.sees("orders: running, at least once");
    for stage in ["file", "double", "counts", "out"] {
        terminal.sees(stage);
    }
    let number = |cell: &str| cell.replace(',', "").parse::<u64>().unwrap();
    until("the first figures", || terminal.row("double").get(2).is_some_and(|cell| cell == "3"));
    let before = number(&terminal.row("double")[4]);
    append(&folder, &"4\n".repeat(1000));
    until("later figures", || terminal.row("double").get(2).is_some_and(|cell| cell == "1,003"));
    let after = number(&terminal.row("double")[4]);
    assert!(after > before, "records a second: {before}, then {after}");

    for size in [(100, 12), (160, 30)] {
        resize(&terminal.master, size);
        let corner = |line: &String| line.ends_with('┐') && line.chars().count() == usize::from(size.0);
        until("a frame as wide as the window", || terminal.screen().first().is_some_and(corner));
        until("the keys in the last line", || {
            terminal.screen().get(usize::from(size.1) - 1).is_some_and(|line| line.starts_with("q quit"))
        });
    }
    terminal.press("p");
    terminal.sees("orders: paused");
    terminal.press("p");
    terminal.sees("orders: running");
    terminal.press("q");
    terminal.ends_as_it_was(0);
}

#[test]
fn top_says_that_nothing_runs_any_more_and_ends() {
    for how in [Signal::TERM, Signal::KILL] {
        let (folder, running) = running();
        let Some(terminal) = Terminal::start(&folder, "top orders", (130, 24)) else { return };
        terminal.sees("double");
        signal(running.pid(), how);
        terminal.sees("nothing runs any more");
        terminal.ends_as_it_was(0);
    }
}

#[test]
fn a_process_that_does_not_answer_is_named_so_and_holds_up_no_key() {
    let (folder, running) = running();
    let Some(mut terminal) = Terminal::start(&folder, "top", (130, 24)) else { return };
    terminal.sees("double");
    signal(running.pid(), Signal::STOP);
    terminal.sees("no answer for");
    terminal.press("c");
    terminal.press("q");
    terminal.ends_as_it_was(0);
    signal(running.pid(), Signal::CONT);
}

#[test]
fn a_signal_to_top_leaves_the_terminal_as_it_was() {
    let (folder, _running) = running();
    let Some(terminal) = Terminal::start(&folder, "top", (130, 24)) else { return };
    terminal.sees("double");
    // The shell goes on, as it says in its script.
    kill_process_group(Pid::from_child(&terminal.shell), Signal::TERM).unwrap();
    terminal.ends_as_it_was(0);
}

#[test]
fn top_ends_with_its_terminal_even_where_no_signal_says_so() {
    let (folder, _running) = running();
    let (held, holds) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let script = "trap '' HUP; \"$0\" \"$@\"; exit";
    let Some(mut terminal) = Terminal::start_script(&folder, script, "top", (130, 24), Some(holds)) else { return };
    terminal.sees("double");
    terminal.shell.kill().unwrap();
    terminal.shell.wait().unwrap();
    drop(terminal);
    let mut polled = [PollFd::new(&held, PollFlags::empty())];
    let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_eq!(poll(&mut polled, Some(&limit)).unwrap(), 1, "it goes on without a terminal");
}
