//! All figures as metrics: name, help, labels, values. How they are written down is [`prometheus`](crate::prometheus)' work, or
//! that of the OpenTelemetry exporter.
//!
//! Times are seconds and sizes bytes; what only grows ends in `_total`, and never goes back while the process lives.

use crate::report::{BufferReport, PipelineReport, Report, StageReport, Totals};

/// One metric and its values.
pub(crate) struct Figures<'a> {
    /// Without the program's name in front.
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) samples: Vec<(Vec<(&'static str, &'a str)>, f64)>,
}

/// What a pipeline may be doing; exactly one of them is 1.
const PHASES: [&str; 7] = ["opening", "running", "paused", "draining", "restarting", "over", "failed"];

/// Name, help, and value where there is one.
type Metric<T> = (&'static str, &'static str, fn(&T) -> Option<f64>);
type Count = (&'static str, &'static str, fn(&Totals) -> u64);

/// A name that ends in `_total` is a counter, any other a gauge.
const OF_PIPELINES: [Metric<PipelineReport>; 6] = [
    ("pipeline_ready", "Whether the pipeline is ready: opened, and its epochs are committed in time.", |pipeline| {
        flag(pipeline.unready.is_none())
    }),
    ("pipeline_epoch", "The newest epoch that counts.", |pipeline| Some(pipeline.epoch as f64)),
    ("pipeline_epochs_total", "Epochs committed by this process.", |pipeline| Some(pipeline.epochs as f64)),
    ("pipeline_epoch_latency_seconds", "Mean time from cutting an epoch to its decision.", |pipeline| {
        Some(pipeline.epoch_latency_seconds)
    }),
    (
        "pipeline_epoch_age_seconds",
        "For how long something has been under way without an epoch being decided; 0 when idle.",
        |pipeline| Some(pipeline.epoch_age_seconds.unwrap_or(0.0)),
    ),
    ("pipeline_restarts_total", "Restarts from a checkpoint.", |pipeline| Some(pipeline.restarts as f64)),
];

const COUNTS: [Count; 11] = [
    ("stage_records_in_total", "Records that came in; for a source, records read.", |totals| totals.records_in),
    ("stage_bytes_in_total", "Bytes that came in.", |totals| totals.bytes_in),
    ("stage_batches_total", "Batches that came in.", |totals| totals.batches),
    ("stage_records_out_total", "Records that left; for a sink, records delivered.", |totals| totals.records_out),
    ("stage_records_created_total", "Outputs beyond one for each input.", |totals| totals.created),
    ("stage_records_absorbed_total", "Records that live on in state.", |totals| totals.absorbed),
    ("stage_records_filtered_total", "Records left out on purpose.", |totals| totals.filtered),
    ("stage_records_dropped_total", "Records dropped by an error rule.", |totals| totals.dropped),
    ("stage_records_dead_total", "Records that became dead letters.", |totals| totals.dead),
    ("stage_records_returned_total", "Records given back to their queue.", |totals| totals.returned),
    ("stage_failures_total", "Failures of records and connections, retried ones too.", |totals| totals.failures),
];

const OF_STAGES: [Metric<StageReport>; 12] = [
    ("stage_busy_seconds_total", "Time spent working, summed over the workers.", |stage| {
        Some(stage.totals.busy_ns as f64 / 1e9)
    }),
    (
        "stage_blocked_seconds_total",
        "Time spent waiting for room in the next queue, summed over the workers.",
        |stage| Some(stage.totals.blocked_ns as f64 / 1e9),
    ),
    ("stage_records_parked", "Records that wait for another try.", |stage| Some(stage.totals.parked as f64)),
    ("stage_records_in_flight", "Records that came in and have not come to an end yet.", |stage| {
        Some(stage.in_flight as f64)
    }),
    ("stage_workers", "Workers that share the work.", |stage| Some(f64::from(stage.workers))),
    ("stage_waiting", "Whether the stage waits for something other than work.", |stage| flag(stage.waiting.is_some())),
    ("stage_queue_batches", "Batches that wait in front of the stage.", |stage| {
        stage.queue.map(|queue| queue.batches as f64)
    }),
    ("stage_queue_batches_max", "Batches that may wait in front of the stage.", |stage| {
        stage.queue.map(|queue| queue.batches_max as f64)
    }),
    ("stage_queue_bytes", "Bytes that wait in front of the stage.", |stage| {
        stage.queue.map(|queue| queue.bytes as f64)
    }),
    ("stage_queue_bytes_max", "Bytes that may wait in front of the stage.", |stage| {
        stage.queue.map(|queue| queue.bytes_max as f64)
    }),
    ("stage_lag_records", "Of a source: records that are there and not yet read, where its system tells.", |stage| {
        Some(stage.lag?.records? as f64)
    }),
    ("stage_lag_bytes", "Of a source: bytes that are there and not yet read, where its system tells.", |stage| {
        Some(stage.lag?.bytes? as f64)
    }),
];

const OF_BUFFERS: [Metric<BufferReport>; 8] = [
    ("buffer_records", "Records in the buffer that count for the pipeline and are not delivered.", |buffer| {
        Some(buffer.records as f64)
    }),
    ("buffer_bytes", "Bytes in the buffer that are not delivered.", |buffer| Some(buffer.bytes as f64)),
    ("buffer_disk_bytes", "Bytes on the disk, with what is delivered and not deleted yet.", |buffer| {
        Some(buffer.disk_bytes as f64)
    }),
    ("buffer_disk_bytes_max", "Bytes that the buffer may hold on the disk.", |buffer| {
        Some(buffer.disk_bytes_max as f64)
    }),
    ("buffer_fill_ratio", "How full the buffer is, from 0 to 1.", |buffer| Some(buffer.fill)),
    (
        "buffer_oldest_age_seconds",
        "How long the oldest record has been waiting; 0 when the buffer is empty.",
        |buffer| Some(buffer.oldest_age_seconds.unwrap_or(0.0)),
    ),
    ("buffer_records_dropped_total", "Records dropped unread to make room, since the buffer was made.", |buffer| {
        Some(buffer.dropped as f64)
    }),
    ("buffer_waiting", "Whether the pipeline waits for the buffer or its disk.", |buffer| {
        flag(buffer.waiting.is_some())
    }),
];

const fn flag(so: bool) -> Option<f64> {
    Some(if so { 1.0 } else { 0.0 })
}

/// All metrics of a process.
pub(crate) fn all(report: &Report) -> Vec<Figures<'_>> {
    let pipelines = &report.pipelines;
    let mut all = vec![
        Figures {
            name: "build_info",
            help: "The program; always 1.",
            samples: vec![(vec![("version", report.version.as_str())], 1.0)],
        },
        Figures {
            name: "pipeline_info",
            help: "A pipeline and its promise; always 1.",
            samples: pipelines
                .iter()
                .map(|one| (vec![("pipeline", &*one.name), ("delivery", &one.delivery)], 1.0))
                .collect(),
        },
        Figures {
            name: "pipeline_phase",
            help: "What the pipeline is doing: 1 for its phase, 0 for all others.",
            samples: pipelines.iter().flat_map(phases).collect(),
        },
    ];
    for (name, help, value) in OF_PIPELINES {
        let samples = pipelines.iter().filter_map(|one| Some((vec![("pipeline", &*one.name)], value(one)?)));
        all.push(Figures { name, help, samples: samples.collect() });
    }
    let stages = || pipelines.iter().flat_map(|one| one.stages.iter().map(move |stage| (one, stage)));
    let kinds = stages().filter(|(_, stage)| !stage.role.is_empty()).map(|(one, stage)| {
        (vec![("pipeline", &*one.name), ("stage", &stage.name), ("role", &stage.role), ("kind", &stage.kind)], 1.0)
    });
    all.push(Figures {
        name: "stage_info",
        help: "A source, step or sink, and its kind; always 1.",
        samples: kinds.collect(),
    });
    for (name, help, value) in COUNTS {
        let samples = stages().map(|(one, stage)| (of_stage(one, stage), value(&stage.totals) as f64));
        all.push(Figures { name, help, samples: samples.collect() });
    }
    for (name, help, value) in OF_STAGES {
        let samples = stages().filter_map(|(one, stage)| Some((of_stage(one, stage), value(stage)?)));
        all.push(Figures { name, help, samples: samples.collect() });
    }
    for (name, help, value) in OF_BUFFERS {
        let buffers = pipelines.iter().flat_map(|one| &one.buffers);
        let samples =
            buffers.filter_map(|one| Some((vec![("pipeline", &*one.pipeline), ("sink", &one.sink)], value(one)?)));
        all.push(Figures { name, help, samples: samples.collect() });
    }
    all
}

fn of_stage<'a>(pipeline: &'a PipelineReport, stage: &'a StageReport) -> Vec<(&'static str, &'a str)> {
    vec![("pipeline", &pipeline.name), ("stage", &stage.name)]
}

fn phases(pipeline: &PipelineReport) -> impl Iterator<Item = (Vec<(&'static str, &str)>, f64)> {
    let of = |phase| vec![("pipeline", pipeline.name.as_str()), ("phase", phase)];
    PHASES.into_iter().map(move |phase| (of(phase), if pipeline.phase == phase { 1.0 } else { 0.0 }))
}
