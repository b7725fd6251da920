//! A source that is open: connected, assigned or subscribed, with its thread.

use std::{
    collections::BTreeMap,
    ffi::CString,
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use millstream_core::{Error, ErrorKind, Result, Resume, SeekTo, ShardKey};
use rdkafka::{
    Offset,
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::sync::watch;

use super::{
    assemble::Assembler,
    depth::{Depth, Sounder},
    group::Group,
    handover::{Handover, Item, What},
    plan::Planned,
    reader::{Command, Reader},
    scout::Scout,
    shards::Table,
    start::{Begin, begins, no_match, partition_of},
};
use crate::{
    client::{Cluster, list_of},
    context::Context,
    error::failed,
    native::{Ends, Inbox},
};

/// How long closing waits for the thread: to leave a group takes a request or two.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// The thread that reads, and how to reach it. It ends when this is dropped.
pub(super) struct Running {
    pub(super) handover: Arc<Handover>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) depth: Depth,
    /// Weak: the thread lets the client go, which may block.
    pub(super) consumer: Weak<BaseConsumer<Context>>,
    ended: watch::Receiver<bool>,
    /// Ends the scout when it is dropped.
    _scout: Option<mpsc::Sender<()>>,
    /// Tells the plan that a source still has it.
    _held: Arc<()>,
}

/// All that is known before the thread starts.
pub(super) struct Started {
    cluster: Cluster,
    pub(super) begins: Vec<Begin>,
    topics: BTreeMap<String, i32>,
}

impl Running {
    /// Ends the thread, and waits for it.
    pub(super) async fn stop(mut self) {
        // A thread that has gone has stopped.
        let _ = self.commands.send(Command::Stop);
        let ended = tokio::time::timeout(CLOSE_WAIT, self.ended.wait_for(|ended| *ended)).await;
        if ended.is_err() {
            tracing::warn!("a client of Kafka takes long to close; it is left alone");
        }
    }
}

/// Connects, and finds out where everything begins. Blocks.
pub(super) fn connect(plan: &Planned, resume: &Resume) -> Result<Started> {
    let cluster = Cluster::new(&plan.access, &plan.config)?;
    cluster.connect()?;
    let topics = cluster.topics(&plan.address.topics, plan.pattern.as_ref())?;
    if topics.is_empty() && resume.until_end {
        return Err(no_match(plan, ErrorKind::NotFound));
    }
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
pub(super) fn start(plan: &Arc<Planned>, resume: &Resume, started: Started) -> Result<Running> {
    let inbox = Inbox::new(started.cluster.consumer.clone());
    let handover = Arc::new(Handover::default());
    if started.topics.is_empty() {
        // A state that is told; the first topic that is found ends it.
        let waits = What::Failed(no_match(plan, ErrorKind::Unavailable));
        handover.push(Item { what: waits, marks: Vec::new() });
    }
    let (commands, orders) = mpsc::channel();
    let (group, table, scout) = match &plan.options.group {
        Some(_) => (Some(subscribe(plan, resume, &started)?), Table::default(), None),
        None => {
            let table = assign(plan, resume, &started, &inbox)?;
            let scout = if resume.until_end { None } else { Some(scout(plan, &started).start(commands.clone())?) };
            (None, table, scout)
        }
    };
    let sounder = Sounder::new(Ends::new(started.cluster.consumer.clone(), plan.options.isolation));
    let depth = sounder.depth.clone();
    started.begins.iter().for_each(|begin| depth.note(&begin.shard, begin.end));
    let consumer = Arc::downgrade(&started.cluster.consumer);
    let reader = Reader {
        inbox,
        sounder,
        cluster: started.cluster,
        plan: plan.clone(),
        handover: handover.clone(),
        commands: orders,
        table,
        assembler: Assembler::new(plan.codec, plan.options.headers),
        group,
        on_missing: plan.options.on_missing,
        until_end: resume.until_end,
        ended: false,
        troubled_at: None,
    };
    let (ended, ends) = watch::channel(false);
    let last = Last { handover: handover.clone(), ended };
    let spawned = thread::Builder::new().name("kafka-reader".to_owned()).spawn(move || {
        reader.run();
        drop(last);
    });
    spawned.map_err(|error| Error::new(ErrorKind::Unavailable, "cannot start a thread").caused_by(error))?;
    let held = Arc::new(());
    plan.note_last(ends.clone(), &held);
    Ok(Running { handover, commands, depth, consumer, ended: ends, _scout: scout, _held: held })
}

/// Dropped when the thread ends, also by a panic: nobody waits for it any more.
struct Last {
    handover: Arc<Handover>,
    ended: watch::Sender<bool>,
}

impl Drop for Last {
    fn drop(&mut self) {
        self.handover.end();
        self.ended.send_replace(true);
    }
}

/// Joins the group; its partitions come later.
fn subscribe(plan: &Planned, resume: &Resume, started: &Started) -> Result<Group> {
    let names: Vec<&str> = match &plan.options.pattern {
        Some(pattern) => vec![pattern],
        None => plan.address.topics.iter().map(String::as_str).collect(),
    };
    let what = || format!("cannot read {}", plan.access.shown);
    started.cluster.consumer.subscribe(&names).map_err(|error| failed(what(), error))?;
    Ok(Group {
        stamp: resume.stamp.clone(),
        saved: resume.position.clone().unwrap_or_default(),
        sought: BTreeMap::new(),
        keyed: resume.keyed,
        fresh: resume.fresh,
        start: resume.start.clone(),
        coming: None,
        leaving: None,
        topics: started.topics.clone(),
        asked_at: None,
        needed: resume.keyed.then(|| started.topics.values().map(|count| *count as usize).sum()),
        told_at: None,
        begun: false,
    })
}

/// Reads all partitions.
fn assign(plan: &Planned, resume: &Resume, started: &Started, inbox: &Inbox) -> Result<Table> {
    let mut table = Table::default();
    let partitions: Vec<_> =
        started.begins.iter().map(|begin| (partition_of(&begin.shard), Offset::Offset(begin.offset))).collect();
    for (begin, ((topic, partition), _)) in started.begins.iter().zip(&partitions) {
        if let Ok(topic) = CString::new(topic.as_bytes()) {
            inbox.redirect(&topic, *partition);
        }
        table.insert(begin, resume.until_end);
    }
    let list = list_of(partitions.iter().map(|(partition, offset)| (partition, *offset)));
    list.and_then(|list| started.cluster.consumer.incremental_assign(&list))
        .map_err(|error| failed(format!("cannot read {}", plan.access.shown), error))?;
    Ok(table)
}

fn scout(plan: &Planned, started: &Started) -> Scout {
    Scout {
        cluster: Cluster { consumer: started.cluster.consumer.clone(), access: plan.access.clone() },
        topics: plan.address.topics.clone(),
        pattern: plan.pattern.clone(),
        every: plan.options.discover.0,
        known: started.topics.keys().map(|topic| (topic.clone(), topic.as_str().into())).collect(),
    }
}
