//! Progress: a bar on a terminal, a line every 10 s in a pipe if wanted, nothing else.

mod gauge;

use std::{
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
/// Steps of a bar whose end is known.
const BAR_STEPS: u64 = 1000;

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
        let bar = match &self.way {
            Way::Bars(bars) => Some(bars.add(ProgressBar::new(BAR_STEPS).with_style(open_style()))),
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
        let text = self.text(&status, &books, end.map(|end| end.left));
        let Some(bar) = &self.bar else { return talk::say_line(&text) };
        if let Some(share) = end.and_then(|end| end.share()) {
            bar.set_style(bounded_style());
            bar.set_position((share * BAR_STEPS as f64) as u64);
        }
        bar.set_message(text);
        bar.tick();
    }

    /// `orders: 1,000 records, 10.0 KiB, 500/s, 2.0 KiB behind, 0:04 left`.
    fn text(&self, status: &Status, books: &Books, left: Option<gauge::Left>) -> String {
        let mut text = format!(
            "{}: {} records, {}, {}/s",
            self.story.name,
            thousands(books.read),
            bytes(books.read_bytes),
            thousands(self.rate.records)
        );
        match left {
            Some(gauge::Left::Bytes(left)) => text.push_str(&format!(", {} behind", bytes(left))),
            Some(gauge::Left::Records(left)) => text.push_str(&format!(", {} behind", thousands(left))),
            None => {}
        }
        if let Some(time) = self.rate.time_left {
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
    since: Instant,
    read: u64,
    left: Option<u64>,
    records: u64,
    time_left: Option<Duration>,
}

impl Rate {
    fn new() -> Self {
        Rate { since: Instant::now(), read: 0, left: None, records: 0, time_left: None }
    }

    fn add(&mut self, books: &Books, left: Option<gauge::Left>) {
        let left = left.map(gauge::Left::number);
        let time = self.since.elapsed();
        if self.records == 0 || time >= RATE_OVER {
            self.records = per_second(books.read.saturating_sub(self.read), time);
            let done = self.left.zip(left).and_then(|(before, now)| before.checked_sub(now)).filter(|done| *done > 0);
            self.time_left = done.zip(left).map(|(done, left)| time.mul_f64((left as f64 / done as f64).min(1e6)));
        }
        if time >= RATE_OVER || self.left.is_none() {
            (self.since, self.read, self.left) = (Instant::now(), books.read, left);
        }
    }
}

fn open_style() -> ProgressStyle {
    style("{spinner} {msg}")
}

fn bounded_style() -> ProgressStyle {
    style("[{bar:24}] {percent:>3}% {msg}")
}

/// The templates are constants; one that cannot be read shows the default bar.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
