//! Showing the records that pass a point, without slowing anybody down.
//!
//! The pipeline does not wait for a tap; what the tap has no time for is left out and counted. And the tap takes little of
//! the machine that it shares with the pipeline: it rests three times as long as it works.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_codec::print::{Format, Printer};
use millstream_core::{Batch, Error, ErrorKind, Output, PlanContext, Planner, Registry, Result, Role, Step, Transform};
use millstream_runtime::Tap;
use serde_json::json;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::protocol::{LeftOut, VERSION};
use crate::observer::{Hide, Observed};

/// How often it is told what is left out.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// It rests when it has worked for so long,
const WORK_MAX: Duration = Duration::from_millis(2);
/// for so many times as long.
const REST: u32 = 3;
/// A longer record is left out: people read these lines.
const RECORD_BYTES_MAX: usize = 4 << 20;

/// One tap and where it stands.
pub(super) struct Tapping {
    id: u64,
    tap: Tap,
    filter: Option<Box<dyn Transform>>,
    hide: Arc<Hide>,
    left: u64,
    rate: u64,
    /// The second that runs, and what may still be shown in it.
    second: Instant,
    budget: u64,
    worked: Duration,
    beyond: LeftOut,
    told: (Instant, LeftOut),
}

/// What is wanted of a tap.
pub(super) struct Wanted {
    pub(super) point: String,
    pub(super) r#where: Option<String>,
    pub(super) count: Option<u64>,
    pub(super) rate: u64,
}

impl Tapping {
    pub(super) fn open(id: u64, observed: &Observed, registry: &Registry, wanted: &Wanted) -> Result<Self> {
        if wanted.rate == 0 {
            return Err(Error::new(ErrorKind::Option, "a tap shows at least one record a second"));
        }
        let filter = match &wanted.r#where {
            None => None,
            Some(expression) => Some(filter(registry, expression, observed, &wanted.point)?),
        };
        let tap = observed.handle.tap(&wanted.point)?;
        let now = Instant::now();
        Ok(Tapping {
            id,
            tap,
            filter,
            hide: observed.hide.clone(),
            left: wanted.count.unwrap_or(u64::MAX),
            rate: wanted.rate,
            second: now,
            budget: wanted.rate,
            worked: Duration::ZERO,
            beyond: LeftOut::default(),
            told: (now, LeftOut::default()),
        })
    }

    /// Writes that it is open, and then what passes, until the pipeline is over or enough has been shown.
    pub(super) async fn run(&mut self, writer: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        self.write(LeftOut::default(), writer).await?;
        while self.left > 0 {
            let Some(batch) = self.tap.next().await else { break };
            let since = Instant::now();
            let lines = self.show(batch, since);
            self.worked += since.elapsed();
            if !lines.is_empty() {
                writer.write_all(&lines).await?;
            }
            self.tell(writer, TOLD_EVERY).await?;
            if self.worked > WORK_MAX {
                tokio::time::sleep(std::mem::take(&mut self.worked) * REST).await;
            }
        }
        self.tell(writer, Duration::ZERO).await
    }

    /// The lines of a batch, as far as they may be shown.
    fn show(&mut self, batch: Batch, now: Instant) -> Vec<u8> {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.budget) = (now, self.rate);
        }
        if self.budget == 0 {
            // Whether they would have been wanted is not worth the time.
            self.beyond.records += batch.len() as u64;
            return Vec::new();
        }
        let mut lines = Vec::new();
        for batch in self.wanted(batch) {
            let most = self.budget.min(self.left).min(batch.len() as u64);
            // Not longer than the batch.
            let shown = batch.slice(0, most as usize).into_bytes();
            (self.budget, self.left) = (self.budget - most, self.left - most);
            if self.left > 0 {
                self.beyond.records += batch.len() as u64 - most;
            }
            shown.iter().for_each(|record| self.line(&record, &mut lines));
        }
        lines
    }

    fn wanted(&mut self, batch: Batch) -> Vec<Batch> {
        let Some(filter) = &mut self.filter else { return vec![batch] };
        let mut out = Output::default();
        filter.apply(batch, &mut out);
        let failed = out.take_failed();
        self.beyond.failed += failed.len() as u64;
        if self.beyond.failure.is_none() {
            self.beyond.failure = failed.first().map(|failed| (self.hide)(&failed.error.chain()));
        }
        out.take_batches().into_iter().map(|(_, batch)| batch).collect()
    }

    fn line(&mut self, record: &millstream_core::RecordRef<'_>, lines: &mut Vec<u8>) {
        let start = lines.len();
        lines.extend_from_slice(format!("{{\"v\":{VERSION},\"id\":{},\"record\":", self.id).as_bytes());
        let printer = Printer { format: Format::Ndjson, ..Printer::default() };
        match printer.print(record, lines) {
            Ok(()) if lines.len() - start <= RECORD_BYTES_MAX => {
                // Behind the record stands a line feed.
                lines.pop();
                lines.extend_from_slice(b"}\n");
            }
            _ => {
                lines.truncate(start);
                self.beyond.records += 1;
            }
        }
    }

    /// Tells what has been left out, if that is news and long enough ago.
    async fn tell(&mut self, writer: &mut (impl AsyncWrite + Unpin), every: Duration) -> std::io::Result<()> {
        if self.told.0.elapsed() < every {
            return Ok(());
        }
        let left_out = LeftOut { records: self.beyond.records + self.tap.missed(), ..self.beyond.clone() };
        if left_out == self.told.1 {
            return Ok(());
        }
        self.write(left_out, writer).await
    }

    async fn write(&mut self, left_out: LeftOut, writer: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        let line = json!({ "v": VERSION, "id": self.id, "left_out": &left_out }).to_string() + "\n";
        self.told = (Instant::now(), left_out);
        writer.write_all(line.as_bytes()).await
    }
}

/// The step `filter` with this expression, for the values that pass a point. An error has its place in the expression.
fn filter(registry: &Registry, expression: &str, observed: &Observed, point: &str) -> Result<Box<dyn Transform>> {
    let Planner::Step(plan) = registry.get(Role::Step, "filter")?.planner else {
        return Err(Error::new(ErrorKind::Bug, "`filter` is no step"));
    };
    let named = |name: &str| observed.shape.stages.iter().find(|stage| stage.name == name);
    let stage = named(point).or_else(|| named(point.rsplit_once('.').map_or(point, |(name, _)| name)));
    let read = stage
        .and_then(|stage| stage.reads.first())
        .and_then(|from| named(from).or_else(|| named(from.rsplit_once('.').map_or(from.as_str(), |(name, _)| name))));
    let inner = stage.is_some_and(|stage| stage.role == Role::Sink || (stage.name != point && point.ends_with(".in")));
    let form = if inner { read } else { stage }.map(|stage| stage.form).unwrap_or_default();
    let pipeline = observed.shape.pipeline.clone();
    let context = PlanContext { pipeline, form, vars: observed.vars.clone(), ..PlanContext::default() };
    let planned =
        plan(&expression.into(), &context).map_err(|error| error.context("cannot read the expression of `where`"))?;
    match planned.create()? {
        Step::Transform(transform) => Ok(transform),
        Step::Operator(_) => Err(Error::new(ErrorKind::Bug, "`filter` keeps state")),
    }
}
