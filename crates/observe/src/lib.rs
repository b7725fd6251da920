//! Looking at running pipelines, and steering them from outside.
//!
//! An [`Observer`] knows the pipelines of a process. It is asked in three ways, and nothing is done while nobody asks:
//!
//! ```text
//!                    ┌── http::Server     /metrics /status /health /ready, on loopback
//! Handle ─► Observer ┼── ControlSocket    a Unix socket in the state directory: top, status, tap, state
//!                    └── Observer::report values, for programs
//! ```
//!
//! | read this | for |
//! |---|---|
//! | [`Report`] | what is known of running pipelines, as values and as JSON |
//! | [`bottleneck`] | which stage limits a pipeline, in words |
//! | [`prometheus`] | the same figures as Prometheus' text |
//! | [`control`] | the protocol of the control socket |
//! | `otlp` (feature) | the same figures pushed to an OpenTelemetry collector |

pub mod bottleneck;
pub mod control;
mod figures;
mod history;
pub mod http;
mod observer;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod prometheus;
mod report;
mod shape;

pub use observer::{Drain, Hide, Observed, Observer, READY_WITHIN, ReadBuffers, ReadState};
pub use report::{BufferReport, PipelineReport, Queue, Rates, Report, Shares, StageReport, Totals};
pub use shape::{Shape, StageShape};
