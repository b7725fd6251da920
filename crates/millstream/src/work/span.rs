//! Spans of `tracing` around futures.

use std::future::Future;

use futures::future::Either;
use tracing::{Instrument, Span, instrument::Instrumented};

/// A future in the span of the batch that its record came in. Where nobody listens it is the future alone.
pub(crate) type InSpan<F> = Either<F, Instrumented<F>>;

pub(crate) fn in_span<F: Future>(work: F, span: Option<Span>) -> InSpan<F> {
    match span {
        Some(span) => Either::Right(work.instrument(span)),
        None => Either::Left(work),
    }
}
