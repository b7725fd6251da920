//! Standard error: what is said, in which colours, and whether progress is shown.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{Arc, Mutex},
};

use indicatif::MultiProgress;
use millstream::core::Error;
use millstream_config::Diagnostic;
use tracing_subscriber::filter::LevelFilter;

use crate::{
    args::{LogFormat, TalkArgs, When},
    story::Hide,
};

/// How to speak.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) quiet: bool,
    pub(crate) verbose: u8,
    /// A line every 10 s where there is no terminal.
    pub(crate) progress_lines: bool,
    /// Standard error is a terminal.
    pub(crate) terminal: bool,
    colour: bool,
    json: bool,
}

/// The bars that are drawn now: everything that is said stands above them.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// What hides the secrets of each pipeline file in log lines.
static HIDING: Mutex<Vec<Arc<Hide>>> = Mutex::new(Vec::new());

impl Talk {
    pub(crate) fn new(args: &TalkArgs) -> Self {
        let terminal = io::stderr().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = match args.color {
            When::Auto => terminal && !plain && !dumb,
            When::Always => true,
            When::Never => false,
        };
        let json = args.log_format == LogFormat::Json;
        Talk {
            quiet: args.quiet,
            verbose: args.verbose,
            progress_lines: args.progress,
            terminal: terminal && !dumb,
            colour: colour && !json,
            json,
        }
    }

    /// Log lines of all crates, to standard error: warnings, and more with `-v`.
    pub(crate) fn start_log(&self) {
        let level = match (self.quiet, self.verbose) {
            (true, _) => LevelFilter::ERROR,
            (_, 0) => LevelFilter::WARN,
            (_, 1) => LevelFilter::INFO,
            (_, 2) => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        };
        // A log that cannot be written must not take the program down.
        let log = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(self.colour)
            .with_writer(|| Lines)
            .log_internal_errors(false);
        // A second log is none: there is only one process.
        let _ = match self.json {
            true => log.json().try_init(),
            false => log.with_target(self.verbose > 1).try_init(),
        };
    }

    /// A line for people, unless they want it quiet.
    pub(crate) fn say(&self, line: &str) {
        if self.quiet {
            return;
        }
        match self.json {
            true => say_line(&serde_json::json!({ "level": "INFO", "message": line }).to_string()),
            false => say_line(line),
        }
    }

    /// Something that went wrong; always shown.
    pub(crate) fn error(&self, diagnostic: &Diagnostic) {
        let short = match diagnostic.position() {
            Some(_) => diagnostic.clone(),
            None => without_repeats(diagnostic.error()).into(),
        };
        let diagnostic = &short;
        match self.json {
            true => {
                let mut object = diagnostic.to_json();
                object["level"] = "ERROR".into();
                say_line(&object.to_string());
            }
            false => say_line(&diagnostic.render(self.colour)),
        }
    }

    /// Something that may go wrong.
    pub(crate) fn warn(&self, text: &str) {
        if self.quiet {
            return;
        }
        match self.json {
            true => say_line(&serde_json::json!({ "level": "WARN", "message": text }).to_string()),
            false => say_line(&format!("{}: {text}", self.paint("1;33", "warning"))),
        }
    }

    /// Whether there are colours.
    pub(crate) fn colour(&self) -> bool {
        self.colour
    }

    /// A text in a colour, by its ANSI code.
    pub(crate) fn paint(&self, code: &str, text: &str) -> String {
        match self.colour {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
}

/// The same error without causes that its message tells already.
fn without_repeats(error: &Error) -> Error {
    let inner = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Error>());
    let Some(inner) = inner else { return error.clone() };
    let inner = without_repeats(inner);
    let mut short = Error::new(error.kind(), error.message());
    short = error.hint_text().into_iter().fold(short, |short, hint| short.hint(hint));
    match error.message().ends_with(inner.message()) {
        false => short.caused_by(inner),
        true => match std::error::Error::source(&inner).map(ToString::to_string) {
            None => short,
            Some(cause) => short.caused_by(Error::new(error.kind(), cause)),
        },
    }
}

/// From now on no log line shows what this hides.
pub(crate) fn hide_in_log(hide: Arc<Hide>) {
    HIDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(hide);
}

/// From now on everything is said above these bars.
pub(crate) fn above(bars: Option<MultiProgress>) {
    *BARS.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = bars;
}

/// Writes a line to standard error. That nobody reads it is no reason to stop.
pub(crate) fn say_line(line: &str) {
    write_above(format!("{line}\n").as_bytes());
}

fn write_above(bytes: &[u8]) {
    let write = || drop(io::stderr().lock().write_all(bytes));
    let bars = BARS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    match bars {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Log lines, above the bars and without secrets.
struct Lines;

impl io::Write for Lines {
    /// A line at a time.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let hiding = HIDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let hidden = hiding.iter().fold(String::from_utf8_lossy(bytes), |line, hide| hide(&line).into());
        write_above(hidden.as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
