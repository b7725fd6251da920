//! The records of a batch into the producer's queue: most of them many at a time.

use millstream_core::{Batch, Error, ErrorKind, Form, RecordRef, WriteId};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::{
    Open,
    ledger::{Ledger, row_of},
    plan::Planned,
    producer::Producer,
    route::{Names, Topics},
    size,
};
use crate::{
    error::{coded, kind_of, no_topic},
    native::{Run, wake},
    options::PartitionBy,
};

/// Records of one call: enough that what a call costs does not count, and few enough that they stay in the cache.
const RUN_MAX: usize = 256;

/// How far a batch has come.
pub(super) enum Sent {
    All,
    /// The queue is full; the first record that is not in it.
    Full(usize),
    /// Some may be on their way: only opening the sink again makes that good.
    Failed(Error),
}

/// Sends the records of a batch from a row on; refused ones are noted. Waits for nothing.
pub(super) fn send(
    plan: &Planned,
    open: &mut Open,
    scratch: &mut Vec<u8>,
    batch: &Batch,
    (id, from): (WriteId, usize),
) -> Sent {
    let Open { producer, ledger, names, topics, cap, .. } = open;
    // One entry in the books for all of them, put right at the end: reports may be quick.
    let (records, bytes) = (batch.len().saturating_sub(from), batch.size());
    ledger.sending(records, bytes);
    let mut sender = Sender {
        plan,
        producer,
        ledger,
        names,
        topics,
        scratch,
        id,
        topic: None,
        partition: None,
        run: Run::with_capacity(RUN_MAX.min(records)),
        held: 0,
        records: 0,
        bytes: 0,
    };
    let stopped = (from..batch.len()).try_for_each(|row| sender.take(row, &batch.get(row)));
    let stopped = stopped.and_then(|()| sender.send_run());
    let (sent, unsent) = (sender.records, (records - sender.records, bytes as isize - sender.bytes as isize));
    ledger.not_sent(unsent.0, unsent.1);
    let full = usize::try_from(*cap).unwrap_or(usize::MAX).saturating_mul(topics.partitions());
    if plan.gathers() && ledger.sent(sent, full) {
        wake(producer);
    }
    match stopped {
        Ok(()) => Sent::All,
        Err(stop) => *stop,
    }
}

/// In a box: nearly all records go well.
type Step = Result<(), Box<Sent>>;

struct Sender<'a> {
    plan: &'a Planned,
    producer: &'a Producer,
    ledger: &'a Ledger,
    names: &'a Names,
    topics: &'a mut Topics,
    /// A value in the codec's form.
    scratch: &'a mut Vec<u8>,
    id: WriteId,
    /// The topic of the newest record, and where it stands among the known ones.
    topic: Option<(&'a str, usize)>,
    /// Where the records of the run go, within that topic: to one partition, or wherever their keys lead.
    partition: Option<i32>,
    run: Run<'a>,
    /// Bytes of the run.
    held: usize,
    /// What is in the queue by now.
    records: usize,
    bytes: usize,
}

impl<'a> Sender<'a> {
    /// Sends a record, or puts it into the run.
    fn take(&mut self, row: usize, record: &RecordRef<'a>) -> Step {
        let Some(name) = self.names.of(record) else {
            let error = Error::new(ErrorKind::Rejected, "the record names no topic");
            return self.refuse(row, error.hint("give a topic in the URL for such records"));
        };
        let (name, at) = match self.topic {
            Some((newest, at)) if newest == name => (newest, at),
            _ => {
                self.send_run()?;
                let Some(at) = self.topics.find(name) else {
                    return self.refuse(row, no_topic(name, &self.plan.access.shown));
                };
                self.topic = Some((name, at));
                (name, at)
            }
        };
        let (partition, limit) = match self.topics.partition(at, name, record) {
            Ok(chosen) => chosen,
            Err(error) => return self.refuse(row, error),
        };
        let encodes = self.plan.codec.form() == Form::Json && record.form() != Form::Json;
        let value = match record.value().filter(|_| encodes) {
            Some(value) => {
                self.scratch.clear();
                match self.plan.codec.encode(value, record.form(), self.scratch) {
                    Ok(()) => None,
                    Err(error) => return self.refuse(row, error),
                }
            }
            None => record.value(),
        };
        let encoded = encodes && record.value().is_some();
        let sized = if encoded { Some(&**self.scratch) } else { value };
        if let Err(error) = size::check(self.plan, record, sized, limit, name) {
            return self.refuse(row, error);
        }
        let bytes = record.key().map_or(0, <[u8]>::len) + sized.map_or(0, <[u8]>::len);
        let alone = encoded || record.time().is_some() || record.headers().next().is_some();
        if alone || self.plan.options.partition == PartitionBy::RoundRobin {
            return self.send_alone(row, record, encoded, partition, bytes);
        }
        if partition != self.partition || self.run.len() >= RUN_MAX {
            self.send_run()?;
            self.partition = partition;
        }
        self.run.push(record.key(), value, self.ledger.ticket(self.id, row));
        self.held += bytes;
        Ok(())
    }

    /// Sends what the run holds.
    fn send_run(&mut self) -> Step {
        let Some((name, at)) = self.topic.filter(|_| self.run.len() > 0) else { return Ok(()) };
        let (count, held) = (self.run.len(), std::mem::take(&mut self.held));
        let (plan, topic) = (self.plan, self.topics.native(at, name, self.producer));
        let topic = topic.map_err(|code| failed(plan, name, code))?;
        let left = self.run.send(topic, self.partition);
        self.records += count - left.len();
        self.bytes += held - left.iter().map(|(_, bytes, _)| bytes).sum::<usize>();
        left.into_iter().try_for_each(|(ticket, _, code)| self.not_taken(row_of(ticket), name, code))
    }

    /// Sends a record that has a header or a time: for those there is no call with many.
    fn send_alone(
        &mut self,
        row: usize,
        record: &RecordRef<'a>,
        encoded: bool,
        partition: Option<i32>,
        bytes: usize,
    ) -> Step {
        self.send_run()?;
        let Some((name, at)) = self.topic else { return Ok(()) };
        let value = if encoded { Some(&**self.scratch) } else { record.value() };
        // Librdkafka reads 0 as "now": nothing is older than a millisecond after 1970.
        let time = record.time().map(|time| time.as_millis().max(1));
        let ticket = self.ledger.ticket(self.id, row);
        let (plan, topic) = (self.plan, self.topics.native(at, name, self.producer));
        let topic = topic.map_err(|code| failed(plan, name, code))?;
        match topic.send((partition, time, ticket), (record.key(), value), record.headers()) {
            Ok(()) => {
                self.records += 1;
                self.bytes += bytes;
                Ok(())
            }
            Err(code) => self.not_taken(row, name, code),
        }
    }

    /// Notes that a record is refused, when all before it are sent.
    fn refuse(&mut self, row: usize, error: Error) -> Step {
        self.send_run()?;
        self.ledger.reject(self.id, row, error);
        Ok(())
    }

    /// What follows from the queue's answer.
    fn not_taken(&mut self, row: usize, name: &str, code: Code) -> Step {
        match (code, kind_of(code)) {
            (Code::QueueFull, _) => Err(Box::new(Sent::Full(row))),
            (_, ErrorKind::TooLarge | ErrorKind::Rejected | ErrorKind::NotFound) => {
                let error = coded(format!("`{name}` does not take the record"), code);
                self.ledger.reject(self.id, row, error.caused_by(KafkaError::MessageProduction(code)));
                Ok(())
            }
            _ => Err(failed(self.plan, name, code)),
        }
    }
}

fn failed(plan: &Planned, name: &str, code: Code) -> Box<Sent> {
    let error = coded(format!("cannot write to `{name}` at {}", plan.access.shown), code);
    Box::new(Sent::Failed(error.with_kind(ErrorKind::Unavailable).caused_by(KafkaError::MessageProduction(code))))
}
