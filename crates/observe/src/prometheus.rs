//! Figures in Prometheus' text format (version 0.0.4), which all collectors of metrics read.
//!
//! Times are seconds and sizes bytes; what only grows ends in `_total`, and never goes back while the process lives.

use std::fmt::Write as _;

use crate::{figures, report::Report};

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The figures of all pipelines as text.
pub fn text(report: &Report) -> String {
    let mut text = String::with_capacity(16 << 10);
    for metric in figures::all(report) {
        let (name, help) = (metric.name, metric.help);
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        // Writing to a string does not fail. No help needs escaping.
        let _ = write!(text, "# HELP millstream_{name} {help}\n# TYPE millstream_{name} {kind}\n");
        for (labels, value) in metric.samples {
            let labels: Vec<String> =
                labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
            let _ = writeln!(text, "millstream_{name}{{{}}} {value}", labels.join(","));
        }
    }
    text
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
