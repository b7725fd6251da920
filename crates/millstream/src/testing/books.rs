//! The books of a test: what came in and what became of it, at every stage.

use std::{collections::BTreeMap, fmt, ops::Deref};

use millstream_core::{DeadLetter, Error, ErrorKind, Result};
use millstream_runtime::{Graph, StageFigures, Summary};

use super::records::Records;

/// What a test has come to: the summary of the run, what each sink was given, and the dead letters.
#[derive(Clone, Debug)]
pub struct Books {
    pub(super) summary: Summary,
    pub(super) sinks: BTreeMap<String, Records>,
    pub(super) letters: Vec<DeadLetter>,
    pub(super) table: Table,
}

impl Books {
    /// What a sink was given; nothing for one that was not swapped.
    pub fn delivered(&self, sink: &str) -> Records {
        self.sinks.get(sink).cloned().unwrap_or_else(|| Records::new(sink, Vec::new()))
    }

    /// The dead letters, in the order in which records were given up.
    pub fn dead_letters(&self) -> &[DeadLetter] {
        &self.letters
    }

    /// The figures of a stage; nothing but zeros for one that does not exist.
    pub fn stage(&self, stage: &str) -> StageFigures {
        self.summary.stages.get(stage).copied().unwrap_or_default()
    }

    /// The summary of the run.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The books of each stage as an aligned table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Every record that came to a stage has left it or come to an end there, and none waits.
    pub(super) fn check(&self) -> Result<()> {
        let unbalanced = self.table.rows.iter().find(|(_, stage)| stage.in_flight() != 0);
        if let Some((name, stage)) = unbalanced {
            let what =
                format!("the books of `{name}` do not balance: {} records are unaccounted for", stage.in_flight());
            return Err(Error::new(ErrorKind::Bug, format!("{what}\n{}", self.table)));
        }
        let waiting = self.table.parked();
        if waiting.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Interrupted, format!("{}\n{}", still_waiting(&waiting), self.table)))
    }
}

impl Deref for Books {
    type Target = Summary;

    fn deref(&self) -> &Summary {
        &self.summary
    }
}

pub(super) fn still_waiting(waiting: &[(String, u64)]) -> String {
    let stages: Vec<_> = waiting.iter().map(|(stage, many)| format!("{many} at `{stage}`")).collect();
    format!("records still wait for another try, or for others: {}", stages.join(", "))
}

/// The books of each stage, in the order of the pipeline.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<(String, StageFigures)>,
}

/// A column of the table; those after the first two are left out where they are all zero.
type Column = (&'static str, fn(&StageFigures) -> i64);

const COLUMNS: [Column; 11] = [
    ("in", |stage| stage.records_in as i64),
    ("out", |stage| stage.records_out as i64),
    ("created", |stage| stage.created as i64),
    ("absorbed", |stage| stage.absorbed as i64),
    ("filtered", |stage| stage.filtered as i64),
    ("dropped", |stage| stage.dropped as i64),
    ("dead", |stage| stage.dead as i64),
    ("returned", |stage| stage.returned as i64),
    ("parked", |stage| stage.parked as i64),
    ("in flight", StageFigures::in_flight),
    ("failures", |stage| stage.failures as i64),
];

impl Table {
    pub(super) fn new(graph: &Graph, figures: &BTreeMap<String, StageFigures>) -> Self {
        let named = graph.stages.iter().map(|stage| stage.name.as_str());
        let others = figures.keys().map(String::as_str);
        let others = others.filter(|name| graph.stages.iter().all(|stage| stage.name != *name));
        let rows = named.chain(others).filter_map(|name| Some((name.to_owned(), *figures.get(name)?)));
        Table { rows: rows.collect() }
    }

    /// Stages that keep records for later, with how many: those that are parked, and those in its state of which nothing has
    /// come yet.
    pub(super) fn kept(&self) -> Vec<(String, u64)> {
        let kept = |stage: &StageFigures| stage.parked + stage.absorbed.saturating_sub(stage.created);
        let stages = self.rows.iter().map(|(name, stage)| (name.clone(), kept(stage)));
        stages.filter(|(_, kept)| *kept > 0).collect()
    }

    /// Stages with parked records, with how many.
    pub(super) fn parked(&self) -> Vec<(String, u64)> {
        let parked = self.rows.iter().filter(|(_, stage)| stage.parked > 0);
        parked.map(|(name, stage)| (name.clone(), stage.parked)).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |(nth, (_, of)): &(usize, &Column)| *nth < 2 || self.rows.iter().any(|(_, stage)| of(stage) != 0);
        let columns: Vec<&Column> = COLUMNS.iter().enumerate().filter(told).map(|(_, column)| column).collect();
        let names = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max("stage".len());
        write!(f, "{:names$}", "stage")?;
        let width = |(title, of): &Column| {
            let digits = self.rows.iter().map(|(_, stage)| of(stage).to_string().len()).max().unwrap_or(0);
            digits.max(title.len())
        };
        let widths: Vec<usize> = columns.iter().map(|column| width(column)).collect();
        for ((title, _), width) in columns.iter().zip(&widths) {
            write!(f, "  {title:>width$}")?;
        }
        for (name, stage) in &self.rows {
            write!(f, "\n{name:names$}")?;
            for ((_, of), width) in columns.iter().zip(&widths) {
                write!(f, "  {:>width$}", of(stage))?;
            }
        }
        Ok(())
    }
}
