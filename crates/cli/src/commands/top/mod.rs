//! `millstream top [PIPELINE]`

mod screen;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use clap::Args;
use millstream::{
    core::{Error, ErrorKind, Result},
    observe::control::{Ask, Client, Process},
};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::screen::Screen;
use super::status::tables;
use crate::{
    asking::{Found, Which},
    exit::{Exit, Outcome},
    output,
    talk::Talk,
};

/// How often the figures are read.
const EVERY: Duration = Duration::from_secs(1);

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
        let mut clients = Clients::default();
        loop {
            terminal.draw(|frame| screen.draw(frame)).map_err(cannot)?;
            let next = Instant::now() + EVERY;
            while event::poll(next.saturating_duration_since(Instant::now())).map_err(cannot)? {
                let Event::Key(key) = event::read().map_err(cannot)? else { break };
                if quits(&key) {
                    return Ok(None);
                }
                if key.kind == KeyEventKind::Press {
                    self.press(&key, screen, &mut clients);
                    terminal.draw(|frame| screen.draw(frame)).map_err(cannot)?;
                }
            }
            screen.found = self.which.pipelines()?;
            screen.found.retain(|found| self.pipeline.as_ref().is_none_or(|name| *name == found.report.name));
            if screen.found.is_empty() {
                return Ok(Some("nothing runs any more"));
            }
        }
    }

    fn press(&self, key: &KeyEvent, screen: &mut Screen, clients: &mut Clients) {
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
                screen.said = Some(match clients.ask(&process, &ask) {
                    Ok(answer) => format!("{}: {}", report.name, said(&ask, &answer)),
                    Err(error) => format!("{}: {}", report.name, error.chain()),
                });
            }
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
