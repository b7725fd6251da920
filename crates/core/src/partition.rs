//! Choosing the shard of each record in the program's own code.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::Arc,
};

use async_trait::async_trait;

use crate::{
    Batch, Epoch, Error, Host, Last, Outcomes, RecordRef, Result, ShardKey, Shards, Share, Sink, SinkCapabilities,
    SinkPlan, Stamp, Token, WriteId, try_each_record,
};

/// Says to which shard of its stream a record goes: a partitioner in Kafka's words, a sharder in Redis'.
///
/// Kafka rejects a record alone whose partition is not there; Redis takes the number modulo its option `shards`. A panic costs
/// only its record. To be the same after a crash, the answer must depend on the record alone.
///
/// ```
/// # use millstream_core::{Partitioner, RecordRef};
/// struct ByCountry;
///
/// impl Partitioner for ByCountry {
///     fn shard(&self, record: RecordRef<'_>) -> u64 {
///         match record.key() {
///             Some(key) if key.starts_with(b"ch-") => 0,
///             _ => 1,
///         }
///     }
/// }
///
/// // A closure is one, too.
/// let by_length = |record: RecordRef<'_>| record.value().map_or(0, |value| value.len() as u64 % 2);
/// # fn takes(_: impl Partitioner) {}
/// # takes(ByCountry);
/// # takes(by_length);
/// ```
pub trait Partitioner: Send + Sync + 'static {
    /// The number of the shard, from 0.
    fn shard(&self, record: RecordRef<'_>) -> u64;

    /// The shard of each record of a batch, and the records for which there is none, in order, each with the cause. Provided, so
    /// that a partitioner behind a pointer costs one dynamic call for each batch and not for each record.
    fn shards(&self, batch: &Batch) -> (Vec<u64>, Vec<(u32, Error)>) {
        let mut shards = vec![0; batch.len()];
        let failed = try_each_record(batch, |row, record| {
            let shard = self.shard(record);
            shards.get_mut(row).into_iter().for_each(|place| *place = shard);
            Ok(())
        });
        (shards, failed)
    }
}

impl<F: Fn(RecordRef<'_>) -> u64 + Send + Sync + 'static> Partitioner for F {
    fn shard(&self, record: RecordRef<'_>) -> u64 {
        self(record)
    }
}

/// A sink to which a partitioner tells the shard of each record.
pub struct Partitioned {
    plan: Box<dyn SinkPlan>,
    partitioner: Arc<dyn Partitioner>,
}

impl Partitioned {
    /// `plan` is that of a sink that writes each record to the shard of its origin
    /// ([`Backend::sink_by_shard`](crate::Backend::sink_by_shard)).
    pub fn new(plan: Box<dyn SinkPlan>, partitioner: Arc<dyn Partitioner>) -> Self {
        Partitioned { plan, partitioner }
    }
}

impl fmt::Debug for Partitioned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Partitioned").field(&self.plan).finish()
    }
}

impl SinkPlan for Partitioned {
    fn capabilities(&self) -> SinkCapabilities {
        self.plan.capabilities()
    }

    fn describe(&self) -> String {
        self.plan.describe()
    }

    fn transaction(&self) -> Option<String> {
        self.plan.transaction()
    }

    fn host(&self) -> Result<Box<dyn Host>> {
        self.plan.host()
    }

    fn warnings(&self) -> Vec<String> {
        self.plan.warnings()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(PartitionedSink {
            inner: self.plan.create()?,
            partitioner: self.partitioner.clone(),
            newest: 0,
            written: HashMap::new(),
            failed: Vec::new(),
        }))
    }
}

struct PartitionedSink {
    inner: Box<dyn Sink>,
    partitioner: Arc<dyn Partitioner>,
    newest: WriteId,
    /// Since the last flush: what the inner sink calls a write.
    written: HashMap<WriteId, Written>,
    /// Records without a shard.
    failed: Vec<(WriteId, u32, Error)>,
}

/// One write, and which of its records the inner sink was given.
struct Written {
    id: WriteId,
    records: usize,
    /// Absent: all.
    rows: Option<Vec<u32>>,
}

impl Written {
    /// What the inner sink calls `row`.
    fn row(&self, row: u32) -> u32 {
        self.rows.as_ref().and_then(|rows| rows.get(row as usize).copied()).unwrap_or(row)
    }
}

#[async_trait]
impl Sink for PartitionedSink {
    fn introduce(&mut self, name: &str, stamp: &Stamp) {
        self.inner.introduce(name, stamp);
    }

    fn join(&mut self, share: &Share) -> Result<()> {
        self.inner.join(share)
    }

    async fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        self.written.clear();
        self.failed.clear();
        self.inner.open(resume).await
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        let batch = batch.into_bytes();
        let (shards, failed) = self.partitioner.shards(&batch);
        let records = batch.len();
        let moved = moved(&batch, &shards);
        let (given, rows) = match failed.is_empty() {
            true => (moved, None),
            false => {
                let mut failed = failed.iter().map(|(row, _)| *row).peekable();
                let rows: Vec<u32> = (0..records as u32).filter(|row| failed.next_if_eq(row).is_none()).collect();
                (moved.select(rows.clone()), Some(rows))
            }
        };
        if !given.is_empty() {
            let inner = self.inner.write(given).await?;
            self.written.insert(inner, Written { id: self.newest + 1, records, rows });
        }
        self.newest += 1;
        let id = self.newest;
        self.failed.extend(failed.into_iter().map(|(row, error)| (id, row, error)));
        Ok(id)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        let Outcomes { rejected, sequences, repeated } = self.inner.flush().await?;
        let mut outcomes = Outcomes { rejected: std::mem::take(&mut self.failed), ..Outcomes::default() };
        for (inner, row, error) in rejected {
            let Some(written) = self.written.get(&inner) else { continue };
            outcomes.rejected.push((written.id, written.row(row), error));
        }
        outcomes.rejected.sort_by_key(|(id, row, _)| (*id, *row));
        for (inner, told) in sequences {
            let Some(written) = self.written.get(&inner) else { continue };
            let mut all = vec![0; written.records];
            for (row, sequence) in told.into_iter().enumerate() {
                all.get_mut(written.row(row as u32) as usize).into_iter().for_each(|place| *place = sequence);
            }
            outcomes.sequences.push((written.id, all));
        }
        let of_ours = |(inner, row): (WriteId, u32)| self.written.get(&inner).map(|to| (to.id, to.row(row)));
        outcomes.repeated = repeated.into_iter().filter_map(of_ours).collect();
        self.written.clear();
        Ok(outcomes)
    }

    async fn prepare(&mut self, epoch: Epoch, last: Last) -> Result<Option<Token>> {
        self.inner.prepare(epoch, last).await
    }

    async fn commit(&mut self, token: &Token) -> Result<()> {
        self.inner.commit(token).await
    }

    async fn abort(&mut self, token: &Token) -> Result<()> {
        self.inner.abort(token).await
    }

    async fn close(&mut self) -> Result<()> {
        self.inner.close().await
    }
}

/// The same records, of other shards of their streams. No byte string is copied.
fn moved(batch: &Batch, shards: &[u64]) -> Batch {
    let mut envelope = batch.gather_envelope();
    let mut dictionary: Vec<ShardKey> = Vec::new();
    let mut places: HashMap<(u32, u64), u32> = HashMap::new();
    // Which stream: its place in the old dictionary, where there is one.
    let stream = |row: usize| match &envelope.shards {
        Shards::Same(key) => (0, key),
        Shards::Each(keys, indexes) => {
            // Gathered: there is an index for each record, and each is within the dictionary.
            let index = indexes[row];
            (index, &keys[index as usize])
        }
    };
    let mut newest = None;
    let indexes: Vec<u32> = shards
        .iter()
        .enumerate()
        .map(|(row, shard)| {
            let (index, key) = stream(row);
            match newest {
                // Runs of one shard are the rule.
                Some((last, place)) if last == (index, *shard) => place,
                _ => {
                    let place = match places.entry((index, *shard)) {
                        Entry::Occupied(place) => *place.get(),
                        Entry::Vacant(vacant) => {
                            dictionary.push(ShardKey { stream: key.stream.clone(), shard: *shard });
                            *vacant.insert(dictionary.len() as u32 - 1)
                        }
                    };
                    newest = Some(((index, *shard), place));
                    place
                }
            }
        })
        .collect();
    envelope.shards = match <[ShardKey; 1]>::try_from(dictionary) {
        Ok([only]) => Shards::Same(only),
        Err(dictionary) if dictionary.is_empty() => return batch.clone(),
        Err(dictionary) => Shards::Each(Arc::new(dictionary), Arc::new(indexes)),
    };
    batch.clone().with_envelope(envelope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, Record};

    fn batch(streams: &[(&str, &str)]) -> Batch {
        let mut builder = BatchBuilder::new();
        streams.iter().for_each(|(stream, value)| builder.push(&Record::new(*stream, value.to_string())));
        builder.finish()
    }

    fn origins(batch: &Batch) -> Vec<String> {
        batch.iter().map(|record| record.origin().to_string()).collect()
    }

    #[test]
    fn records_go_to_the_shards_that_are_chosen_and_keep_their_streams() {
        let all = batch(&[("a", "x"), ("b", "y"), ("a", "z"), ("a", "x")]);
        assert_eq!(origins(&moved(&all, &[1, 1, 0, 1])), ["a/1", "b/1", "a/0", "a/1"]);
        let some = all.select(vec![3, 1]);
        let values = |batch: &Batch| batch.iter().map(|record| record.value().unwrap().to_vec()).collect::<Vec<_>>();
        assert_eq!(values(&moved(&some, &[7, 8])), values(&some));
        assert_eq!(origins(&moved(&some, &[7, 8])), ["a/7", "b/8"]);
        assert_eq!(origins(&moved(&batch(&[("a", "x"), ("a", "y")]), &[2, 2])), ["a/2", "a/2"]);
        assert!(moved(&all.select(vec![]), &[]).is_empty());
    }

    /// Rejects the first record of each write.
    #[derive(Debug, Default)]
    struct Picky(WriteId, Vec<(WriteId, usize)>);

    #[async_trait]
    impl Sink for Picky {
        async fn open(&mut self, _: &[(Epoch, Token)]) -> Result<()> {
            Ok(())
        }

        async fn write(&mut self, batch: Batch) -> Result<WriteId> {
            self.0 += 10;
            self.1.push((self.0, batch.len()));
            Ok(self.0)
        }

        async fn flush(&mut self) -> Result<Outcomes> {
            let rejected = |(id, _): &(WriteId, usize)| (*id, 0, Error::new(crate::ErrorKind::Rejected, "no"));
            Ok(Outcomes {
                rejected: self.1.iter().map(rejected).collect(),
                sequences: self.1.drain(..).map(|(id, len)| (id, (100..100 + len as u128).collect())).collect(),
                ..Outcomes::default()
            })
        }
    }

    #[test]
    fn a_panic_of_the_partitioner_rejects_its_record_and_no_other() {
        let partitioner = |record: RecordRef<'_>| match record.value() {
            Some(b"panic") => panic!("no shard"),
            _ => 3,
        };
        let mut sink = PartitionedSink {
            inner: Box::<Picky>::default(),
            partitioner: Arc::new(partitioner),
            newest: 0,
            written: HashMap::new(),
            failed: Vec::new(),
        };
        let (first, second, outcomes) = ready(async {
            let first = sink.write(batch(&[("a", "panic"), ("a", "x"), ("a", "panic"), ("a", "y")])).await.unwrap();
            let second = sink.write(batch(&[("a", "panic")])).await.unwrap();
            (first, second, sink.flush().await.unwrap())
        });
        let rejected: Vec<_> = outcomes.rejected.iter().map(|(id, row, error)| (*id, *row, error.kind())).collect();
        use crate::ErrorKind::{Panic, Rejected};
        assert_eq!(rejected, [(first, 0, Panic), (first, 1, Rejected), (first, 2, Panic), (second, 0, Panic)]);
        assert_eq!(outcomes.sequences, [(first, vec![0, 100, 0, 101])]);
    }

    /// The result of a future that never waits.
    fn ready<T>(future: impl Future<Output = T>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("it waits"),
        }
    }
}
