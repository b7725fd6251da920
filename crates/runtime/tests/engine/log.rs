//! What the log says of what happens to a pipeline.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use millstream_core::{Error, ErrorKind, StepPlan};
use millstream_runtime::{Entry, ErrorRule, PipelineSpec, Then};
use millstream_testkit::{FakeSink, FakeSource};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::Interest,
};

use crate::{Bench, MapFn, MapPlan, spec, until};

/// The level of an event and its fields.
type Told = (Level, BTreeMap<String, String>);

/// Keeps the events of the engine up to a level.
#[derive(Clone)]
struct Log {
    most: Level,
    told: Arc<Mutex<Vec<Told>>>,
}

struct Fields<'a>(&'a mut BTreeMap<String, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Subscriber for Log {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.most && metadata.target().starts_with("millstream_runtime")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = BTreeMap::new();
        event.record(&mut Fields(&mut fields));
        self.told.lock().unwrap().push((*event.metadata().level(), fields));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Log {
    fn up_to(most: Level) -> Self {
        Log { most, told: Arc::default() }
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    /// Level and message of each event.
    fn messages(&self) -> Vec<(Level, String)> {
        self.told().into_iter().map(|(level, mut fields)| (level, fields.remove("message").unwrap())).collect()
    }

    fn fields(&self, message: &str) -> BTreeMap<String, String> {
        let found = self.told().into_iter().find(|(_, fields)| fields["message"] == message);
        found.unwrap_or_else(|| panic!("nothing is told of `{message}`")).1
    }
}

fn passes(source: &FakeSource, sink: &FakeSink, map: MapFn) -> PipelineSpec {
    let mut step = Entry::ready(Arc::new(MapPlan(map)) as Arc<dyn StepPlan>);
    step.name = Some("work".to_owned());
    PipelineSpec { steps: vec![step], ..spec(source, &[], sink) }
}

/// Starts, pauses, resumes, commits, changes and drains a pipeline; all of it runs on this thread.
async fn steered(most: Level) -> Log {
    let log = Log::up_to(most);
    let _listening = tracing::subscriber::set_default(log.clone());
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    let mut running = bench.start(&passes(&source, &sink, |value| Ok(Some(value.to_owned()))));
    let handle = running.handle();
    handle.started().await;
    handle.pause();
    handle.resume();
    source.push(None, "a");
    until("the record", || sink.values() == ["a"]).await;
    handle.checkpoint().await.unwrap();
    handle.set_concurrency("work", 2).await.unwrap();
    running.drain(Duration::from_secs(5)).await.unwrap();
    log
}

#[tokio::test]
async fn at_info_it_tells_of_each_change_and_of_no_epoch() {
    let log = steered(Level::INFO).await;
    let all = ["running", "paused", "resumed", "running", "concurrency changed", "draining", "over"];
    assert_eq!(log.messages(), all.map(|message| (Level::INFO, message.to_owned())));
    assert!(log.told().iter().all(|(_, fields)| fields["pipeline"] == "test"), "{:?}", log.told());
    let fields = log.fields("concurrency changed");
    assert_eq!((&*fields["step"], &*fields["workers"]), ("work", "2"));
    assert_eq!(log.fields("running")["start"], "fresh");
}

#[tokio::test]
async fn at_debug_it_tells_of_epochs_too_with_their_numbers() {
    let log = steered(Level::DEBUG).await;
    let committed: Vec<Told> = log.told().into_iter().filter(|(_, fields)| fields["message"] == "committed").collect();
    assert!(committed.iter().all(|(level, _)| *level == Level::DEBUG), "{committed:?}");
    let epochs: Vec<u64> = committed.iter().map(|(_, fields)| fields["epoch"].parse().unwrap()).collect();
    assert!(epochs.len() > 1 && epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    assert!(committed.iter().all(|(_, fields)| fields["pipeline"] == "test" && !fields["took"].is_empty()));
}

#[tokio::test]
async fn it_tells_once_of_each_restart_and_why_the_pipeline_is_over() {
    let log = Log::up_to(Level::INFO);
    let _listening = tracing::subscriber::set_default(log.clone());
    let (source, sink, bench) = (FakeSource::of(["a"]), FakeSink::plain(), Bench::new());
    let mut spec = passes(&source, &sink, |_| Err(Error::new(ErrorKind::Data, "no good")));
    spec.errors = vec![ErrorRule { retry: None, then: Some(Then::Restart), ..ErrorRule::any() }];
    let mut running = bench.start_with(&spec, |options| options.restarts_per_minute_max = 1);
    running.wait().await.unwrap_err();
    let messages = log.messages();
    let restarts = messages.iter().filter(|(level, text)| *level == Level::WARN && text.starts_with("restarting"));
    assert_eq!(restarts.count(), 1, "{messages:?}");
    assert_eq!(messages.last(), Some(&(Level::INFO, "over with an error".to_owned())));
    assert!(log.fields("over with an error")["error"].contains("no good"));
}
