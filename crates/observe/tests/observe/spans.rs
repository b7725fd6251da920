//! Spans of `tracing`: what a subscriber sees of each batch.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex},
};

use millstream_testkit::{FakeSink, FakeSource};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};

use crate::{observer, spec, start, until};

type Fields = BTreeMap<String, String>;
/// A span, and the events in it.
type Seen = (Fields, Vec<Fields>);

/// Keeps the spans of batches, and with each the events in it.
#[derive(Clone)]
struct Kept {
    level: LevelFilter,
    spans: Arc<Mutex<Vec<Seen>>>,
}

struct Read<'a>(&'a mut Fields);

impl Visit for Read<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Subscriber for Kept {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.target().starts_with("millstream_runtime")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::from([("name".to_owned(), span.metadata().name().to_owned())]);
        span.record(&mut Read(&mut fields));
        let mut spans = self.spans.lock().unwrap();
        spans.push((fields, Vec::new()));
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(parent) = event.parent() else { return };
        let mut fields = Fields::new();
        event.record(&mut Read(&mut fields));
        self.spans.lock().unwrap()[parent.into_u64() as usize - 1].1.push(fields);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Runs three records and then two of a later epoch through `orders -> pass -> out`, and gives what was seen.
async fn seen(level: LevelFilter) -> Vec<Seen> {
    let kept = Kept { level, spans: Arc::default() };
    // All of the pipeline runs on this thread.
    let _listening = tracing::subscriber::set_default(kept.clone());
    let (source, sink) = (FakeSource::live(), FakeSink::plain());
    let running = start(&observer(), &spec("orders", &source, &sink));
    running.handle().started().await;
    let all = ["one", "two", "three", "four", "five"];
    for pushed in [&all[..3], &all[3..]] {
        pushed.iter().for_each(|value| source.push(None, *value));
        until("the records", || sink.values().ends_with(&[pushed[pushed.len() - 1].to_owned()])).await;
        running.handle().checkpoint().await.unwrap();
    }
    running.handle().stop();
    kept.spans.lock().unwrap().clone()
}

#[tokio::test]
async fn every_batch_has_a_span_at_each_stage_with_its_epoch_and_size_and_one_record_of_it_is_named() {
    let spans = seen(LevelFilter::TRACE).await;
    for stage in ["pass", "out"] {
        let of: Vec<_> = spans.iter().filter(|(fields, _)| fields["stage"] == stage).collect();
        let number = |fields: &Fields, name: &str| fields[name].parse::<u64>().unwrap();
        let sum = |name: &str| of.iter().map(|(fields, _)| number(fields, name)).sum::<u64>();
        assert_eq!(sum("records"), 5, "{of:?}");
        assert!(sum("bytes") >= 19, "the values alone have as many: {of:?}");
        assert!(of.iter().all(|(fields, _)| fields["name"] == "batch"), "{of:?}");
        let epochs: Vec<u64> = of.iter().map(|(fields, _)| number(fields, "epoch")).collect();
        assert!(epochs.is_sorted() && epochs[0] >= 1 && epochs[0] < epochs[epochs.len() - 1], "{epochs:?}");
        for (_, events) in of {
            assert_eq!(events.len(), 1, "one record of each batch");
            assert!(events[0]["record"].contains('@'), "{events:?}");
        }
    }
}

#[tokio::test]
async fn at_debug_there_are_spans_without_records_and_at_info_there_is_nothing() {
    let spans = seen(LevelFilter::DEBUG).await;
    assert!(!spans.is_empty() && spans.iter().all(|(_, events)| events.is_empty()), "{spans:?}");
    assert!(seen(LevelFilter::INFO).await.is_empty());
}
