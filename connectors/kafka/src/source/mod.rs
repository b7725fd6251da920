//! The source `kafka`: what the thread in `reader.rs` reads, in order.
//!
//! ```text
//!   broker ──► librdkafka's queue ──► Reader (its own thread) ──► Handover ──► KafkaSource::next
//!              (`prefetch` bytes)      batches, rebalances,       (4 MiB)
//!                                      commits, seeks
//! ```

mod acks;
mod assemble;
mod group;
mod handover;
pub(crate) mod owner;
mod plan;
mod reader;
mod scout;
mod shards;
mod start;

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use millstream_core::{
    Batch, Companion, Error, ErrorKind, Event, Lag, Position, Result, Resume, SeekTo, ShardKey, Source, Stamp,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio::sync::{oneshot, watch};

pub(crate) use plan::{Planned, plan};

use self::{
    acks::Acks,
    assemble::Assembler,
    group::Group,
    handover::{Handover, Item, What},
    reader::{Command, Reader},
    scout::Scout,
    shards::Table,
    start::{Begin, begins, partition_of},
};
use crate::{
    client::{Cluster, blocking, list_of},
    context::Context,
    error::{failed, gone, not_open},
    host::GroupCompanion,
    native::{self, Inbox},
};

/// How long closing waits for the thread: to leave a group takes a request or two.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// A source as opened, or not yet.
pub(crate) struct KafkaSource {
    plan: Arc<Planned>,
    running: Option<Running>,
    /// Behind the last record of each shard that `next` has returned.
    positions: BTreeMap<ShardKey, i64>,
    /// Of the checkpoint, and not read here now: what it says stays true until the group gives us the shard.
    carried: Position,
    /// Records from begin to end, where it ends.
    size: Option<u64>,
    /// Where a program reads with a group: which records are done.
    acks: Option<Acks>,
}

/// The thread that reads, and how to reach it. It ends when this is dropped.
struct Running {
    handover: Arc<Handover>,
    commands: mpsc::Sender<Command>,
    /// Weak: the thread lets the client go, which may block.
    consumer: Weak<BaseConsumer<Context>>,
    ended: watch::Receiver<bool>,
    /// Ends the scout when it is dropped.
    _scout: Option<mpsc::Sender<()>>,
    /// Tells the plan that a source still has it.
    _held: Arc<()>,
}

/// All that is known before the thread starts.
struct Started {
    cluster: Cluster,
    begins: Vec<Begin>,
    topics: BTreeMap<String, i32>,
}

impl KafkaSource {
    pub(crate) fn new(plan: Arc<Planned>) -> Self {
        KafkaSource { plan, running: None, positions: BTreeMap::new(), carried: Position::default(), size: None, acks: None }
    }

    fn running(&self) -> Result<&Running> {
        self.running.as_ref().ok_or_else(not_open)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.running()?.commands.send(command(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    fn note(&mut self, marks: Vec<(ShardKey, Option<i64>)>) {
        for (shard, mark) in marks {
            match mark {
                Some(next) => {
                    self.carried.0.remove(&shard);
                    self.positions.insert(shard, next);
                }
                None => {
                    self.positions.remove(&shard);
                }
            }
        }
    }

    /// They are read from here; what was handed out before says nothing any more.
    fn note_begins(&mut self, marks: &[(ShardKey, Option<i64>)]) {
        if let Some(acks) = &mut self.acks {
            marks.iter().for_each(|(shard, mark)| mark.iter().for_each(|next| acks.begin(shard, *next)));
        }
    }

    fn forget(&mut self, shards: &[ShardKey]) {
        for shard in shards {
            self.positions.remove(shard);
            self.carried.0.remove(shard);
            self.acks.iter_mut().for_each(|acks| acks.end(shard));
        }
    }

    /// What an item says, if it says anything.
    fn event(&mut self, Item { what, marks }: Item) -> Option<Result<Event>> {
        if matches!(what, What::Added(_)) {
            self.note_begins(&marks);
        }
        self.note(marks);
        Some(Ok(match what {
            What::Read(read) if read.batch.is_empty() => return None,
            What::Read(read) => {
                self.acks.iter_mut().for_each(|acks| acks.hand(&read.batch));
                Event::Batch(read)
            }
            What::Added(shards) => Event::Added(shards),
            What::Leaving(shards) => Event::Leaving(shards),
            What::Lost(shards) => {
                self.forget(&shards);
                Event::Lost(shards)
            }
            What::Failed(error) => return Some(Err(error)),
            What::End => Event::End,
        }))
    }

    /// Opened again, a member of a group stays one: its partitions go back to where they are committed.
    async fn reopen(&mut self, resume: &Resume) -> Result<()> {
        let resume = resume.clone();
        self.carried = resume.position.clone().unwrap_or_default();
        let places = self.ask(|answer| Command::Reopen(Box::new(resume), answer)).await?;
        self.positions.clear();
        let marks: Vec<_> = places.into_iter().map(|(shard, next)| (shard, Some(next))).collect();
        self.note_begins(&marks);
        self.note(marks);
        Ok(())
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        let grouped = self.plan.options.group.is_some();
        self.acks = (grouped && resume.stamp.is_none()).then(Acks::default);
        if grouped && self.running.is_some() && self.reopen(resume).await.is_ok() {
            return Ok(());
        }
        if let Some(old) = self.running.take() {
            old.stop().await;
        }
        // A thread of this plan's that was dropped without being closed leaves its group first.
        self.plan.wait_for_last().await;
        (self.positions, self.carried) = (BTreeMap::new(), resume.position.clone().unwrap_or_default());
        let (plan, resume_here) = (self.plan.clone(), resume.clone());
        let started = blocking(move || connect(&plan, &resume_here)).await??;
        self.size = (resume.until_end && !grouped)
            .then(|| started.begins.iter().map(|begin| u64::try_from(begin.end - begin.offset).unwrap_or(0)).sum());
        for begin in &started.begins {
            self.carried.0.remove(&begin.shard);
            self.positions.insert(begin.shard.clone(), begin.offset);
        }
        if !grouped {
            // Partitions of topics that are no longer read.
            self.carried = Position::default();
        }
        self.running = Some(start(&self.plan, resume, started)?);
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            let taken = self.running()?.handover.take().await;
            // From here on nothing waits: what was taken is returned.
            let item = taken.ok_or_else(gone)?;
            if let Some(event) = self.event(item) {
                return event;
            }
        }
    }

    async fn news(&mut self) -> Event {
        loop {
            let taken = match &self.running {
                Some(running) => running.handover.take_news().await,
                None => std::future::pending().await,
            };
            if let Some(Ok(event)) = self.event(taken) {
                return event;
            }
        }
    }

    fn position(&self) -> Result<Position> {
        let mut position = self.carried.clone();
        for (shard, next) in &self.positions {
            position.set(shard.clone(), next)?;
        }
        Ok(position)
    }

    async fn commit(&mut self, upto: &Position, stamp: Option<&Stamp>) -> Result<()> {
        if self.plan.options.group.is_none() {
            return Ok(());
        }
        let mut offsets = Vec::with_capacity(self.positions.len());
        for shard in self.positions.keys() {
            let upto = upto.shard::<i64>(shard)?;
            let done = match &mut self.acks {
                Some(acks) => acks.done_before(shard, upto),
                None => upto,
            };
            offsets.extend(done.map(|offset| (shard.clone(), offset)));
        }
        let stamp = stamp.cloned();
        self.ask(|answer| Command::Commit(offsets, stamp, answer)).await
    }

    async fn acknowledge(&mut self, records: &Batch) -> Result<()> {
        match &mut self.acks {
            Some(acks) => acks.done(records),
            None => {
                return Err(Error::new(ErrorKind::Unsupported, "only a group takes note of single records")
                    .hint("give `group`; in a pipeline positions are committed with epochs"));
            }
        }
        Ok(())
    }

    async fn seek(&mut self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<()> {
        let (to, shards) = (to.clone(), shards.map(<[ShardKey]>::to_vec));
        let moved = self.ask(|answer| Command::Seek(to, shards, answer)).await?;
        let marks: Vec<_> = moved.into_iter().map(|(shard, offset)| (shard, Some(offset))).collect();
        self.note_begins(&marks);
        self.note(marks);
        Ok(())
    }

    fn shards(&self) -> Vec<ShardKey> {
        self.positions.keys().cloned().collect()
    }

    fn lag(&self) -> Option<Lag> {
        let consumer = self.running.as_ref()?.consumer.upgrade()?;
        let behind = self.positions.iter().map(|(shard, next)| {
            let (topic, partition) = partition_of(shard);
            let (_, end) = native::watermarks(&consumer, &topic, partition)?;
            Some(u64::try_from(end - next).unwrap_or(0))
        });
        Some(Lag { records: Some(behind.sum::<Option<u64>>()?), bytes: None })
    }

    fn size(&self) -> Option<Lag> {
        self.size.map(|records| Lag { records: Some(records), bytes: None })
    }

    async fn release(&mut self, shards: &[ShardKey]) -> Result<()> {
        let leaving = shards.to_vec();
        self.ask(|answer| Command::Release(leaving, answer)).await?;
        self.forget(shards);
        Ok(())
    }

    fn companion(&self) -> Option<Companion> {
        self.plan.options.group.as_ref()?;
        let consumer = self.running.as_ref()?.consumer.upgrade()?;
        let offsets = self.positions.iter().map(|(shard, next)| (partition_of(shard), *next)).collect();
        let member = consumer.group_metadata()?;
        Some(Arc::new(GroupCompanion { cluster: self.plan.address.cluster(), offsets, member }))
    }

    async fn close(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
        Ok(())
    }
}

impl Running {
    /// Ends the thread, and waits for it.
    async fn stop(mut self) {
        // A thread that has gone has stopped.
        let _ = self.commands.send(Command::Stop);
        let ended = tokio::time::timeout(CLOSE_WAIT, self.ended.wait_for(|ended| *ended)).await;
        if ended.is_err() {
            tracing::warn!("a client of Kafka takes long to close; it is left alone");
        }
    }
}

/// Connects, and finds out where everything begins. Blocks.
fn connect(plan: &Planned, resume: &Resume) -> Result<Started> {
    let cluster = Cluster::new(&plan.access, &plan.config)?;
    cluster.connect()?;
    let topics = cluster.topics(&plan.address.topics, plan.pattern.as_ref())?;
    if plan.options.group.is_some() {
        return Ok(Started { cluster, begins: Vec::new(), topics });
    }
    let saved = resume.position.clone().unwrap_or_default();
    let mut shards = Vec::new();
    for (topic, count) in &topics {
        let name: Arc<str> = topic.as_str().into();
        // A partition that was added since is new as a whole.
        let known = saved.0.keys().any(|shard| shard.stream == name);
        for shard in (0..*count as u64).map(|shard| ShardKey { stream: name.clone(), shard }) {
            let at = saved.shard::<i64>(&shard)?;
            shards.push((shard, at, known && at.is_none()));
        }
    }
    let of = |new: bool| {
        shards
            .iter()
            .filter(move |(.., is_new)| *is_new == new)
            .map(|(shard, at, _)| (shard.clone(), *at))
            .collect::<Vec<_>>()
    };
    let mut found = begins(&cluster, &of(false), &resume.start, plan.options.on_missing)?;
    found.extend(begins(&cluster, &of(true), &SeekTo::Beginning, plan.options.on_missing)?);
    Ok(Started { cluster, begins: found, topics })
}

/// Assigns or subscribes, and starts the threads.
fn start(plan: &Arc<Planned>, resume: &Resume, started: Started) -> Result<Running> {
    let Started { cluster, begins, topics } = started;
    let consumer = cluster.consumer.clone();
    let inbox = Inbox::new(consumer.clone());
    let what = || format!("cannot read {}", plan.access.shown);
    let handover = Arc::new(Handover::default());
    let (commands, orders) = mpsc::channel();
    let mut table = Table::default();
    let mut scout = None;
    let group = plan.options.group.as_ref().map(|_| Group {
        stamp: resume.stamp.clone(),
        saved: resume.position.clone().unwrap_or_default(),
        keyed: resume.keyed,
        start: resume.start.clone(),
        coming: None,
        leaving: None,
        needed: resume.keyed.then(|| topics.values().map(|count| *count as usize).sum()),
        told_at: None,
    });
    if group.is_some() {
        let names: Vec<&str> = match &plan.options.pattern {
            Some(pattern) => vec![pattern],
            None => plan.address.topics.iter().map(String::as_str).collect(),
        };
        consumer.subscribe(&names).map_err(|error| failed(what(), error))?;
    } else {
        let partitions: Vec<_> = begins.iter().map(|begin| (partition_of(&begin.shard), begin.offset)).collect();
        for (begin, ((topic, partition), _)) in begins.iter().zip(&partitions) {
            if let Ok(topic) = std::ffi::CString::new(topic.as_bytes()) {
                inbox.redirect(&topic, *partition);
            }
            table.insert(begin, resume.until_end);
        }
        let list = list_of(partitions.iter().map(|(partition, offset)| (partition, rdkafka::Offset::Offset(*offset))));
        list.and_then(|list| consumer.incremental_assign(&list)).map_err(|error| failed(what(), error))?;
        if !resume.until_end {
            let scouting = Scout {
                cluster: Cluster { consumer: consumer.clone(), access: plan.access.clone() },
                topics: plan.address.topics.clone(),
                pattern: plan.pattern.clone(),
                every: plan.options.discover.0,
                known: topics.keys().map(|topic| (topic.clone(), topic.as_str().into())).collect(),
            };
            scout = Some(scouting.start(commands.clone())?);
        }
    }
    let weak = Arc::downgrade(&consumer);
    drop(consumer);
    let reader = Reader {
        inbox,
        cluster,
        handover: handover.clone(),
        commands: orders,
        table,
        assembler: Assembler::new(plan.codec),
        group,
        on_missing: plan.options.on_missing,
        until_end: resume.until_end,
        ended: false,
        troubled_at: None,
    };
    let (ended, ends) = watch::channel(false);
    let spawned = thread::Builder::new().name("kafka-reader".to_owned()).spawn(move || {
        // Told also when the thread panics: the sender is dropped.
        reader.run();
        ended.send_replace(true);
    });
    spawned.map_err(|error| Error::new(ErrorKind::Unavailable, "cannot start a thread").caused_by(error))?;
    let held = Arc::new(());
    plan.note_last(ends.clone(), &held);
    Ok(Running { handover, commands, consumer: weak, ended: ends, _scout: scout, _held: held })
}
