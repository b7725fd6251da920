//! `millstream tap [PIPELINE.]STEP[.in|.out]`

use std::time::{Duration, Instant};

use clap::Args;
use millstream::{
    core::{BatchBuilder, Error, ErrorKind, Result, suggest},
    observe::{
        PipelineReport,
        control::{Ask, Client, LeftOut, Process, Sight},
    },
};
use millstream_codec::print::{Printer, read_record};

use super::consume::Printing;
use crate::{
    asking::{Found, Which},
    count::thousands,
    exit::{Exit, Failure, Outcome},
    output::Output,
    stream::{place, readable},
    talk::Talk,
};

/// How often it is said how much is left out.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Print the records that pass a point of a running pipeline, without slowing it down.
#[derive(Debug, Args)]
pub(crate) struct Tap {
    /// What comes to a stage (`STEP.in`), or what it gives (`STEP` or `STEP.out`); `PIPELINE.STEP` where several run
    #[arg(value_name = "[PIPELINE.]STEP[.in|.out]")]
    point: String,
    /// Print only records for which this VRL expression is true
    #[arg(long, value_name = "VRL")]
    r#where: Option<String>,
    /// Stop after N records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print at most so many records a second; others are left out
    #[arg(long, value_name = "N/s", default_value = "1000/s", value_parser = |text: &str| rate(text).map_err(readable))]
    rate: u64,
    #[command(flatten)]
    printing: Printing,
    #[command(flatten)]
    which: Which,
}

impl Tap {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        let all = self.which.some(None)?;
        let (process, pipeline, point) = find(&all, &self.point)?;
        let mut client = Client::connect(&process)?;
        let (r#where, count, rate) = (self.r#where.clone(), self.count, self.rate);
        let ask = Ask::Tap { pipeline: Some(pipeline), point, r#where, count, rate };
        client.tap(&ask).map_err(|error| match error.place().and_then(|place| place.span) {
            Some(_) => place(error.within("--where"), &[("--where", self.r#where.unwrap_or_default())]),
            None => error,
        })?;
        let printer = self.printing.printer();
        let mut told = Told { at: Instant::now(), what: LeftOut::default() };
        let mut newest = LeftOut::default();
        let ended = loop {
            match client.see() {
                Ok(Some(Sight::Record(record))) => print(&printer, &record)?,
                Ok(Some(Sight::LeftOut(left_out))) => {
                    newest = left_out;
                    // An expression that fails is shown at once, and then now and again.
                    let fails = newest.failed > 0 && told.what.failed == 0;
                    if fails || told.at.elapsed() >= TOLD_EVERY {
                        told.tell(talk, &newest);
                    }
                }
                Ok(None) => break Ok(Exit::Done),
                // The process has ended, and the tap with it.
                Err(error) if error.kind() == ErrorKind::Closed => break Ok(Exit::Done),
                Err(error) => break Err(error.into()),
            }
        };
        told.tell(talk, &newest);
        ended
    }
}

/// What has been said of what is left out.
struct Told {
    at: Instant,
    what: LeftOut,
}

impl Told {
    fn tell(&mut self, talk: &Talk, now: &LeftOut) {
        if now.records > self.what.records {
            talk.say(&format!("{} records were left out", thousands(now.records)));
        }
        if now.failed > self.what.failed {
            let why = now.failure.as_deref().unwrap_or_default();
            talk.warn(&format!("--where failed for {} records: {why}", thousands(now.failed)));
        }
        (self.at, self.what) = (Instant::now(), now.clone());
    }
}

/// `100` or `100/s`.
fn rate(text: &str) -> Result<u64> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number.parse().ok().filter(|rate| *rate > 0).ok_or_else(|| {
        Error::new(ErrorKind::Option, format!("`{text}` is no rate")).hint("write the records of a second, as `100/s`")
    })
}

/// The pipeline that has a point, and what the point is called in it.
fn find(all: &[Found], point: &str) -> Result<(Process, String, String)> {
    let mut matches = all.iter().filter_map(|found| {
        let inner = point.strip_prefix(found.report.name.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let inner =
            inner.filter(|inner| has(&found.report, inner)).or_else(|| has(&found.report, point).then_some(point))?;
        Some((found, inner.to_owned()))
    });
    let Some((found, inner)) = matches.next() else {
        let points = all.iter().flat_map(|found| {
            let stages = found.report.stages.iter().filter(|stage| !stage.role.is_empty());
            stages.flat_map(|stage| [stage.name.clone(), format!("{}.{}", found.report.name, stage.name)])
        });
        let points: Vec<String> = points.collect();
        let error = Error::new(ErrorKind::NotFound, format!("no running pipeline has a point `{point}`"));
        return Err(suggest(point, &points).into_iter().fold(error, |error, hint| error.hint(hint)));
    };
    if let Some((other, _)) = matches.next() {
        let (one, other) = (&found.report.name, &other.report.name);
        let message = format!("`{point}` is a point of several pipelines: {one}, {other}");
        return Err(Error::new(ErrorKind::Option, message)
            .hint(format!("write `{one}.{inner}`, or choose a process with --pid")));
    }
    Ok((found.process.clone(), found.report.name.clone(), inner))
}

fn has(report: &PipelineReport, point: &str) -> bool {
    let named = |name: &str| report.stages.iter().any(|stage| stage.name == name && !stage.role.is_empty());
    named(point) || point.rsplit_once('.').is_some_and(|(name, side)| matches!(side, "in" | "out") && named(name))
}

/// Prints a record, and shows it at once.
fn print(printer: &Printer, record: &str) -> Result<(), Failure> {
    let mut builder = BatchBuilder::new();
    builder.push(&read_record(record.as_bytes(), "tap")?);
    let mut line = Vec::new();
    for record in builder.finish().iter() {
        printer.print(&record, &mut line)?;
    }
    let mut output = Output::new();
    output.write(&line)?;
    output.finish()
}
