//! `millstream top [PIPELINE]`

mod screen;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use millstream::{
    core::{Error, ErrorKind, Result},
    observe::control::{Ask, Client, Process},
};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
};

use self::screen::Screen;
use super::status::tables;
use crate::{
    asking::{Found, Which},
    exit::{Exit, Outcome},
    output,
    signals::Signals,
    talk::Talk,
};

/// How often the figures are read.
const EVERY: Duration = Duration::from_secs(1);
/// How soon what other threads have to tell is drawn: the terminal can only be waited for alone.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A process that has not answered for so long is said not to answer.
const QUIET_MAX: Duration = Duration::from_secs(3);

/// Watch running pipelines: rates, queues, and what limits them.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// The pipeline; without it all of them
    pipeline: Option<String>,
    #[command(flatten)]
    which: Which,
}

impl Top {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        let found = self.which.some(self.pipeline.as_deref())?;
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            // One table, with the rates of this very second.
            std::thread::sleep(EVERY);
            output::print(&tables(&self.which.some(self.pipeline.as_deref())?))?;
            return Ok(Exit::Done);
        }
        let cannot = |error| Error::io("cannot draw on the terminal", error);
        let mut terminal = ratatui::try_init().map_err(cannot)?;
        let mut screen = Screen::new(found, talk.colour());
        let watched = self.watch(&mut terminal, &mut screen);
        ratatui::restore();
        let last = watched?;
        last.into_iter().for_each(|words| talk.say(words));
        Ok(Exit::Done)
    }

    /// Until somebody quits, or nothing is left to watch.
    fn watch(&self, terminal: &mut ratatui::DefaultTerminal, screen: &mut Screen) -> Result<Option<&'static str>> {
        let cannot = |error| Error::io("cannot draw on the terminal", error);
        let (sender, news) = channel();
        let wishes = spawn(self, sender)?;
        let mut heard_at = Instant::now();
        terminal.draw(|frame| screen.draw(frame)).map_err(cannot)?;
        loop {
            let mut changed = false;
            if event::poll(LOOK_EVERY).map_err(cannot)? {
                match event::read().map_err(cannot)? {
                    Event::Key(key) if quits(&key) => return Ok(None),
                    Event::Key(key) if key.kind == KeyEventKind::Press => press(&key, screen, &wishes),
                    _ => {}
                }
                changed = true;
            }
            for new in news.try_iter() {
                match new {
                    News::Found(found) => {
                        (screen.found, heard_at) = (found?, Instant::now());
                        if screen.found.is_empty() {
                            return Ok(Some("nothing runs any more"));
                        }
                    }
                    News::Said(words) => screen.said = Some(words),
                    News::Quit => return Ok(None),
                }
                changed = true;
            }
            let quiet = Some(heard_at.elapsed()).filter(|quiet| *quiet > QUIET_MAX).map(|quiet| quiet.as_secs());
            changed |= screen.quiet_seconds != quiet;
            screen.quiet_seconds = quiet;
            if changed {
                terminal.draw(|frame| screen.draw(frame)).map_err(cannot)?;
            }
        }
    }
}

/// What other threads tell the one that draws: none of its keys waits for a process that does not answer.
enum News {
    /// How the pipelines get on.
    Found(Result<Vec<Found>>),
    /// The answer to a wish.
    Said(String),
    /// A signal came.
    Quit,
}

/// What is asked of a process.
struct Wish {
    process: Process,
    pipeline: String,
    ask: Ask,
}

/// Starts the threads that read figures, ask, and wait for signals and for the terminal's end. They end with the program.
fn spawn(top: &Top, news: Sender<News>) -> Result<Sender<Wish>> {
    let (which, pipeline, found) = (top.which.clone(), top.pipeline.clone(), news.clone());
    thread::spawn(move || {
        loop {
            thread::sleep(EVERY);
            let mut all = which.pipelines();
            if let Ok(all) = &mut all {
                all.retain(|found| pipeline.as_ref().is_none_or(|name| *name == found.report.name));
            }
            if found.send(News::Found(all)).is_err() {
                return;
            }
        }
    });
    let (wishes, wanted): (_, Receiver<Wish>) = channel();
    let answers = news.clone();
    thread::spawn(move || {
        let mut clients = Clients::default();
        for Wish { process, pipeline, ask } in wanted {
            let words = match clients.ask(&process, &ask) {
                Ok(answer) => format!("{pipeline}: {}", said(&ask, &answer)),
                Err(error) => format!("{pipeline}: {}", error.chain()),
            };
            let _ = answers.send(News::Said(words));
        }
    });
    thread::spawn(end_with_the_terminal);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| Error::io("cannot start the runtime", error))?;
    // From now on a signal ends it by way of the terminal's old state.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    thread::spawn(move || {
        runtime.block_on(signals.next());
        let _ = news.send(News::Quit);
    });
    Ok(wishes)
}

/// Ends the program when its terminal goes away. Mostly a SIGHUP does that, but it may be ignored, or be sent to others; and
/// crossterm, which then reads an end of input, tries again without a pause and never returns.
fn end_with_the_terminal() {
    let stdin = io::stdin();
    // Without events asked for, only an error or a hang-up is told. Some hang-ups wake only who waits for input: asked again.
    let mut polled = [PollFd::new(&stdin, PollFlags::empty())];
    let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
    while let Ok(0) = retry_on_intr(|| poll(&mut polled, Some(&limit))) {}
    std::process::exit(i32::from(Exit::Done.code()));
}

fn press(key: &KeyEvent, screen: &mut Screen, wishes: &Sender<Wish>) {
    match key.code {
        KeyCode::Up | KeyCode::Char('k') => screen.select(-1),
        KeyCode::Down | KeyCode::Tab | KeyCode::Char('j') => screen.select(1),
        _ => {
            let Some(Found { process, report }) = screen.selected().cloned() else { return };
            let pipeline = Some(report.name.clone());
            let ask = match (key.code, report.phase.as_str()) {
                (KeyCode::Char('p'), "paused") => Ask::Resume { pipeline },
                (KeyCode::Char('p'), _) => Ask::Pause { pipeline },
                (KeyCode::Char('c'), _) => Ask::Checkpoint { pipeline },
                _ => return,
            };
            screen.said = Some(format!("{}: asking", report.name));
            // The thread lives as long as we do.
            let _ = wishes.send(Wish { process, pipeline: report.name, ask });
        }
    }
}

fn said(ask: &Ask, answer: &serde_json::Value) -> String {
    match ask {
        Ask::Checkpoint { .. } => format!("epoch {} is committed", answer["epoch"]),
        Ask::Pause { .. } => "pausing".to_owned(),
        Ask::Resume { .. } => "going on".to_owned(),
        _ => "done".to_owned(),
    }
}

fn quits(key: &KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) || (control && key.code == KeyCode::Char('c'))
}

/// Connections to the processes, made when they are needed.
#[derive(Default)]
struct Clients(BTreeMap<u32, Client>);

impl Clients {
    fn ask(&mut self, process: &Process, ask: &Ask) -> Result<serde_json::Value> {
        let client = match self.0.entry(process.pid) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Client::connect(process)?),
        };
        let answer = client.ask(ask);
        if answer.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::Closed | ErrorKind::Timeout)) {
            self.0.remove(&process.pid);
        }
        answer
    }
}
