//! Which stage limits a pipeline, in words.
//!
//! A stage that waits for room behind it is held up by somebody further down; one that waits for input is not the limit
//! either. So the limit is the one that the last stage that is held up waits for, or the busiest of those that share its
//! task: it need not be busy, for it may wait for a service. If none is held up, it is the source, unless a stage works nearly
//! all the time.

use std::collections::BTreeSet;

use crate::report::{PipelineReport, StageReport};

/// A stage is held up if it waits for room for this share of its time.
const BLOCKED_MIN: f64 = 0.2;
/// A queue that is so full holds up who fills it, or is about to.
const FILL_MIN: f64 = 0.75;
/// A stage that works for this share of its time is as fast as it can be.
const BUSY_MIN: f64 = 0.85;

/// The kind of the step that keeps the rate limit of a stage, and is called `STAGE.rate_limit`.
const RATE_LIMIT: &str = "rate_limit";

/// What limits a pipeline. Its `Display` is a sentence for people. Shares are from 0 to 1, of the time of each worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Bottleneck {
    /// It does not run.
    Phase {
        /// What it does instead.
        phase: String,
        /// Why, where that is known.
        cause: Option<String>,
    },
    /// A stage waits for something outside, and nothing moves.
    Waiting {
        /// The stage.
        name: String,
        /// What it does about it.
        what: String,
    },
    /// A buffer on disk has no room, and all before it waits.
    Buffer {
        /// The sink behind the buffer.
        sink: String,
        /// Why there is no room.
        why: String,
    },
    /// There is nothing to do.
    Idle,
    /// A stage holds up all before it.
    Stage {
        /// The stage.
        name: String,
        /// `source`, `step` or `sink`.
        role: String,
        /// Share of its time in which it works.
        busy: f64,
        /// Several workers may do its work.
        scales: bool,
        /// How many do.
        workers: u32,
    },
    /// A rate limit holds up all before it.
    RateLimit {
        /// The stage whose limit it is.
        name: String,
    },
    /// A stage is as fast as it can be, and holds up nobody yet.
    Nearly {
        /// The stage.
        name: String,
        /// Share of its time in which it works.
        busy: f64,
    },
    /// Nobody is held up.
    Source {
        /// The sources.
        names: Vec<String>,
        /// What they give, in records a second.
        rate: f64,
        /// The busiest stage, and the share of its time in which it works.
        busiest: Option<(String, f64)>,
    },
}

/// Finds what limits a pipeline, from its figures.
pub fn find(report: &PipelineReport) -> Bottleneck {
    if !matches!(report.phase.as_str(), "running" | "draining") {
        return Bottleneck::Phase { phase: report.phase.clone(), cause: report.cause.clone() };
    }
    if let Some(buffer) = report.buffers.iter().find(|buffer| buffer.waiting_seconds.is_some()) {
        let why = buffer.waiting.clone().unwrap_or_else(|| format!("the buffer of `{}` is full", buffer.sink));
        return Bottleneck::Buffer { sink: buffer.sink.clone(), why };
    }
    let stages: Vec<&StageReport> = report.stages.iter().filter(|stage| !stage.role.is_empty()).collect();
    let moves = |stage: &&StageReport| stage.rates.records_in > 0.0 || stage.rates.records_out > 0.0;
    let sinks = || stages.iter().filter(|stage| stage.role == "sink");
    let still = !sinks().any(|sink| sink.rates.records_out > 0.0);
    if let Some(stage) = stages.iter().find(|stage| still && stage.waiting.is_some()) {
        return Bottleneck::Waiting { name: stage.name.clone(), what: stage.waiting.clone().unwrap_or_default() };
    }
    let held: Vec<usize> = (0..stages.len()).filter(|&at| is_held_up(&stages, at)).collect();
    if !held.is_empty() {
        let limits = behind_the_last(&stages, &held);
        let stage = |at: &usize| stages.get(*at).copied();
        let waits_for = |at: &usize| held.iter().any(|&held| readers(&stages, held).any(|reader| reader == *at));
        // A limit works for next to no time.
        let mut waited_for = limits.iter().filter(|at| waits_for(at)).filter_map(stage);
        let limit = waited_for.find(|stage| stage.kind == RATE_LIMIT);
        let busiest = || limits.iter().filter_map(stage).max_by(|a, b| a.shares.busy.total_cmp(&b.shares.busy));
        let most = limit.or_else(busiest);
        if let Some(stage) = most {
            let StageReport { name, role, scales, workers, kind, .. } = stage.clone();
            if kind == RATE_LIMIT {
                return Bottleneck::RateLimit { name: name.strip_suffix(".rate_limit").unwrap_or(&name).to_owned() };
            }
            return Bottleneck::Stage { name, role, busy: stage.shares.busy, scales, workers };
        }
    }
    if !stages.iter().any(moves) {
        return Bottleneck::Idle;
    }
    let busiest = stages.iter().max_by(|a, b| a.shares.busy.total_cmp(&b.shares.busy));
    let busiest = busiest.map(|stage| (stage.name.clone(), stage.shares.busy)).filter(|(_, busy)| *busy > 0.0);
    if let Some((name, busy)) = busiest.clone().filter(|(_, busy)| *busy >= BUSY_MIN) {
        return Bottleneck::Nearly { name, busy };
    }
    let sources = || stages.iter().filter(|stage| stage.role == "source");
    Bottleneck::Source {
        names: sources().map(|stage| stage.name.clone()).collect(),
        rate: sources().map(|stage| stage.rates.records_in).sum(),
        busiest,
    }
}

/// It waits for room, or fills a queue that is nearly full.
fn is_held_up(stages: &[&StageReport], at: usize) -> bool {
    let Some(stage) = stages.get(at) else { return false };
    let fills = |reader: usize| {
        let queue = stages.get(reader).and_then(|reader| reader.queue);
        queue.is_some_and(|queue| queue.fill() >= FILL_MIN)
    };
    stage.shares.blocked >= BLOCKED_MIN || readers(stages, at).any(fills)
}

/// The stages that read what a stage gives.
fn readers<'a>(stages: &'a [&StageReport], at: usize) -> impl Iterator<Item = usize> + 'a {
    let name = stages.get(at).map_or("", |stage| stage.name.as_str());
    let output = move |from: &str| {
        let rest = from.strip_prefix(name)?;
        // `STAGE.rate_limit` is a stage of its own, and no output.
        Some(rest.is_empty() || (rest.starts_with('.') && stages.iter().all(|stage| stage.name != from)))
    };
    let reads = move |reader: &&StageReport| reader.reads.iter().any(|from| output(from) == Some(true));
    stages.iter().enumerate().filter(move |(_, reader)| reads(reader)).map(|(at, _)| at)
}

/// The stages behind those that are held up, without those that have another one of these behind them.
fn behind_the_last(stages: &[&StageReport], held: &[usize]) -> Vec<usize> {
    let last: Vec<usize> =
        held.iter().copied().filter(|&at| !behind(stages, at).iter().any(|other| held.contains(other))).collect();
    let mut found: Vec<usize> = last.into_iter().flat_map(|at| waited_for(stages, at)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The readers of a stage, and those that share their tasks: these have no queues of their own.
fn waited_for(stages: &[&StageReport], at: usize) -> BTreeSet<usize> {
    let mut found: BTreeSet<usize> = readers(stages, at).collect();
    let mut next: Vec<usize> = found.iter().copied().collect();
    while let Some(at) = next.pop() {
        let shares = |reader: &usize| stages.get(*reader).is_some_and(|stage| stage.queue.is_none());
        next.extend(readers(stages, at).filter(shares).filter(|reader| found.insert(*reader)));
    }
    found
}

/// All stages that a stage's records come to.
fn behind(stages: &[&StageReport], at: usize) -> BTreeSet<usize> {
    let (mut found, mut next) = (BTreeSet::new(), vec![at]);
    while let Some(at) = next.pop() {
        next.extend(readers(stages, at).filter(|reader| found.insert(*reader)));
    }
    found
}

impl std::fmt::Display for Bottleneck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |share: f64| (share * 100.0).round();
        match self {
            Bottleneck::Phase { phase, cause: None } => write!(f, "it does not run: {phase}"),
            Bottleneck::Phase { phase, cause: Some(cause) } => write!(f, "it does not run: {phase}: {cause}"),
            Bottleneck::Waiting { name, what } => write!(f, "nothing moves: `{name}` is {what}"),
            Bottleneck::Buffer { why, .. } => write!(f, "everything waits: {why}"),
            Bottleneck::Idle => f.write_str("nothing to do: no record has come of late"),
            Bottleneck::Stage { name, role, busy, scales, workers } if *busy >= BUSY_MIN => {
                let who = match workers {
                    0 | 1 => format!("`{name}` is"),
                    workers => format!("all {workers} workers of `{name}` are"),
                };
                let advice = match (role.as_str(), scales) {
                    ("sink", _) => "write larger batches, or give the system it writes to more room",
                    (_, true) => "give it more concurrency",
                    (_, false) => "make it cheaper: it has one worker and cannot have more",
                };
                let share = percent(*busy);
                write!(f, "{who} busy {share} % of the time and everything before it waits for it: {advice}")
            }
            Bottleneck::Stage { name, role, busy, .. } => {
                let waits = match role.as_str() {
                    "sink" => "it waits for the system that it writes to",
                    _ => "it waits, or others of its chain do",
                };
                let share = percent(*busy);
                write!(
                    f,
                    "`{name}` holds up everything before it, though it is busy only {share} % of the time: {waits}"
                )
            }
            Bottleneck::RateLimit { name } => {
                write!(f, "`{name}` is held to its rate limit, and everything before it waits for it")
            }
            Bottleneck::Nearly { name, busy } => {
                write!(f, "`{name}` is busy {} % of the time, and still keeps up", percent(*busy))
            }
            Bottleneck::Source { names, rate, busiest } => {
                let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                let verb = if names.len() == 1 { "gives" } else { "give" };
                write!(f, "nothing holds it up: {} {verb} {:.0} records/s", names.join(" and "), rate)?;
                match busiest {
                    Some((name, busy)) => {
                        write!(f, ", and the busiest stage, `{name}`, works {} % of the time", percent(*busy))
                    }
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
