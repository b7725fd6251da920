//! `millstream status [PIPELINE]`

use clap::Args;
use millstream::{
    Size,
    core::Lag,
    observe::{BufferReport, PipelineReport, StageReport},
};
use serde_json::{Value, json};

use crate::{
    asking::{Found, Which},
    count::{bytes, thousands},
    exit::{Exit, Outcome},
    output,
    table::Table,
};

/// Show how running pipelines get on, once.
#[derive(Debug, Args)]
pub(crate) struct StatusCommand {
    /// The pipeline; without it all of them
    pipeline: Option<String>,
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl StatusCommand {
    pub(crate) fn execute(self) -> Outcome {
        let found = self.which.some(self.pipeline.as_deref())?;
        let text = match self.json {
            true => {
                let each = found.iter().map(|found| {
                    let mut object = json!({ "pid": found.process.pid });
                    let report = serde_json::to_value(&found.report).unwrap_or_default();
                    if let (Value::Object(object), Value::Object(report)) = (&mut object, report) {
                        object.extend(report);
                    }
                    object
                });
                format!("{:#}", each.collect::<Value>())
            }
            false => tables(&found),
        };
        output::print(&text)?;
        Ok(Exit::Done)
    }
}

/// Each pipeline: a line about it, its stages, its buffers, and what limits it.
pub(super) fn tables(found: &[Found]) -> String {
    let each = found.iter().map(|found| {
        let mut table = Table::new(&COLUMNS);
        found.report.stages.iter().for_each(|stage| table.row(cells(stage)));
        let Found { process, report } = found;
        let mut buffers = Table::new(&BUFFER_COLUMNS);
        report.buffers.iter().for_each(|buffer| buffers.row(buffer_cells(buffer)));
        let buffers = if buffers.is_empty() { String::new() } else { buffers.render() };
        format!("{} ({})\n{}{buffers}{}\n", head(report), process.pid, table.render(), report.bottleneck)
    });
    each.collect::<Vec<_>>().join("\n")
}

/// `orders: running, at least once; epoch 812 in 3 ms; 2 restarts`.
pub(super) fn head(report: &PipelineReport) -> String {
    let PipelineReport { name, phase, delivery, epoch, .. } = report;
    let latency = report.epoch_latency_seconds * 1000.0;
    let mut text = format!("{name}: {phase}, {delivery}; epoch {}, {latency:.1} ms each", thousands(*epoch));
    if report.restarts > 0 {
        text.push_str(&format!("; {} restarts", thousands(report.restarts)));
    }
    report.cause.iter().chain(&report.unready).for_each(|why| text.push_str(&format!("; {why}")));
    text
}

/// Heads of the table of stages.
pub(super) const COLUMNS: [&str; 12] =
    ["STAGE", "KIND", ">IN", ">OUT", ">IN/S", ">OUT/S", ">BUSY", ">BLOCKED", ">IDLE", ">QUEUE", ">PARKED", ">FAILED"];

/// A stage as a row.
pub(super) fn cells(stage: &StageReport) -> [String; 12] {
    let share = |share: f64| if stage.role.is_empty() { String::new() } else { format!("{:.0}%", share * 100.0) };
    let rate = |rate: f64| thousands(rate.round() as u64);
    let name = match &stage.waiting {
        Some(what) => format!("{} ({what})", stage.name),
        None if stage.workers > 1 => format!("{} x{}", stage.name, stage.workers),
        None => stage.name.clone(),
    };
    [
        name,
        stage.kind.clone(),
        thousands(stage.totals.records_in),
        thousands(stage.totals.records_out),
        rate(stage.rates.records_in),
        rate(stage.rates.records_out),
        share(stage.shares.busy),
        share(stage.shares.blocked),
        share(stage.shares.idle),
        // What waits in front of a source is its lag.
        stage.queue.map_or_else(|| stage.lag.map_or(String::new(), lag), |queue| share(queue.fill())),
        thousands(stage.totals.parked),
        thousands(stage.totals.failures),
    ]
}

/// Records where they can be counted, else bytes.
fn lag(lag: Lag) -> String {
    lag.records.map(thousands).or(lag.bytes.map(bytes)).unwrap_or_default()
}

/// Heads of the table of buffers.
pub(super) const BUFFER_COLUMNS: [&str; 7] =
    ["BUFFER", ">RECORDS", ">BYTES", ">OLDEST", ">FILL", ">DROPPED", "WAITING"];

/// A buffer on disk as a row.
pub(super) fn buffer_cells(buffer: &BufferReport) -> [String; 7] {
    let age = |seconds: f64| match seconds {
        seconds if seconds < 120.0 => format!("{seconds:.1} s"),
        seconds if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.0} h", seconds / 3600.0),
    };
    let since = buffer.waiting_seconds.map(|seconds| format!(" (for {})", age(seconds))).unwrap_or_default();
    [
        buffer.sink.clone(),
        thousands(buffer.records),
        thousands(buffer.bytes),
        buffer.oldest_age_seconds.map_or_else(|| "-".to_owned(), age),
        format!("{:.0}% of {}", buffer.fill * 100.0, Size(buffer.disk_bytes_max)),
        thousands(buffer.dropped),
        buffer.waiting.as_ref().map(|why| format!("{why}{since}")).unwrap_or_default(),
    ]
}
