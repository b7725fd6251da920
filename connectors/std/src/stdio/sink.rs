//! A producer as a sink; `stdout` is one too.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use millstream_codec::{
    log::{BROADCAST, stream_key, write_header},
    print::{Format, Printer},
};
use millstream_core::{
    Batch, BatchBuilder, Encoder, Epoch, Error, ErrorKind, Outcomes, Record, RecordRef, Result, ShardKey, Sink,
    SinkCapabilities, SinkPlan, Timestamp, Token, Way, WriteId,
};

use super::{PrintedSequences, Stdio, StdioSinkOptions, output::Output};

/// Shards whose sequences are counted. When there are more, all are counted from 1 again: memory is bounded.
const SHARDS_MAX: usize = 65_536;

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
        let numbered = Numbered { options: self.options.clone(), next: HashMap::new() };
        Ok(Box::new(StdioSink::new(self.stdio.clone(), Writing::Numbered(numbered))))
    }
}

/// How a batch becomes bytes.
pub(super) enum Writing {
    /// Values, by a codec; whether its preamble was written.
    Codec(Box<dyn Encoder>, bool),
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

/// What a batch became.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    rejected: Vec<(u32, Error)>,
    sequences: Vec<u128>,
    /// For consumers of the same process.
    looped: Option<Batch>,
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

    fn encode(&mut self, batch: &Batch) -> Written {
        // Room for the values and a short header each, so that the buffer seldom grows.
        let room = batch.values().map_or(0, |(column, _, _)| column.size().min(batch.size())) + 16 * batch.len();
        let mut written = Written { bytes: Vec::with_capacity(room), ..Written::default() };
        match &mut self.writing {
            Writing::Codec(encoder, begun) => {
                if !std::mem::replace(begun, true) {
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
        let written = self.encode(&batch.into_bytes());
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

/// Prints records under sequences of its own, and knows what it printed.
pub(super) struct Numbered {
    options: StdioSinkOptions,
    next: HashMap<ShardKey, u128>,
}

impl Numbered {
    fn encode(&mut self, batch: &Batch, loopback: bool, written: &mut Written) {
        let now = Timestamp::now();
        let fixed = self.options.stream.as_deref().map(Arc::<str>::from);
        let mut looped = loopback.then(BatchBuilder::new);
        let mut last: Option<(&ShardKey, ShardKey)> = None;
        for (i, record) in batch.iter().enumerate() {
            // Runs of one shard are the rule: its printed name is made once.
            let (_, shard) = match last.take() {
                Some(known) if *known.0 == *record.origin() => last.insert(known),
                _ => last.insert((record.origin(), printed(record.origin(), fixed.as_ref()))),
            };
            let sequence = self.sequence(shard, &record);
            let time = record.time().unwrap_or(now);
            let start = written.bytes.len();
            match self.print(&record, shard, sequence, time, &mut written.bytes) {
                Ok(()) => {
                    written.sequences.push(sequence);
                    self.count(shard, sequence);
                    if let Some(looped) = &mut looped {
                        looped.push(&Record { origin: shard.clone(), sequence, time: Some(time), ..plain(&record) });
                    }
                }
                Err(error) => {
                    written.bytes.truncate(start);
                    written.rejected.push((i as u32, error));
                    written.sequences.push(sequence); // One for each record; that of a rejected one says nothing.
                }
            }
        }
        written.looped = looped.map(|mut looped| looped.finish()).filter(|batch| !batch.is_empty());
    }

    fn sequence(&self, shard: &ShardKey, record: &RecordRef<'_>) -> u128 {
        match self.options.sequences {
            PrintedSequences::Own => self.next.get(shard).copied().unwrap_or(1),
            PrintedSequences::Origin => record.sequence(),
        }
    }

    fn count(&mut self, shard: &ShardKey, sequence: u128) {
        if self.options.sequences == PrintedSequences::Origin {
            return;
        }
        if let Some(next) = self.next.get_mut(shard) {
            *next = sequence + 1;
            return;
        }
        if self.next.len() >= SHARDS_MAX {
            self.next.clear();
        }
        self.next.insert(shard.clone(), sequence + 1);
    }

    fn print(
        &self,
        record: &RecordRef<'_>,
        shard: &ShardKey,
        sequence: u128,
        time: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let raw = Printer { format: Format::Raw, newline: self.options.newline, decode_json: false };
        match self.options.format {
            Format::Raw => raw.print(record, out),
            Format::Log => {
                write_header(Some(time), &shard.stream, sequence, shard.shard, out);
                raw.print(record, out)
            }
            Format::Ndjson => {
                let mut builder = BatchBuilder::new();
                builder.push(&Record { origin: shard.clone(), sequence, time: Some(time), ..plain(record) });
                Printer { format: Format::Ndjson, ..raw }.print(&builder.finish().get(0), out)
            }
        }
    }
}

/// Where a record is printed to belong.
fn printed(origin: &ShardKey, fixed: Option<&Arc<str>>) -> ShardKey {
    let stream = match fixed {
        Some(stream) => stream.clone(),
        None if origin.stream.is_empty() => BROADCAST.into(),
        None => match stream_key(&origin.stream) {
            std::borrow::Cow::Borrowed(_) => origin.stream.clone(),
            std::borrow::Cow::Owned(name) => name.into(),
        },
    };
    ShardKey { stream, shard: origin.shard }
}

/// The record as a reader of the output would get it: not derived from anything.
fn plain(record: &RecordRef<'_>) -> Record {
    Record { index: 0, original: None, ..record.to_record() }
}
