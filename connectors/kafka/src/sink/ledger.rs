//! What became of each record: delivery reports by write and row.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicIsize, Ordering},
    },
};

use millstream_core::{Error, ErrorKind, Outcomes, WriteId};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tokio::sync::Notify;

use crate::{
    context::lock,
    error::{coded, failed, kind_of},
    native::Message,
};

/// Sinks that share a producer; their number is in a byte of each ticket.
const SINKS_MAX: usize = 256;
/// Writes whose outcome nobody has asked for; their number is in three bytes of each ticket.
const WRITES_MAX: usize = 1 << 20;
/// Bits of a row in a ticket, and of row and write.
const ROW_BITS: u32 = 32;
const WRITE_BITS: u32 = 24;

/// The books of all sinks that write through one producer.
#[derive(Default)]
pub(crate) struct Ledgers {
    all: Mutex<Vec<Books>>,
    /// Somebody waits for room in the producer's queue.
    room_wanted: AtomicBool,
    /// Bytes of keys and values that are on their way. Of a batch that is being sent only about so many.
    bytes: AtomicIsize,
    /// Records may wait in the producer for others that do not come.
    hurries: AtomicBool,
}

/// The books of one sink.
#[derive(Default)]
struct Books {
    open: VecDeque<Write>,
    next: WriteId,
    /// Records that are on their way.
    outstanding: usize,
    /// Why some of them are neither delivered nor refused.
    failed: Option<Error>,
    /// A broker has refused some for the size of the batch in which they were.
    too_large: bool,
    /// With so many bytes on their way, some partition has a whole batch of them.
    full: usize,
    changed: Arc<Notify>,
}

struct Write {
    offsets: Vec<i64>,
    rejected: Vec<(u32, Error)>,
    /// Records whose outcome is not known.
    left: usize,
}

/// One sink's view of its books.
#[derive(Clone)]
pub(crate) struct Ledger {
    ledgers: Arc<Ledgers>,
    slot: usize,
    changed: Arc<Notify>,
}

/// How writes stand.
pub(crate) enum Standing {
    /// All are settled.
    Settled,
    /// Some are on their way.
    Open,
}

impl Ledgers {
    /// Books for another sink.
    pub(crate) fn open(self: &Arc<Self>) -> Result<Ledger, Error> {
        let mut all = lock(&self.all);
        if all.len() >= SINKS_MAX {
            return Err(Error::new(ErrorKind::Plan, format!("no more than {SINKS_MAX} sinks can share a transaction")));
        }
        let books = Books::default();
        let changed = books.changed.clone();
        all.push(books);
        Ok(Ledger { ledgers: self.clone(), slot: all.len() - 1, changed })
    }

    /// The reports of an event, all under one lock.
    pub(crate) fn settle<'a>(&self, reports: impl Iterator<Item = Message<'a>>) {
        let mut done = 0;
        let mut all = lock(&self.all);
        for report in reports {
            let (ticket, bytes) = report.ticket();
            done += bytes;
            let row = ticket as u32;
            let write = ticket >> ROW_BITS & ((1 << WRITE_BITS) - 1);
            let slot = ticket >> (ROW_BITS + WRITE_BITS);
            let Some(books) = all.get_mut(slot) else { continue };
            books.outstanding = books.outstanding.saturating_sub(1);
            let first = books.next as usize - books.open.len();
            let index = write.wrapping_sub(first) & ((1 << WRITE_BITS) - 1);
            let Some(open) = books.open.get_mut(index) else { continue };
            open.left = open.left.saturating_sub(1);
            match report.error() {
                None => {
                    if let Some(offset) = open.offsets.get_mut(row as usize) {
                        *offset = report.offset();
                    }
                }
                Some(code) => books.not_delivered(index, row, code, report.topic()),
            }
        }
        let left = self.bytes.fetch_sub(done as isize, Ordering::AcqRel) - done as isize;
        // librdkafka 2.12 has one request with more than a few records under way for a partition at a time. So what has gathered
        // behind the one that is answered should go now, unless it is a whole batch, which goes anyway.
        let full = all.iter().fold(0_usize, |sum, books| sum.saturating_add(books.full));
        if (left.max(0) as usize) < full && all.iter().any(|books| books.outstanding > 0) {
            self.hurries.store(true, Ordering::Release);
        }
        let room_wanted = self.room_wanted.swap(false, Ordering::AcqRel);
        let news =
            |books: &&Books| room_wanted || books.outstanding == 0 || books.failed.is_some() || books.settled() > 0;
        for books in all.iter().filter(news) {
            books.changed.notify_one();
        }
    }

    /// Whether records may wait for others that do not come; said once.
    pub(crate) fn hurries(&self) -> bool {
        self.hurries.swap(false, Ordering::AcqRel)
    }

    /// Whether no record is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        lock(&self.all).iter().all(|books| books.outstanding == 0)
    }
}

impl Books {
    /// How many of the oldest writes are settled.
    fn settled(&self) -> usize {
        self.open.iter().take_while(|write| write.left == 0).count()
    }

    /// Takes out the oldest writes, with their outcomes.
    fn take(&mut self, writes: usize, told: bool) -> Outcomes {
        let first = self.next - self.open.len() as u64;
        let mut outcomes = Outcomes::default();
        for (id, mut write) in (first..).zip(self.open.drain(..writes)) {
            write.rejected.sort_unstable_by_key(|(row, _)| *row);
            outcomes.rejected.extend(write.rejected.into_iter().map(|(row, error)| (id, row, error)));
            if told {
                // A refused record has no sequence; its place is kept.
                outcomes.sequences.push((id, write.offsets.iter().map(|offset| (*offset).max(0) as u128).collect()));
            }
        }
        outcomes
    }

    /// A record of an open write has been refused, or there is no telling.
    fn not_delivered(&mut self, index: usize, row: u32, code: Code, topic: &str) {
        let kind = kind_of(code);
        let cause = KafkaError::MessageProduction(code);
        if of_record(code, kind) {
            self.too_large |= kind == ErrorKind::TooLarge;
            let what = format!("`{topic}` does not take the record");
            if let Some(open) = self.open.get_mut(index) {
                open.rejected.push((row, coded(what, code).with_kind(kind).caused_by(cause)));
            }
        } else {
            let error = failed(format!("cannot write to `{topic}`"), cause);
            // A transaction that has become too old looks the same: it is for the host to find out.
            let again = matches!(error.kind(), ErrorKind::Fenced | ErrorKind::NotFound);
            self.failed.get_or_insert(if again { error.with_kind(ErrorKind::Unavailable) } else { error });
        }
    }
}

/// The row in a ticket.
pub(super) fn row_of(ticket: usize) -> usize {
    ticket & ((1 << ROW_BITS) - 1)
}

/// Whether an error is about the record, and not about the way to its broker.
fn of_record(code: Code, kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::TooLarge | ErrorKind::Rejected => true,
        // A broker that has just come back may not know a topic yet: whether it is there is asked when the sink is opened again.
        ErrorKind::NotFound => !matches!(code, Code::UnknownTopic | Code::UnknownTopicOrPartition),
        ErrorKind::Permission => code == Code::TopicAuthorizationFailed,
        _ => false,
    }
}

impl Ledger {
    /// A new write with so many rows.
    pub(crate) fn begin(&self, rows: usize) -> Result<WriteId, Error> {
        let mut all = lock(&self.ledgers.all);
        let full = || Error::new(ErrorKind::Full, "too many writes whose outcome nobody has asked for");
        let books = all.get_mut(self.slot).filter(|books| books.open.len() < WRITES_MAX).ok_or_else(full)?;
        books.open.push_back(Write { offsets: vec![-1; rows], rejected: Vec::new(), left: rows });
        books.next += 1;
        Ok(books.next - 1)
    }

    /// What a record takes along, to be known by when its report comes.
    pub(crate) fn ticket(&self, id: WriteId, row: usize) -> usize {
        (self.slot << (ROW_BITS + WRITE_BITS)) | ((id as usize & ((1 << WRITE_BITS) - 1)) << ROW_BITS) | row
    }

    /// So many records with so many bytes of key and value are on their way. To be called before they are sent: reports may
    /// be quick.
    pub(crate) fn sending(&self, records: usize, bytes: usize) {
        self.ledgers.bytes.fetch_add(bytes as isize, Ordering::AcqRel);
        if let Some(books) = lock(&self.ledgers.all).get_mut(self.slot) {
            books.outstanding += records;
        }
    }

    /// So many records have been sent; with `full` bytes on their way some partition has a whole batch. Whether nothing else is on
    /// its way: then no report comes that lets them go.
    pub(crate) fn sent(&self, records: usize, full: usize) -> bool {
        let mut all = lock(&self.ledgers.all);
        if let Some(books) = all.get_mut(self.slot) {
            books.full = full;
        }
        let alone = all.iter().map(|books| books.outstanding).sum::<usize>() <= records;
        self.ledgers.hurries.fetch_or(alone, Ordering::AcqRel);
        alone
    }

    /// So many of them were not sent after all. Fewer bytes than none: there were more than was thought.
    pub(crate) fn not_sent(&self, records: usize, bytes: isize) {
        self.ledgers.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if records == 0 {
            return;
        }
        if let Some(books) = lock(&self.ledgers.all).get_mut(self.slot) {
            books.outstanding = books.outstanding.saturating_sub(records);
            if books.outstanding == 0 {
                books.changed.notify_one();
            }
        }
    }

    /// Bytes that are on their way, of all sinks that share the producer.
    pub(crate) fn bytes(&self) -> usize {
        self.ledgers.bytes.load(Ordering::Acquire).max(0) as usize
    }

    /// A record that was refused before it was sent.
    pub(crate) fn reject(&self, id: WriteId, row: usize, error: Error) {
        let mut all = lock(&self.ledgers.all);
        let Some(books) = all.get_mut(self.slot) else { return };
        let first = books.next - books.open.len() as u64;
        let index = id.checked_sub(first).and_then(|index| usize::try_from(index).ok());
        if let Some(open) = index.and_then(|index| books.open.get_mut(index)) {
            open.rejected.push((row as u32, error));
            open.left = open.left.saturating_sub(1);
        }
    }

    /// Some records can neither be delivered nor be refused.
    pub(crate) fn fail(&self, error: &Error) {
        if let Some(books) = lock(&self.ledgers.all).get_mut(self.slot) {
            books.failed.get_or_insert_with(|| error.clone());
        }
    }

    /// Whether a broker has refused some for the size of their batch, and nobody has looked into it.
    pub(crate) fn is_too_large(&self) -> bool {
        lock(&self.ledgers.all).get(self.slot).is_some_and(|books| books.too_large)
    }

    /// Somebody has looked into it.
    pub(crate) fn looked_into(&self) {
        if let Some(books) = lock(&self.ledgers.all).get_mut(self.slot) {
            books.too_large = false;
        }
    }

    /// How the writes stand; an error where some can neither be delivered nor be refused.
    pub(crate) fn standing(&self) -> Result<Standing, Error> {
        let all = lock(&self.ledgers.all);
        match all.get(self.slot) {
            Some(Books { failed: Some(error), .. }) => Err(error.clone()),
            Some(Books { outstanding: 0, .. }) | None => Ok(Standing::Settled),
            Some(_) => Ok(Standing::Open),
        }
    }

    /// Waits for a change, after the wish for one has been made known.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Asks to be told of the next report: the producer's queue is full.
    pub(crate) fn want_room(&self) {
        self.ledgers.room_wanted.store(true, Ordering::Release);
    }

    /// The truth about all writes, which are settled.
    pub(crate) fn take(&self, told: bool) -> Outcomes {
        let mut all = lock(&self.ledgers.all);
        all.get_mut(self.slot).map_or_else(Outcomes::default, |books| books.take(books.open.len(), told))
    }

    /// The truth about the oldest writes, as many as are settled: up to which one.
    pub(crate) fn take_settled(&self, told: bool) -> Option<(WriteId, Outcomes)> {
        let mut all = lock(&self.ledgers.all);
        let books = all.get_mut(self.slot)?;
        let settled = books.settled();
        if settled == 0 {
            return None;
        }
        let upto = books.next - books.open.len() as u64 + settled as u64 - 1;
        Some((upto, books.take(settled, told)))
    }
}
