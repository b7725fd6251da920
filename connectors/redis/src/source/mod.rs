//! The source `redis_stream`: reads streams by id, or as a member of a group.
//!
//! ```text
//!   Lane, one for all keys (in a cluster for each slot) ──┐
//!   Scout, looks for new shards ──────────────────────────┴─► news ──► next()
//!   Router ◄── commit, keep_alive, seek
//! ```

mod assemble;
mod claim;
mod decode;
mod group;
mod join;
mod lag;
mod lane;
mod ledger;
mod link;
mod look;
mod opened;
mod place;
mod plan;
mod reading;
mod relaunch;
mod resume;
mod scout;
pub(crate) mod shards;
mod start;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::FuturesUnordered};
use millstream_core::{
    Batch, Companion, Error, ErrorKind, Event, Lag, Position, Result, Resume, SeekTo, ShardKey, Source, Stamp,
};
use tokio::sync::{Semaphore, mpsc};

pub(crate) use plan::plan;

use self::{
    assemble::Mark,
    decode::Shape,
    group::{GroupMark, Names},
    lag::Backlog,
    lane::{LaneKey, NEWS_MAX, News},
    ledger::Ledger,
    opened::Open,
    plan::RedisSourcePlan,
    reading::{Member, Reading},
    scout::{Gone, Scout},
    shards::{Finder, Shard},
    start::{Begin, from_the_beginning},
};
use crate::{
    client::{Router, Topology},
    error::not_open,
    exact::{Ack, Acks},
    id::EntryId,
    options::RedisSourceOptions,
    server::Server,
};

/// Reads streams.
pub(crate) struct RedisSource {
    options: RedisSourceOptions,
    server: Arc<Server>,
    streams: Vec<String>,
    shape: Shape,
    router: Router,
    open: Option<Open>,
}

impl RedisSource {
    fn new(plan: &RedisSourcePlan, shape: Shape) -> Self {
        RedisSource {
            options: plan.options.clone(),
            server: plan.server.clone(),
            streams: plan.streams.clone(),
            shape,
            router: Router::new(plan.server.clone()),
            open: None,
        }
    }

    fn open(&mut self) -> Result<(&mut Router, &mut Open)> {
        self.open.as_mut().map(|open| (&mut self.router, open)).ok_or_else(not_open)
    }

    fn reading(&self, resume: &Resume) -> Reading {
        let member = self.options.group.as_ref().map(|group| Member {
            group: group.clone(),
            name: group::member_name(group.member.as_deref(), resume),
            ledger: Ledger::default(),
            gate: Arc::new(Semaphore::new(1)),
        });
        Reading {
            server: self.server.clone(),
            shape: self.shape.clone(),
            batch: self.options.batch,
            member,
            until_end: resume.until_end,
            keyed: resume.keyed,
            on_missing: self.options.on_missing,
            backlog: Backlog::default(),
        }
    }

    async fn find(&mut self) -> Result<(Finder, Vec<Shard>)> {
        let mut finder = Finder::new(self.streams.clone());
        let mut shards = finder.find(&mut self.router, true).await?;
        if self.options.group.as_ref().is_some_and(|group| group.mkstream) {
            shards.extend(finder.missing().iter().map(|stream| finder.assume_plain(stream)));
        }
        Ok((finder, shards))
    }

    /// Streams that do not exist. Where they are waited for, it is an error that can pass.
    fn not_there(&self, streams: &[String], kind: ErrorKind) -> Error {
        let names = streams.iter().map(|stream| format!("`{stream}`")).collect::<Vec<_>>().join(", ");
        let error = Error::new(kind, format!("cannot read {names} of {}: there is no such stream", self.server));
        match (kind, &self.options.group) {
            (ErrorKind::NotFound, _) => error.hint("check the name and `db`; without an end it is waited for"),
            (_, Some(_)) => error.hint("it is read as soon as it is there; `group.mkstream` makes it"),
            (_, None) => error.hint("it is read as soon as it is there; check the name and `db`"),
        }
    }

    /// Looks how much there is to read of these keys.
    async fn look(&mut self, reading: &Reading, keys: &mut [LaneKey]) {
        let group = self.options.group.as_ref().map(|group| group.name.as_str());
        for key in &*keys {
            reading.backlog.begin(&key.shard.key, key.after, group.is_some());
        }
        let shards: Vec<Shard> = keys.iter().map(|key| key.shard.clone()).collect();
        // Who may not look may still be allowed to read.
        if let Err(error) = reading.backlog.look(&mut self.router, &shards, group).await {
            tracing::debug!(server = %self.server, error = %error.chain(), "nobody knows how much there is to read");
        }
        keys.iter_mut().for_each(|key| key.after = reading.backlog.numbered(&key.shard.key, key.after));
    }

    /// Begins to read these keys, with all that is around them. Nothing before has an effect any more.
    fn begin(
        &mut self,
        reading: Reading,
        resume: Resume,
        topology: &Topology,
        keys: Vec<LaneKey>,
        finder: Finder,
    ) -> Result<()> {
        let (send, news) = mpsc::channel(NEWS_MAX);
        let scout = Scout {
            finder,
            router: Router::new(self.server.clone()),
            every: self.options.discover.0,
            news: send.clone(),
            backlog: reading.backlog.clone(),
            group: self.options.group.as_ref().map(|group| group.name.clone()),
            gone: Gone::default(),
        };
        let mut open = Open {
            run: crate::unique(),
            lanes: FuturesUnordered::new(),
            gone: scout.gone.clone(),
            active: 0,
            stopped: Vec::new(),
            relaunch: None,
            _scout: (!resume.until_end).then(|| scout.start()),
            send,
            news,
            names: Names::new(),
            marks: BTreeMap::new(),
            due: BTreeMap::new(),
            alone: None,
            waits: None,
            reading: Arc::new(reading),
            resume,
        };
        let by_id = open.reading.member.is_none();
        for key in keys.iter().filter(|_| by_id) {
            open.marks.insert(key.shard.key.clone(), Mark::Place(key.after));
        }
        open.launch(keys, topology)?;
        self.open = Some(open);
        Ok(())
    }
}

/// The ids of records, by shard.
fn ids_of(records: &Batch) -> Vec<(ShardKey, Vec<EntryId>)> {
    let mut shards: BTreeMap<ShardKey, Vec<EntryId>> = BTreeMap::new();
    for record in records.iter() {
        let ids = shards.entry(record.origin().clone()).or_default();
        ids.push(EntryId::of_sequence(record.sequence()));
    }
    shards.into_iter().collect()
}

#[async_trait]
impl Source for RedisSource {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        self.open = None;
        self.router.forget();
        let topology = self.router.topology().await?;
        let (finder, shards) = self.find().await?;
        let missing = finder.missing();
        if resume.until_end && !missing.is_empty() {
            return Err(self.not_there(&missing, ErrorKind::NotFound));
        }
        let begin = Begin {
            position: resume.position.as_ref(),
            start: &resume.start,
            until_end: resume.until_end,
            group: self.options.group.is_some(),
            ids: self.options.ids,
        };
        let mut keys = begin.keys(&mut self.router, shards).await?;
        let reading = self.reading(resume);
        self.look(&reading, &mut keys).await;
        self.begin(reading, resume.clone(), &topology, keys, finder)?;
        if !missing.is_empty() {
            let waits = self.not_there(&missing, ErrorKind::Unavailable);
            self.open()?.1.waits = Some(waits);
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        let (router, open) = self.open()?;
        if let Some(waits) = open.waits.take() {
            return Err(waits);
        }
        loop {
            if open.alone.is_some() {
                // The runtime commits, and for that drops this future.
                std::future::pending::<()>().await;
            }
            if open.stopped.is_empty() {
                if open.active == 0 && open.resume.until_end {
                    return Ok(Event::End);
                }
            } else if open.relaunch.is_none() {
                router.forget();
                open.relaunch = Some(open.look_for(router.server()));
            }
            let news = tokio::select! {
                biased;
                // First: what they hand over now is there at once. A lane that ends has said so.
                Some(()) = open.lanes.next() => continue,
                news = open.news.recv() => news,
                ready = relaunch::end(&mut open.relaunch), if open.relaunch.is_some() => {
                    open.relaunch(router, ready?)?;
                    continue;
                }
            };
            match news {
                Some(News::Read(handed)) => return Ok(open.hand_over(handed)),
                Some(News::Found(shards)) => {
                    let added = shards.iter().map(|shard| shard.key.clone()).collect();
                    for key in shards.into_iter().map(from_the_beginning) {
                        let group = open.reading.member.is_some();
                        open.reading.backlog.begin(&key.shard.key, key.after, group);
                        open.stopped.push(key);
                    }
                    return Ok(Event::Added(added));
                }
                Some(News::Stopped(keys, error)) => {
                    open.active -= 1;
                    if let Some(error) = error {
                        open.stopped.extend(keys);
                        return Err(error);
                    }
                }
                Some(News::Gone(shards)) => {
                    let names: Vec<String> = shards.iter().map(|shard| shard.name.to_string()).collect();
                    open.leave_out(shards);
                    return Err(self.not_there(&names, ErrorKind::Unavailable));
                }
                Some(News::Blind(error)) => return Err(error),
                None => return Err(not_open()),
            }
        }
    }

    fn position(&self) -> Result<Position> {
        let open = self.open.as_ref().ok_or_else(not_open)?;
        // Shards that are gone keep their place, in case they come back.
        let mut position = match &open.reading.member {
            Some(_) => Position::default(),
            None => open.resume.position.clone().unwrap_or_default(),
        };
        for (shard, mark) in &open.marks {
            match mark {
                Mark::Place(_) => position.set(shard.clone(), &open.place(shard))?,
                Mark::Read(read) => {
                    position.set(shard.clone(), &GroupMark { run: open.run.clone(), read: *read })?;
                }
            }
        }
        Ok(position)
    }

    async fn commit(&mut self, upto: &Position, _: Option<&Stamp>) -> Result<()> {
        let (router, open) = self.open()?;
        if open.reading.member.as_ref().is_none_or(|member| !member.keeps()) {
            return Ok(());
        }
        for shard in upto.0.keys() {
            // A position of an earlier opening says nothing of what this one has read.
            let mark = upto.shard::<GroupMark>(shard)?.filter(|mark| mark.run == open.run);
            if let Some(mark) = mark {
                let due = open.due.entry(shard.clone()).or_default();
                *due = (*due).max(mark.read);
            }
        }
        let due = open.due.clone();
        open.release_alone(|shard, upto| due.get(shard).is_some_and(|due| *due >= upto));
        match open.settle(router).await {
            // It is tried again with the next commit, and when the connection is there again. Until then the ledger keeps
            // what is due, so that nothing comes twice.
            Err(error) if error.facts().retry => {
                tracing::warn!(server = %self.server, error = %error.chain(), "records are not acknowledged yet");
                Ok(())
            }
            settled => settled,
        }
    }

    async fn acknowledge(&mut self, records: &Batch) -> Result<()> {
        let (router, open) = self.open()?;
        let member = open.reading.keeper("acknowledge single records")?;
        let shards = ids_of(records);
        group::acknowledge(router, member, &open.names, &shards).await?;
        open.forget(&shards);
        Ok(())
    }

    async fn give_back(&mut self, records: &Batch) -> Result<()> {
        let (router, open) = self.open()?;
        let member = open.reading.keeper("take records back")?;
        let shards = ids_of(records);
        group::give_back(router, member, &open.names, &shards).await?;
        open.forget(&shards);
        Ok(())
    }

    async fn seek(&mut self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<()> {
        let (_, open) = self.open()?;
        if open.reading.member.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("a group cannot seek to {to}: its members share one place"),
            )
            .hint("read without a `group`, or move the group with `XGROUP SETID`"));
        }
        let mut resume = open.resume.clone();
        let mut position = self.position()?;
        position.0.retain(|shard, _| shards.is_some_and(|shards| !shards.contains(shard)));
        let topology = self.router.topology().await?;
        let (finder, found) = self.find().await?;
        let mut keys = Vec::new();
        for shard in found {
            // Its siblings stay, so its place must be looked up by itself.
            let kept = position.0.contains_key(&shard.key).then_some(&position);
            let begin =
                Begin { position: kept, start: to, until_end: resume.until_end, group: false, ids: self.options.ids };
            keys.extend(begin.keys(&mut self.router, vec![shard]).await?);
        }
        let reading = self.reading(&resume);
        resume.position = Some(position);
        self.look(&reading, &mut keys).await;
        self.begin(reading, resume, &topology, keys, finder)
    }

    fn shards(&self) -> Vec<ShardKey> {
        self.open.as_ref().map_or_else(Vec::new, |open| open.names.keys().cloned().collect())
    }

    fn lag(&self) -> Option<Lag> {
        let records = self.open.as_ref()?.reading.backlog.records();
        Some(Lag { records, bytes: None })
    }

    async fn keep_alive(&mut self) -> Result<()> {
        let (router, open) = self.open()?;
        open.settle(router).await?;
        match open.reading.member.as_ref().filter(|member| !member.ledger.is_empty()) {
            Some(member) => group::keep_alive(router, member, &open.names).await,
            None => Ok(()),
        }
    }

    fn companion(&self) -> Option<Companion> {
        let open = self.open.as_ref()?;
        let member = open.reading.member.as_ref().filter(|member| member.keeps())?;
        let of_shard = |(shard, mark): (&ShardKey, &Mark)| {
            let Mark::Read(upto) = mark else { return None };
            let ids = member.ledger.upto(shard, *upto);
            let name = open.names.get(shard).filter(|_| !ids.is_empty())?;
            Some(Ack::new(&member.name, name.clone(), &member.group.name, ids))
        };
        Some(Arc::new(Acks(open.marks.iter().filter_map(of_shard).collect())))
    }

    async fn close(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        open.lanes.clear();
        open.settle(&mut self.router).await?;
        let Some(member) = &open.reading.member else { return Ok(()) };
        if member.keeps() {
            let handed = |shard: &ShardKey| match open.marks.get(shard) {
                Some(Mark::Read(read)) => member.ledger.upto(shard, *read),
                _ => Vec::new(),
            };
            group::release(&mut self.router, member, &open.names, handed).await?;
        }
        // Names that are made anew for each run would stay in the group for ever.
        group::leave(&mut self.router, member, &open.names).await?;
        self.router.forget();
        Ok(())
    }
}
