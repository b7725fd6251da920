//! The thread that reads: it alone polls the client, answers rebalances, seeks and commits. Whatever blocks, blocks here.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use millstream_core::{Error, ErrorKind, OnMissing, Read, Result, Resume, SeekTo, ShardKey, Stamp};
use rdkafka::{
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode as Code},
};
use tokio::sync::oneshot;

use super::{
    assemble::Assembler,
    depth::Sounder,
    group::Group,
    handover::{Handover, Item, What},
    places::Moved,
    plan::Planned,
    scout::Sighting,
    shards::{Reading, State, Table},
    start::{missing, no_match},
};
use crate::{
    client::Cluster,
    error::{coded, failed},
    native::{Inbox, Message},
};

/// How long the thread waits for records, and so at most for a command.
pub(super) const TURN: Duration = Duration::from_millis(20);
/// Events of one turn: a poll that finds a line for the log says no more than one that finds nothing.
const EVENTS: usize = 4;
/// A topic that a broker does not know is looked for again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Trouble with the brokers is told again after this.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What the source asks of the thread.
pub(super) enum Command {
    Seek(SeekTo, Option<Vec<ShardKey>>, oneshot::Sender<Result<Moved>>),
    Reopen(Box<Resume>, oneshot::Sender<Result<Vec<(ShardKey, i64)>>>),
    Commit(Vec<(ShardKey, i64)>, Option<Stamp>, oneshot::Sender<Result<()>>),
    Release(Vec<ShardKey>, oneshot::Sender<Result<()>>),
    Sighted(Sighting),
    Stop,
}

pub(super) struct Reader {
    // Fields are dropped in this order: the queue before the client.
    pub(super) inbox: Inbox,
    pub(super) sounder: Sounder,
    pub(super) cluster: Cluster,
    pub(super) plan: Arc<Planned>,
    pub(super) handover: Arc<Handover>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) table: Table,
    pub(super) assembler: Assembler,
    pub(super) group: Option<Group>,
    pub(super) on_missing: OnMissing,
    pub(super) until_end: bool,
    pub(super) ended: bool,
    /// When trouble was told, while it lasts.
    pub(super) troubled_at: Option<Instant>,
}

/// Also where the thread panics: a client that is let go waits for its group's last rebalance, which nobody answers then.
impl Drop for Reader {
    fn drop(&mut self) {
        self.cluster.consumer.context().close();
    }
}

/// What a turn of draining saw beside records.
enum Note {
    End(usize, i64),
    Error(Code, String, ShardKey, i64),
}

impl Reader {
    /// Reads until it is told to stop, or nobody listens any more.
    pub(super) fn run(mut self) {
        loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    let fatal = !error.facts().retry;
                    tracing::debug!(error = %error.chain(), fatal, "the reader meets an error");
                    self.hand_over();
                    self.push(What::Failed(error));
                    if fatal && !self.wait_for_stop() {
                        break;
                    }
                }
            }
        }
        self.leave();
    }

    /// One turn; `false` when it is time to stop.
    fn turn(&mut self) -> Result<bool> {
        loop {
            match self.commands.try_recv() {
                Ok(command) => {
                    if !self.obey(command)? {
                        return Ok(false);
                    }
                }
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return Ok(false),
            }
        }
        for _ in 0..EVENTS {
            if let Some(Err(error)) = self.cluster.consumer.poll(Duration::ZERO) {
                self.event(error)?;
            }
        }
        self.cluster.consumer.context().contact.keep(self.cluster.consumer.client());
        if self.group.is_some() {
            self.answer_rebalances()?;
        }
        self.trouble()?;
        self.sound();
        self.read_again()?;
        if self.ended || self.is_held_back()? {
            std::thread::sleep(TURN);
            return Ok(true);
        }
        if self.handover.has_room(TURN) {
            self.drain()?;
        }
        Ok(true)
    }

    fn obey(&mut self, command: Command) -> Result<bool> {
        // Who has asked and no longer listens needs no answer.
        match command {
            Command::Seek(to, shards, answer) => {
                let _ = answer.send(self.seek(&to, shards.as_deref()));
            }
            Command::Reopen(resume, answer) => {
                let _ = answer.send(self.reopen(*resume));
            }
            Command::Commit(offsets, stamp, answer) => {
                let committed = self.commit(&offsets, stamp.as_ref(), || answer.is_closed());
                let _ = answer.send(committed);
            }
            Command::Release(shards, answer) => {
                let _ = answer.send(self.release(&shards));
            }
            Command::Sighted(sighting) => self.sighted(sighting)?,
            Command::Stop => return Ok(false),
        }
        Ok(true)
    }

    /// Takes what has come, and hands it over in batches.
    fn drain(&mut self) -> Result<()> {
        let Reader { inbox, table, assembler, .. } = self;
        let mut notes = Vec::new();
        // A topic that is read has its address to itself until this thread gives it away.
        let mut newest: Option<(usize, i32, usize)> = None;
        inbox.drain(TURN, |message| {
            let (topic, partition) = (message.topic_address(), message.partition());
            let index = match newest {
                Some((same, number, index)) if same == topic && number == partition => Some(index),
                _ => table.find(message.topic(), partition),
            };
            newest = index.map(|index| (topic, partition, index));
            take(&message, index, table, assembler, &mut notes);
        });
        self.hand_over();
        for note in notes {
            self.note(note)?;
        }
        if self.until_end && !self.ended && (self.table.all_done() || self.has_no_part()) {
            self.ended = true;
            self.push(What::End);
        }
        Ok(())
    }

    pub(super) fn hand_over(&mut self) {
        for item in self.assembler.finish() {
            if self.troubled_at.take().is_some() {
                tracing::info!(url = self.cluster.access.shown, "reading goes on");
            }
            self.handover.push(item);
        }
    }

    pub(super) fn push(&self, what: What) {
        self.handover.push(Item { what, marks: Vec::new() });
    }

    fn note(&mut self, note: Note) -> Result<()> {
        match note {
            Note::End(index, offset) => {
                // Of one that is done records may have come behind its end, which are not ours.
                let reading = self.table.at(index).filter(|reading| reading.state == State::Active);
                let Some(reading) = reading else { return Ok(()) };
                let end = reading.until.map_or(offset, |until| offset.min(until));
                // Behind the last record there may be marks of transactions.
                if end > reading.next {
                    reading.next = end;
                    let marks = vec![(reading.key.clone(), Some(end))];
                    finish_at_end(reading);
                    self.handover.push(Item { what: What::Read(Read::new(empty(), Vec::new())), marks });
                } else {
                    finish_at_end(reading);
                }
                Ok(())
            }
            Note::Error(code, text, shard, offset) => self.partition_error(code, &text, &shard, offset),
        }
    }

    fn partition_error(&mut self, code: Code, text: &str, shard: &ShardKey, offset: i64) -> Result<()> {
        let shown = &self.cluster.access.shown;
        match code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation
                if self.on_missing == OnMissing::Fail =>
            {
                let next = self.table.get(shard).map_or(offset, |reading| reading.next);
                Err(missing(shard, next, None).caused_by(std::io::Error::other(text.to_owned())))
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => self.check_is_there(shard),
            _ => {
                let error = coded(format!("cannot read {shard} at {shown}"), code);
                let error = error.caused_by(std::io::Error::other(text.to_owned()));
                if error.facts().retry {
                    tracing::debug!(%shard, code = %code, text, "trouble with a partition");
                    return Ok(());
                }
                Err(error)
            }
        }
    }

    /// An event of the whole client.
    fn event(&mut self, error: KafkaError) -> Result<()> {
        let shown = self.cluster.access.shown.clone();
        match error.rdkafka_error_code() {
            // Partitions are assigned by hand: what brokers say of a group does not matter.
            Some(_) if self.group.is_none() => Ok(()),
            // The code says no more than that; the client keeps the one that does.
            Some(_) if matches!(error, KafkaError::MessageConsumptionFatal(_)) => self.end_member(),
            Some(Code::Fatal) => self.end_member(),
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) if self.plan.pattern.is_some() => {
                Err(no_match(&self.plan, ErrorKind::Unavailable))
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                let topics = self.plan.address.topics.iter();
                topics.map(|topic| ShardKey::new(topic.as_str(), 0)).try_for_each(|shard| self.check_is_there(&shard))
            }
            Some(Code::PollExceeded) => Ok(()),
            Some(code) => {
                tracing::debug!(%code, "an event of the client");
                let error = failed(format!("cannot read {shown} with the group"), error);
                if error.facts().retry { Ok(()) } else { Err(error) }
            }
            None => Ok(()),
        }
    }

    /// A broker has said that it does not know a partition. It may have just come back, and not know all yet; so the cluster is
    /// asked, and once more a little later.
    fn check_is_there(&self, shard: &ShardKey) -> Result<()> {
        for wait in [Duration::ZERO, LOOK_AGAIN] {
            std::thread::sleep(wait);
            let there = self
                .cluster
                .partitions(&shard.stream)
                .map(|count| count.is_some_and(|count| shard.shard < count as u64));
            // Who does not answer says nothing of a topic.
            if !matches!(there, Ok(false)) {
                tracing::debug!(%shard, ?there, "it was not known to a broker");
                return Ok(());
            }
        }
        Err(gone(shard, &self.cluster.access.shown))
    }

    /// Tells trouble with the connection, from time to time while it lasts.
    fn trouble(&mut self) -> Result<()> {
        let Some(error) = self.cluster.consumer.context().take_trouble() else { return Ok(()) };
        let waited = self.troubled_at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if !error.facts().retry {
            return Err(error);
        }
        // One broker of several may be away without harm; who is read from it then gets nothing, and that is told here.
        if waited && self.handover.is_empty() {
            self.troubled_at = Some(Instant::now());
            return Err(error);
        }
        Ok(())
    }

    fn sighted(&mut self, sighting: Sighting) -> Result<()> {
        match sighting {
            Sighting::Here => {
                if self.troubled_at.take().is_some() {
                    // Clears what was told of the trouble.
                    self.push(What::Added(Vec::new()));
                }
                Ok(())
            }
            Sighting::Partitions(found) => self.add(found),
            Sighting::Gone(topic) => Err(gone(&ShardKey::new(topic, 0), &self.cluster.access.shown)),
        }
    }

    /// After an error for good only the end is waited for; `true` if somebody goes elsewhere.
    fn wait_for_stop(&mut self) -> bool {
        loop {
            match self.commands.recv_timeout(Duration::from_millis(100)) {
                Ok(Command::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return false,
                Ok(Command::Seek(to, shards, answer)) => {
                    let sought = self.seek(&to, shards.as_deref());
                    let went = sought.is_ok();
                    let _ = answer.send(sought);
                    if went {
                        return true;
                    }
                }
                Ok(Command::Reopen(resume, answer)) => {
                    let opened = self.reopen(*resume);
                    let went = opened.is_ok();
                    let _ = answer.send(opened);
                    if went {
                        return true;
                    }
                }
                Ok(command) => {
                    // Errors of these are told in their answers.
                    let _ = self.obey(command);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => while self.cluster.consumer.poll(Duration::ZERO).is_some() {},
            }
        }
    }

    /// Gives everything away and lets the client go, which leaves its group.
    fn leave(mut self) {
        self.cluster.consumer.context().close();
        if self.group.is_some() {
            self.give_all_away();
        }
    }
}

/// One message: a record of a partition that is read, or a note.
fn take(
    message: &Message<'_>,
    index: Option<usize>,
    table: &mut Table,
    assembler: &mut Assembler,
    notes: &mut Vec<Note>,
) {
    if let Some(code) = message.error() {
        match (code, index) {
            (Code::PartitionEOF, Some(index)) => notes.push(Note::End(index, message.offset())),
            (Code::PartitionEOF, None) => {}
            // The client goes on behind it.
            (Code::BadMessage, Some(index)) => table.damage(index, text(message)),
            _ => {
                let text = text(message);
                let shard = ShardKey::new(message.topic(), message.partition().max(0) as u64);
                notes.push(Note::Error(code, text, shard, message.offset()));
            }
        }
        return;
    }
    let Some(reading) = index.and_then(|index| table.at(index)) else { return };
    let offset = message.offset();
    if reading.state != State::Active {
        return;
    }
    if offset < reading.next {
        // The log began anew, and the client with it, as `on_missing` allows.
        reading.skip_to = offset;
    }
    if offset < reading.skip_to {
        return;
    }
    if reading.until.is_some_and(|until| offset >= until) {
        reading.state = State::Done;
        return;
    }
    assembler.push(&reading.key, message);
    reading.next = offset + 1;
    if reading.until.is_some_and(|until| reading.next >= until) {
        reading.state = State::Done;
    }
}

/// What the client says of an error.
fn text(message: &Message<'_>) -> String {
    message.value().map(String::from_utf8_lossy).unwrap_or_default().into_owned()
}

fn finish_at_end(reading: &mut Reading) {
    if reading.state == State::Active && reading.until.is_some_and(|until| reading.next >= until) {
        reading.state = State::Done;
    }
}

fn empty() -> millstream_core::Batch {
    millstream_core::BatchBuilder::new().finish()
}

fn gone(shard: &ShardKey, shown: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the topic `{}` is gone from {shown}", shard.stream))
        .hint("it was deleted, or this user may no longer see it; create it again, or read others")
}
