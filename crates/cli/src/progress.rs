//! Progress: a bar on a terminal, a line every 10 s in a pipe if wanted, nothing else.

mod gauge;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use millstream::runtime::{Handle, Phase, Status};

pub(crate) use gauge::{Gauge, watched};

use crate::{
    books::Books,
    count::{bytes, clock, per_second, thousands},
    story::Story,
    talk::{self, Talk},
};

/// How often a bar is drawn.
const BAR_EVERY: Duration = Duration::from_millis(200);
/// How often a line is written.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The rate is that of about this time.
const RATE_OVER: Duration = Duration::from_secs(3);
/// Characters of a bar whose end is known.
const BAR_WIDTH: usize = 24;

/// Shows how all pipelines of the process get on.
pub(crate) struct Progress {
    way: Way,
    lines: Vec<Line>,
}

enum Way {
    None,
    Lines,
    Bars(MultiProgress),
}

/// One pipeline.
struct Line {
    story: Story,
    handle: Handle,
    gauges: Vec<Arc<Gauge>>,
    bar: Option<ProgressBar>,
    rate: Rate,
    over: bool,
}

impl Progress {
    pub(crate) fn new(talk: &Talk, wanted: bool) -> Self {
        let way = match (talk.quiet, talk.terminal && wanted) {
            (true, _) => Way::None,
            (_, true) => {
                let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5));
                talk::above(Some(bars.clone()));
                Way::Bars(bars)
            }
            (_, false) if talk.progress_lines => Way::Lines,
            _ => Way::None,
        };
        Progress { way, lines: Vec::new() }
    }

    /// Whether anything is shown.
    pub(crate) fn shown(&self) -> bool {
        !matches!(self.way, Way::None)
    }

    pub(crate) fn add(&mut self, story: &Story, handle: Handle, gauges: Vec<Arc<Gauge>>) {
        // The template is a constant; one that cannot be read shows the default.
        let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = match &self.way {
            Way::Bars(bars) => Some(bars.add(ProgressBar::new_spinner().with_style(style))),
            _ => None,
        };
        self.lines.push(Line { story: story.clone(), handle, gauges, bar, rate: Rate::new(), over: false });
    }

    pub(crate) fn ended(&mut self, at: usize) {
        if let Some(line) = self.lines.get_mut(at) {
            line.over = true;
            if let Some(bar) = line.bar.take() {
                bar.finish_and_clear();
            }
        }
    }

    /// Waits until it is time, and shows how things are. Cancel-safe: called again it waits anew.
    pub(crate) async fn tick(&mut self) {
        let every = match self.way {
            Way::None => return std::future::pending().await,
            Way::Lines => LINE_EVERY,
            Way::Bars(_) => BAR_EVERY,
        };
        tokio::time::sleep(every).await;
        for line in self.lines.iter_mut().filter(|line| !line.over) {
            line.show();
        }
    }

    /// Takes the bars away.
    pub(crate) fn close(&mut self) {
        (0..self.lines.len()).for_each(|at| self.ended(at));
        talk::above(None);
    }
}

impl Line {
    fn show(&mut self) {
        let status = self.handle.status();
        let books = self.story.stages.books(&status.stages);
        let end = gauge::end(&self.gauges);
        self.rate.add(&books, end.map(|end| end.left));
        let text = self.text(&status, &books, end);
        let Some(bar) = &self.bar else { return talk::say_line(&text) };
        // One call, because each one draws.
        bar.set_message(end.and_then(|end| end.share()).map_or(text.clone(), |share| drawn(share) + &text));
    }

    /// `orders: 1,000 records, 10.0 KiB, 500/s, 2.0 KiB behind, 0:04 left`.
    fn text(&self, status: &Status, books: &Books, end: Option<gauge::End>) -> String {
        let mut text = format!(
            "{}: {} records, {}, {}/s",
            self.story.name,
            thousands(books.read),
            bytes(end.and_then(|end| end.bytes_read()).unwrap_or(books.read_bytes)),
            thousands(self.rate.records())
        );
        match end.map(|end| end.left) {
            Some(gauge::Left::Bytes(left)) => text.push_str(&format!(", {} behind", bytes(left))),
            Some(gauge::Left::Records(left)) => text.push_str(&format!(", {} behind", thousands(left))),
            None => {}
        }
        if let Some(time) = self.rate.time_left() {
            text.push_str(&format!(", {} left", clock(time)));
        }
        if books.dead > 0 {
            text.push_str(&format!(", {} dead", thousands(books.dead)));
        }
        match &status.phase {
            Phase::Opening => text.push_str(", opening"),
            Phase::Draining => text.push_str(", draining"),
            Phase::Restarting(cause) => text.push_str(&format!(", waiting to restart: {cause}")),
            _ => {}
        }
        let waiting = status.waiting.iter().next();
        waiting.into_iter().for_each(|(stage, what)| text.push_str(&format!(", {stage}: {what}")));
        self.story.hide(&text)
    }
}

/// Records per second of late, and how long the rest will take.
struct Rate {
    /// When, how many were read, and how much was left; the oldest is about `RATE_OVER` ago.
    seen: VecDeque<(Instant, u64, Option<u64>)>,
}

impl Rate {
    fn new() -> Self {
        Rate { seen: VecDeque::from([(Instant::now(), 0, None)]) }
    }

    fn add(&mut self, books: &Books, left: Option<gauge::Left>) {
        self.seen.push_back((Instant::now(), books.read, left.map(gauge::Left::number)));
        while self.seen.len() > 2 && self.seen.get(1).is_some_and(|(at, ..)| at.elapsed() > RATE_OVER) {
            self.seen.pop_front();
        }
    }

    fn records(&self) -> u64 {
        let (Some(old), Some(new)) = (self.seen.front(), self.seen.back()) else { return 0 };
        per_second(new.1.saturating_sub(old.1), new.0 - old.0)
    }

    fn time_left(&self) -> Option<Duration> {
        let new = self.seen.back()?;
        let old = self.seen.iter().find(|(.., left)| left.is_some())?;
        let (left, done) = (new.2?, old.2?.checked_sub(new.2?).filter(|done| *done > 0)?);
        Some((new.0 - old.0).mul_f64((left as f64 / done as f64).min(1e6)))
    }
}

/// `[=====>    ]  45% ` of a share from 0 to 1.
fn drawn(share: f64) -> String {
    let filled = (share * BAR_WIDTH as f64) as usize;
    let head = if filled < BAR_WIDTH { ">" } else { "" };
    format!("[{}{head:<1$}] {2:>3.0}% ", "=".repeat(filled), BAR_WIDTH - filled, share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_of_one_length() {
        assert_eq!(drawn(0.0), "[>                       ]   0% ");
        assert_eq!(drawn(0.5), "[============>           ]  50% ");
        assert_eq!(drawn(1.0), "[========================] 100% ");
    }
}
