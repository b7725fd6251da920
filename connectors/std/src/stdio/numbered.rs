//! Records printed in the line protocol, under sequences of the printing sink.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use millstream_codec::{
    log::{BROADCAST, HeaderWriter, stream_key},
    print::{Format, Printer},
};
use millstream_core::{Batch, BatchBuilder, Error, Record, RecordRef, Result, ShardKey, Timestamp};

use super::{PrintedSequences, StdioSinkOptions};

/// Shards whose sequences are counted. When there are more, all are counted from 1 again: memory is bounded.
const SHARDS_MAX: usize = 65_536;

/// The number of the first record of a shard, as for lines that are read.
const SEQUENCE_FIRST: u128 = 1;

/// What a batch became.
#[derive(Default)]
pub(super) struct Written {
    pub(super) bytes: Vec<u8>,
    pub(super) rejected: Vec<(u32, Error)>,
    /// One for each record; that of a rejected one says nothing.
    pub(super) sequences: Vec<u128>,
    /// For consumers of the same process.
    pub(super) looped: Option<Batch>,
}

/// Prints records under sequences of its own, and knows what it printed.
pub(super) struct Numbered {
    sequences: PrintedSequences,
    /// The stream of all records, if not their own.
    stream: Option<Arc<str>>,
    printer: Printer,
    headers: HeaderWriter,
    next: HashMap<ShardKey, u128>,
}

/// Records of one shard, one behind the other.
struct Run<'a> {
    origin: &'a ShardKey,
    /// As it is printed.
    shard: ShardKey,
    next: u128,
}

/// Who a record is, as it is printed.
struct Identity<'a> {
    shard: &'a ShardKey,
    sequence: u128,
    time: Timestamp,
}

impl Identity<'_> {
    /// The record as a reader of the output would get it: not derived from anything.
    fn record(&self, record: &RecordRef<'_>) -> Record {
        Record {
            origin: self.shard.clone(),
            sequence: self.sequence,
            time: Some(self.time),
            index: 0,
            original: None,
            ..record.to_record()
        }
    }
}

impl Numbered {
    pub(super) fn new(options: &StdioSinkOptions) -> Self {
        Numbered {
            sequences: options.sequences,
            stream: options.stream.as_deref().map(Arc::from),
            printer: Printer { format: options.format, newline: options.newline, decode_json: false },
            headers: HeaderWriter::default(),
            next: HashMap::new(),
        }
    }

    /// Prints a batch whose body is bytes; with `loopback` also gives what was printed as a batch.
    pub(super) fn encode(&mut self, batch: &Batch, loopback: bool, written: &mut Written) {
        // Milliseconds are finer than anything that is known of it.
        let now = Timestamp::from_millis(Timestamp::now().as_millis());
        let mut looped = loopback.then(BatchBuilder::new);
        let mut run: Option<Run<'_>> = None;
        written.sequences.reserve_exact(batch.len());
        for (i, record) in batch.iter().enumerate() {
            // Runs of one shard are the rule: its name and number are looked up once.
            let run = match run.take() {
                Some(same) if *same.origin == *record.origin() => run.insert(same),
                other => {
                    self.keep(other);
                    run.insert(self.run(record.origin()))
                }
            };
            let sequence = match self.sequences {
                PrintedSequences::Own => run.next,
                PrintedSequences::Origin => record.sequence(),
            };
            let identity = Identity { shard: &run.shard, sequence, time: record.time().unwrap_or(now) };
            written.sequences.push(sequence);
            match self.print(&record, &identity, &mut written.bytes) {
                Ok(()) => {
                    if let Some(looped) = &mut looped {
                        looped.push(&identity.record(&record));
                    }
                    run.next += 1;
                }
                Err(error) => written.rejected.push((i as u32, error)),
            }
        }
        self.keep(run);
        written.looped = looped.map(|mut looped| looped.finish()).filter(|batch| !batch.is_empty());
    }

    /// Appends a line; after an error `out` is as before.
    fn print(&mut self, record: &RecordRef<'_>, identity: &Identity<'_>, out: &mut Vec<u8>) -> Result<()> {
        match self.printer.format {
            Format::Log => {
                let start = out.len();
                let Identity { shard, sequence, time } = identity;
                self.headers.write(Some(*time), &shard.stream, *sequence, shard.shard, out);
                self.printer.print_value(record, out).inspect_err(|_| out.truncate(start))
            }
            Format::Ndjson => {
                let mut whole = BatchBuilder::new();
                whole.push(&identity.record(record));
                self.printer.print(&whole.finish().get(0), out)
            }
            Format::Raw => self.printer.print_value(record, out),
        }
    }

    fn run<'a>(&self, origin: &'a ShardKey) -> Run<'a> {
        let stream = match &self.stream {
            Some(stream) => stream.clone(),
            None if origin.stream.is_empty() => BROADCAST.into(),
            None => match stream_key(&origin.stream) {
                Cow::Borrowed(_) => origin.stream.clone(),
                Cow::Owned(name) => name.into(),
            },
        };
        let shard = ShardKey { stream, shard: origin.shard };
        let next = self.next.get(&shard).copied().unwrap_or(SEQUENCE_FIRST);
        Run { origin, shard, next }
    }

    fn keep(&mut self, run: Option<Run<'_>>) {
        let Some(run) = run else { return };
        if self.next.len() >= SHARDS_MAX && !self.next.contains_key(&run.shard) {
            self.next.clear();
        }
        self.next.insert(run.shard, run.next);
    }
}
