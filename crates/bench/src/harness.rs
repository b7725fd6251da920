//! Measuring contenders in turns, and the table that comes of it.

use std::{
    fmt::Write as _,
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// Rounds in which contenders take turns.
pub(crate) const ROUNDS: usize = 5;

/// A group of rows.
pub(crate) struct Case {
    /// What filters are compared with.
    pub(crate) name: &'static str,
    /// Measures, and adds its rows.
    pub(crate) run: fn(&mut Table) -> Result<()>,
}

/// What is compared: runs once, and says how many units it has done.
pub(crate) struct Contender<'a> {
    name: String,
    prepare: Option<Box<dyn FnMut() -> Result<()> + 'a>>,
    run: Box<dyn FnMut() -> Result<u64> + 'a>,
}

impl<'a> Contender<'a> {
    /// A contender with a name for its figure.
    pub(crate) fn new(name: impl Into<String>, run: impl FnMut() -> Result<u64> + 'a) -> Self {
        Contender { name: name.into(), prepare: None, run: Box::new(run) }
    }

    /// Does something before each run that is not counted.
    pub(crate) fn after(mut self, prepare: impl FnMut() -> Result<()> + 'a) -> Self {
        self.prepare = Some(Box::new(prepare));
        self
    }
}

/// Units by second of one contender, round by round.
#[derive(Clone)]
pub(crate) struct Rates {
    /// The contender.
    pub(crate) name: String,
    /// By processor time.
    cpu: Vec<f64>,
    /// By the clock on the wall.
    wall: Vec<f64>,
}

impl Rates {
    /// The median, by processor time.
    pub(crate) fn median(&self) -> f64 {
        median(&self.cpu)
    }

    /// The median, by the clock on the wall.
    pub(crate) fn median_wall(&self) -> f64 {
        median(&self.wall)
    }

    /// The median of what each round says of us and them.
    pub(crate) fn ratio(&self, to: &Rates) -> f64 {
        ratio(&self.cpu, &to.cpu)
    }

    /// The same by the clock on the wall.
    pub(crate) fn ratio_wall(&self, to: &Rates) -> f64 {
        ratio(&self.wall, &to.wall)
    }
}

fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
}

/// The middle one; the mean of both where there are two.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => f64::NAN,
        all if all.len() % 2 == 1 => all[all.len() / 2],
        all => f64::midpoint(all[all.len() / 2 - 1], all[all.len() / 2]),
    }
}

/// Lets contenders take turns. A first turn of each warms up and is not counted.
///
/// With `MILLSTREAM_BENCH_ONLY` only those whose name has it as a part: for a profiler.
pub(crate) fn compete(rounds: usize, mut contenders: Vec<Contender<'_>>) -> Result<Vec<Rates>> {
    let mut rates: Vec<Rates> = contenders
        .iter()
        .map(|contender| Rates { name: contender.name.clone(), cpu: Vec::new(), wall: Vec::new() })
        .collect();
    let only = std::env::var("MILLSTREAM_BENCH_ONLY").ok();
    for round in 0..=rounds {
        for (contender, rates) in contenders.iter_mut().zip(&mut rates) {
            if only.as_ref().is_some_and(|only| !contender.name.contains(only.as_str())) {
                continue;
            }
            if let Some(prepare) = &mut contender.prepare {
                prepare().with_context(|| format!("`{}` could not be prepared", contender.name))?;
            }
            let (wall, cpu) = (Instant::now(), cpu_time()?);
            let units = (contender.run)().with_context(|| format!("`{}` did not work", contender.name))? as f64;
            let (wall, cpu) = (wall.elapsed(), cpu_time()?.saturating_sub(cpu));
            if round > 0 {
                rates.wall.push(units / wall.as_secs_f64());
                rates.cpu.push(units / cpu.as_secs_f64());
            }
        }
    }
    Ok(rates)
}

/// Processor time of this process and of the children that it has waited for.
fn cpu_time() -> Result<Duration> {
    let own = clock_gettime(ClockId::ProcessCPUTime);
    let own = Duration::new(own.tv_sec.try_into()?, own.tv_nsec.try_into()?);
    // Fields 16 and 17: user and system time of children, in hundredths of a second; the name before may hold blanks.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(own + Duration::from_millis(ticks * 10))
}

/// The cores that this process may use, as it was started.
static CORES: OnceLock<CpuSet> = OnceLock::new();

/// Keeps this process, and what it starts, to one core: the last that it may use.
pub(crate) fn keep_to_one_core() -> Result<()> {
    let allowed = sched_getaffinity(None).context("cannot tell which cores may be used")?;
    let allowed = CORES.get_or_init(|| allowed);
    let last = (0..CpuSet::MAX_CPU).rev().find(|core| allowed.is_set(*core)).context("there is no core")?;
    let mut one = CpuSet::new();
    one.set(last);
    sched_setaffinity(None, &one).context("cannot keep to one core")
}

/// Lets this thread, and what it starts meanwhile, use all cores: for a case with a server.
pub(crate) fn on_all_cores(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let kept = sched_getaffinity(None).context("cannot tell which cores may be used")?;
    if let Some(all) = CORES.get() {
        sched_setaffinity(None, all).context("cannot use all cores")?;
    }
    let done = work();
    sched_setaffinity(None, &kept).context("cannot keep to one core")?;
    done
}

/// What a row must reach.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// At least so much.
    AtLeast(f64),
    /// Less than so much.
    Below(f64),
}

struct Row {
    case: String,
    ours: String,
    other: String,
    ratio: String,
    target: String,
    verdict: &'static str,
}

/// The rows so far.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    /// A comparison of two rates.
    pub(crate) fn ratio(&mut self, case: &str, ours: &Rates, other: &Rates, target: f64) {
        let figures = (rate(ours.median()), format!("{} {}", rate(other.median()), other.name));
        self.row(case, figures, ours.ratio(other), "", Target::AtLeast(target));
    }

    /// A rate that must be reached by itself.
    pub(crate) fn rate(&mut self, case: &str, ours: &Rates, target: f64) {
        self.row(case, (rate(ours.median()), String::new()), ours.median() / target, "", Target::AtLeast(1.0));
        if let Some(row) = self.0.last_mut() {
            (row.ratio, row.target) = (String::new(), format!(">= {}", rate(target)));
        }
    }

    /// A figure that must stay below a limit.
    pub(crate) fn below(&mut self, case: &str, ours: f64, unit: &str, limit: f64) {
        self.row(case, (format!("{ours:.2}{unit}"), String::new()), ours, unit, Target::Below(limit));
        if let Some(row) = self.0.last_mut() {
            row.ratio = String::new();
        }
    }

    /// Any row: the figures of both sides, and what their comparison came to.
    pub(crate) fn row(&mut self, case: &str, figures: (String, String), reached: f64, unit: &str, target: Target) {
        let (target, met) = match target {
            Target::AtLeast(least) => (format!(">= {least}{unit}"), reached >= least),
            Target::Below(limit) => (format!("< {limit}{unit}"), reached < limit),
        };
        let verdict = if met { "met" } else { "MISSED" };
        let (ours, other) = figures;
        let row = Row { case: case.to_owned(), ours, other, ratio: format!("{reached:.2}{unit}"), target, verdict };
        eprintln!("  {} | {} | {} | {} | {} | {}", row.case, row.ours, row.other, row.ratio, row.target, row.verdict);
        self.0.push(row);
    }

    /// A comparison without a target.
    pub(crate) fn told(&mut self, case: &str, figures: (String, String), reached: f64) {
        let (ours, other) = figures;
        eprintln!("  {case} | {ours} | {other} | {reached:.2}");
        let (ratio, target) = (format!("{reached:.2}"), String::new());
        self.0.push(Row { case: case.to_owned(), ours, other, ratio, target, verdict: "" });
    }

    /// A case that could not be measured.
    pub(crate) fn failed(&mut self, case: &str, error: &anyhow::Error) {
        eprintln!("  {case}: {error:#}");
        let (ours, other, ratio, target) = ("-".to_owned(), format!("{error:#}"), String::new(), String::new());
        self.0.push(Row { case: case.to_owned(), ours, other, ratio, target, verdict: "FAILED" });
    }

    /// A case, or a part of it, that cannot be measured on this machine.
    pub(crate) fn skipped(&mut self, case: &str, why: &dyn std::fmt::Display) {
        eprintln!("  {case}: skipped: {why}");
        let (ours, ratio, target) = ("-".to_owned(), String::new(), String::new());
        let other = format!("skipped: {why}");
        self.0.push(Row { case: case.to_owned(), ours, other, ratio, target, verdict: "skipped" });
    }

    /// Prints all rows, aligned.
    pub(crate) fn print(&self) {
        let head = ["case", "ours", "peer or limit", "ratio", "target", ""].map(str::to_owned);
        let rows = self.0.iter().map(|row| {
            let Row { case, ours, other, ratio, target, verdict } = row;
            [case.clone(), ours.clone(), other.clone(), ratio.clone(), target.clone(), (*verdict).to_owned()]
        });
        let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
        let widths: Vec<usize> =
            (0..6).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
        println!();
        for row in rows {
            let mut line = String::new();
            for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Figures stand right, words left.
                let _ =
                    if matches!(i, 1 | 3) { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:width$}  ") };
            }
            println!("{}", line.trim_end());
        }
    }
}

/// A rate with three digits.
pub(crate) fn rate(units: f64) -> String {
    let (scaled, unit) = match units {
        _ if units >= 1e6 => (units / 1e6, " M/s"),
        _ if units >= 1e3 => (units / 1e3, " k/s"),
        _ => (units, " /s"),
    };
    let digits = if scaled >= 100.0 { 0 } else { 1 + usize::from(scaled < 10.0) };
    format!("{scaled:.digits$}{unit}")
}
