//! Random runs against a model: a list of records that count.

use millstream_core::{Last, Position, Resume, SeekTo, ShardKey, Sink, Source, Token};
use proptest::prelude::*;
use serde_json::json;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Write(Vec<(u8, u8, usize)>),
    Commit,
    Crash,
    /// Back to the checkpoint so many before the newest.
    CrashTo(usize),
    Read,
    Restart,
    Seek(Option<u8>, u64),
    SeekTime(Option<u8>, i64),
}

fn act() -> impl Strategy<Value = Act> {
    let record = (0..4u8, 0..2u8, prop_oneof![4 => 0..60usize, 1 => 0..5000usize]);
    prop_oneof![
        4 => prop::collection::vec(record, 0..30).prop_map(Act::Write),
        3 => Just(Act::Commit),
        1 => Just(Act::Crash),
        1 => (0..4usize).prop_map(Act::CrashTo),
        3 => Just(Act::Read),
        1 => Just(Act::Restart),
        1 => (prop::option::of(0..4u8), 0..20u64).prop_map(|(stream, to)| Act::Seek(stream, to)),
        1 => (prop::option::of(0..4u8), 0..200i64).prop_map(|(stream, to)| Act::SeekTime(stream, to)),
    ]
}

const NAMES: [&str; 4] = ["a", "b.c", "d-e", "f_g"];

/// Stream and shard, sequence, time, value.
type Kept = (ShardKey, u64, i64, String);

struct Model {
    path: std::path::PathBuf,
    /// The sink goes on in another file again and again.
    rotate: bool,
    sink: Option<Box<dyn Sink>>,
    kept: Vec<Kept>,
    /// Tokens and how many records counted with them.
    tokens: Vec<(Token, usize)>,
    clock: i64,
}

impl Model {
    fn options(&self) -> Value {
        match self.rotate {
            false => json!({"path": self.path, "beacon_interval": 1024}),
            true => json!({"path": self.path, "beacon_interval": 1024, "rotate": {"size": "3KiB"}}),
        }
    }

    async fn write(&mut self, records: &[(u8, u8, usize)]) {
        let mut texts = Vec::new();
        for (stream, shard, len) in records {
            self.clock += 1;
            let key = ShardKey::new(NAMES[*stream as usize], (*shard).into());
            let sequence = 1 + self.kept.iter().filter(|(of, ..)| *of == key).count() as u64;
            self.kept.push((key, sequence, self.clock, "v".repeat(*len)));
            texts.push("v".repeat(*len));
        }
        let from = self.kept.len() - records.len();
        let rows: Vec<_> =
            self.kept[from..].iter().map(|(key, _, ms, text)| (&*key.stream, key.shard, *ms, text.as_str())).collect();
        self.sink.as_mut().unwrap().write(batch(&rows)).await.unwrap();
    }

    async fn commit(&mut self) {
        let sink = self.sink.as_mut().unwrap();
        let outcomes = sink.flush().await.unwrap();
        assert!(outcomes.rejected.is_empty());
        let token = sink.prepare(1, Last::No).await.unwrap().unwrap();
        sink.commit(&token).await.unwrap();
        self.tokens.push((token, self.kept.len()));
    }

    async fn crash(&mut self, back: usize) {
        self.sink = None;
        self.tokens.truncate((self.tokens.len() - back.min(self.tokens.len() - 1)).max(1));
        let (token, count) = self.tokens.last().unwrap().clone();
        self.kept.truncate(count);
        self.sink = Some(open_sink(&self.options(), &exactly_once(), &[(1, token)]).await.unwrap());
    }

    /// Dies between an epoch's preparation and its commit; `decided`: behind the write that decides.
    async fn crash_in_commit(&mut self, decided: bool) {
        let sink = self.sink.as_mut().unwrap();
        sink.flush().await.unwrap();
        let token = sink.prepare(1, Last::No).await.unwrap().unwrap();
        self.sink = None;
        if decided {
            self.tokens.push((token, self.kept.len()));
        }
        self.kept.truncate(self.counted());
        let newest = self.tokens[self.tokens.len().saturating_sub(2)..].iter().enumerate();
        let resume: Vec<_> = newest.map(|(epoch, (token, _))| (epoch as u64, token.clone())).collect();
        self.sink = Some(open_sink(&self.options(), &exactly_once(), &resume).await.unwrap());
        if decided {
            // The runtime commits what the checkpoint names.
            self.sink.as_mut().unwrap().commit(&self.tokens.last().unwrap().0).await.unwrap();
        }
    }

    fn counted(&self) -> usize {
        self.tokens.last().unwrap().1
    }
}

async fn source_of(model: &Model, position: Option<Position>) -> Box<dyn Source> {
    let path = if model.rotate { model.path.with_file_name("x-*.ss") } else { model.path.clone() };
    let options = json!({"path": path, "follow": true, "start": "beginning"});
    open_source(options, Resume { position, ..Resume::default() }).await.unwrap()
}

/// Which records are still to come, as indexes of `kept`.
struct Want {
    from: usize,
    gates: std::collections::HashMap<ShardKey, (usize, u64, i64)>,
    rest: (u64, i64),
}

impl Want {
    fn all() -> Self {
        Want { from: 0, gates: Default::default(), rest: (0, 0) }
    }

    /// Takes what comes up to `end`.
    fn take<'a>(&mut self, kept: &'a [Kept], end: usize) -> Vec<&'a Kept> {
        let mut taken = Vec::new();
        for (at, record) in kept.iter().enumerate().take(end).skip(self.from) {
            let (key, sequence, ms, _) = record;
            let rest = (0, self.rest.0, self.rest.1);
            let gate = self.gates.get(key).copied().unwrap_or(rest);
            if at >= gate.0 && *sequence >= gate.1 && *ms >= gate.2 {
                self.gates.insert(key.clone(), (0, 0, 0));
                taken.push(record);
            }
        }
        self.from = self.from.max(end);
        taken
    }

    /// A seek; `false` if it must fail.
    fn seek(&mut self, kept: &[Kept], end: usize, asked: &[ShardKey], all: bool, to: (u64, i64)) -> bool {
        let found = kept[..end]
            .iter()
            .position(|(key, sequence, ms, _)| (all || asked.contains(key)) && *sequence >= to.0 && *ms >= to.1);
        let Some(found) = found else { return false };
        if all {
            *self = Want { from: found, gates: Default::default(), rest: to };
            return true;
        }
        let mut keys: Vec<ShardKey> = kept[..end].iter().map(|(key, ..)| key.clone()).collect();
        keys.dedup();
        for key in keys {
            let gate = self.gates.get(&key).copied().unwrap_or((0, self.rest.0, self.rest.1));
            self.gates.insert(key.clone(), (gate.0.max(self.from), gate.1, gate.2));
            if asked.contains(&key) {
                self.gates.insert(key, (found, to.0, to.1));
            }
        }
        self.from = self.from.min(found);
        true
    }
}

async fn run(acts: Vec<Act>, rotate: bool) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut model = Model { path, rotate, sink: None, kept: Vec::new(), tokens: Vec::new(), clock: 0 };
    model.sink = Some(open_sink(&model.options(), &exactly_once(), &[]).await.unwrap());
    model.commit().await;
    let (mut source, mut want, mut read_to) = (source_of(&model, None).await, Want::all(), 0);
    for act in acts {
        match act {
            Act::Write(records) => model.write(&records).await,
            Act::Commit => model.commit().await,
            Act::Crash => model.crash(0).await,
            // What counts has its name: nobody goes back behind that.
            Act::CrashTo(back) if rotate => model.crash_in_commit(back % 2 == 0).await,
            // A checkpoint is never older than what readers have been shown.
            Act::CrashTo(back) => {
                let counted =
                    model.tokens.iter().rev().take(back + 1).take_while(|(_, count)| *count >= read_to).count();
                model.crash(counted.saturating_sub(1)).await;
            }
            Act::Read => {
                let wanted = want.take(&model.kept, model.counted());
                let got = some(&mut *source, wanted.len()).await;
                let plain: Vec<Got> = wanted
                    .iter()
                    .map(|(key, n, _, text)| (key.stream.to_string(), key.shard, *n, text.clone()))
                    .collect();
                assert_eq!(got, plain);
                read_to = read_to.max(model.counted());
            }
            Act::Restart => source = source_of(&model, Some(source.position().unwrap())).await,
            Act::Seek(stream, to) => {
                read_to = read_to.max(model.counted());
                seek(&mut *source, &mut want, &model, stream, (to, 0), at(to.into())).await;
            }
            Act::SeekTime(stream, to) => {
                read_to = read_to.max(model.counted());
                seek(&mut *source, &mut want, &model, stream, (0, to), ms(to)).await;
            }
        }
    }
}

async fn seek(
    source: &mut dyn Source,
    want: &mut Want,
    model: &Model,
    stream: Option<u8>,
    to: (u64, i64),
    seek: SeekTo,
) {
    // The source must have handed over all that counts, so that its place is that of the model.
    let wanted = want.take(&model.kept, model.counted()).len();
    some(source, wanted).await;
    let asked: Vec<ShardKey> = match stream {
        Some(stream) => source.shards().into_iter().filter(|shard| &*shard.stream == NAMES[stream as usize]).collect(),
        None => Vec::new(),
    };
    if stream.is_some() && asked.is_empty() {
        return;
    }
    let done = source.seek(&seek, stream.is_some().then_some(&asked)).await;
    assert_eq!(done.is_ok(), want.seek(&model.kept, model.counted(), &asked, stream.is_none(), to), "{done:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_behave_like_the_model(acts in prop::collection::vec(act(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(acts, false));
    }

    #[test]
    fn rotated_files_behave_like_the_model(acts in prop::collection::vec(act(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(acts, true));
    }
}
