//! A producer as a sink; `stdout` is one too.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use millstream_codec::{
    log::stream_key,
    print::{Format, Printer},
};
use millstream_core::{
    Batch, Encoder, Epoch, Error, ErrorKind, Outcomes, Result, Sink, SinkCapabilities, SinkPlan, Token, Way, WriteId,
};

use super::{
    Stdio, StdioSinkOptions,
    numbered::{Numbered, Written},
    output::Output,
};

pub(super) const CAPABILITIES: SinkCapabilities = SinkCapabilities {
    way: Way::None,
    per_record: true,
    sequences: false,
    keys: false,
    headers: false,
    tombstones: false,
    times: false,
    record_bytes_max: None,
};

pub(super) fn producer_plan(stdio: Stdio, options: &StdioSinkOptions) -> Result<Box<dyn SinkPlan>> {
    if let Some(stream) = options.stream.as_deref().filter(|stream| **stream != *stream_key(stream)) {
        return Err(Error::new(ErrorKind::Option, format!("`{stream}` is no stream of the line protocol"))
            .hint("its name has 1 to 249 characters of A-Z, a-z, 0-9, `.`, `_` and `-`")
            .within("stream"));
    }
    Ok(Box::new(ProducerPlan { stdio, options: options.clone() }))
}

#[derive(Debug)]
struct ProducerPlan {
    stdio: Stdio,
    options: StdioSinkOptions,
}

impl SinkPlan for ProducerPlan {
    fn capabilities(&self) -> SinkCapabilities {
        let told = self.options.format != Format::Raw;
        let all = self.options.format == Format::Ndjson;
        SinkCapabilities { sequences: told, times: told, keys: all, headers: all, tombstones: all, ..CAPABILITIES }
    }

    fn describe(&self) -> String {
        "standard output".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        let numbered = Numbered::new(&self.options);
        Ok(Box::new(StdioSink::new(self.stdio.clone(), Writing::Numbered(numbered))))
    }
}

/// How a batch becomes bytes.
pub(super) enum Writing {
    /// Values, by a codec; whether its preamble was written, by this sink or the one before a restart.
    Codec(Box<dyn Encoder>, Arc<AtomicBool>),
    /// Whole records, as they were read.
    Printed(Printer),
    /// Whole records, under the sequences of this sink.
    Numbered(Numbered),
}

/// A sink over an output.
pub(super) struct StdioSink {
    stdio: Stdio,
    output: Option<Arc<Output>>,
    writing: Writing,
    next_id: WriteId,
    outcomes: Outcomes,
    ends: Vec<usize>,
    produces: bool,
}

impl StdioSink {
    pub(super) fn new(stdio: Stdio, writing: Writing) -> Self {
        stdio.hub().add_producer();
        StdioSink {
            stdio,
            output: None,
            writing,
            next_id: 0,
            outcomes: Outcomes::default(),
            ends: Vec::new(),
            produces: true,
        }
    }

    fn encode(&mut self, batch: &Batch, mut bytes: Vec<u8>) -> Written {
        // Room for the values and a short header each, so that the buffer seldom grows.
        let room = batch.values().map_or(0, |(column, _, _)| column.size().min(batch.size())) + 16 * batch.len();
        bytes.reserve(room);
        let mut written = Written { bytes, ..Written::default() };
        match &mut self.writing {
            Writing::Codec(encoder, begun) => {
                if !begun.swap(true, Ordering::Relaxed) {
                    encoder.preamble(batch, &mut written.bytes);
                }
                self.ends.clear();
                encoder.encode(batch, &mut written.bytes, &mut self.ends, &mut written.rejected);
            }
            Writing::Printed(printer) => printer.print_batch(batch, &mut written.bytes, &mut written.rejected),
            Writing::Numbered(numbered) => numbered.encode(batch, self.stdio.hub().loopback(), &mut written),
        }
        written
    }

    fn stop_producing(&mut self) {
        if std::mem::replace(&mut self.produces, false) {
            self.stdio.hub().remove_producer();
        }
    }
}

impl Drop for StdioSink {
    fn drop(&mut self) {
        self.stop_producing();
    }
}

#[async_trait]
impl Sink for StdioSink {
    async fn open(&mut self, _: &[(Epoch, Token)]) -> Result<()> {
        let output = self.stdio.output()?;
        output.open()?;
        self.output = Some(output);
        self.outcomes = Outcomes::default();
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        let Some(output) = self.output.clone() else {
            return Err(Error::new(ErrorKind::Bug, "a sink was written to before it was opened"));
        };
        let written = self.encode(&batch.into_bytes(), output.buffer());
        output.write(written.bytes).await?;
        let id = self.next_id;
        self.next_id += 1;
        self.outcomes.rejected.extend(written.rejected.into_iter().map(|(row, error)| (id, row, error)));
        if !written.sequences.is_empty() {
            self.outcomes.sequences.push((id, written.sequences));
        }
        if let Some(looped) = written.looped {
            self.stdio.hub().deliver(looped.into()).await;
        }
        Ok(id)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        let outcomes = std::mem::take(&mut self.outcomes);
        match &self.output {
            Some(output) => output.flush().await.map(|()| outcomes),
            None => Ok(outcomes),
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.stop_producing();
        match self.output.take() {
            Some(output) => output.flush().await,
            None => Ok(()),
        }
    }
}
