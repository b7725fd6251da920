//! Spans of `tracing`: what the futures of a step log is in the span of the batch that their record came in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{Arc, Mutex},
};

use millstream::{BatchOf, BatchWorker, Batching, Error, Stream, Worker};
use millstream_testkit::FakeSource;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
};

use super::bed::{Bed, dawdle, on_one_thread, texts};

/// Records of a batch.
const BATCH: u64 = 10;

type Fields = BTreeMap<String, String>;

struct Read<'a>(&'a mut Fields);

impl Visit for Read<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

/// What was logged of a record: its number, and the spans around that with their fields, the innermost first.
type Handled = (u64, Vec<(u64, Fields)>);

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Handled>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::from([("name".to_owned(), attributes.metadata().name().to_owned())]);
        attributes.record(&mut Read(&mut fields));
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Read(&mut fields));
        let Some(n) = fields.get("handled").and_then(|n| n.parse().ok()) else { return };
        let scope = context.event_scope(event).into_iter().flatten();
        let spans = scope.map(|span| (span.id().into_u64(), span.extensions().get::<Fields>().unwrap().clone()));
        self.0.lock().unwrap().push((n, spans.collect()));
    }
}

/// Logs that it is at a record, at different times.
async fn handle(n: u64) -> u64 {
    dawdle(n).await;
    tracing::info!(handled = n);
    n
}

/// What is logged of each record by a step that is called `work`.
fn logged(level: LevelFilter, work: impl FnOnce(Stream<u64>) -> Stream<u64>) -> Vec<Handled> {
    let log = Log::default();
    // All of the pipeline runs on this thread, but for what blocks.
    let _listening =
        tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone().with_filter(level)));
    on_one_thread(async {
        let bed = Bed::new();
        let source = FakeSource::of(texts(0..5 * BATCH)).in_batches_of(BATCH as usize);
        bed.collect(work(bed.texts(&source).map(|text| text.parse::<u64>().unwrap())));
        bed.run().await;
        assert_eq!(bed.delivered().len() as u64, 5 * BATCH);
    });
    let mut all = std::mem::take(&mut *log.0.lock().unwrap());
    all.sort_by_key(|(n, _)| *n);
    all
}

/// Each record is in one span, which is that of its batch at `work`.
#[track_caller]
fn each_in_the_span_of_its_batch(work: impl FnOnce(Stream<u64>) -> Stream<u64>) {
    let all = logged(LevelFilter::DEBUG, work);
    assert!(all.iter().map(|(n, _)| *n).eq(0..5 * BATCH), "{all:?}");
    let mut ids = BTreeSet::new();
    for batch in all.chunks(BATCH as usize) {
        let (_, first) = &batch[0];
        let [(id, fields)] = &first[..] else { panic!("one span around each: {first:?}") };
        assert!(batch.iter().all(|(_, spans)| spans == first), "{batch:?}");
        assert!(ids.insert(*id), "another batch has that span, too");
        assert_eq!((&*fields["name"], &*fields["stage"], &*fields["records"]), ("batch", "work", "10"));
        assert!(fields["epoch"].parse::<u64>().unwrap() >= 1 && fields["bytes"].parse::<u64>().unwrap() >= BATCH);
    }
}

#[test]
fn of_futures_of_records() {
    each_in_the_span_of_its_batch(|numbers| {
        let step = numbers.map_async(|n| async move { Ok::<_, Error>(handle(n).await) });
        step.name("work").in_flight(25).into()
    });
}

#[test]
fn of_futures_that_wait_for_their_key() {
    each_in_the_span_of_its_batch(|numbers| {
        let step = numbers.partition_by(|n| n % 3).map_async(|n| async move { Ok::<_, Error>(handle(n).await) });
        step.name("work").unordered().into()
    });
}

#[test]
fn of_functions_on_threads_for_what_blocks() {
    each_in_the_span_of_its_batch(|numbers| {
        let listening = tracing::dispatcher::get_default(Clone::clone);
        let step = numbers.map_blocking(move |n| {
            tracing::dispatcher::with_default(&listening, || tracing::info!(handled = *n));
            Ok::<_, Error>(*n)
        });
        step.name("work").into()
    });
}

#[test]
fn of_look_ups() {
    each_in_the_span_of_its_batch(|numbers| {
        let prepared = numbers.prepare(|numbers| async move {
            for n in numbers {
                handle(n).await;
            }
            Ok::<_, Error>(())
        });
        prepared.at_most(5).map(|n, ()| Ok::<_, Error>(*n)).name("work").into()
    });
}

#[test]
fn of_handlers_of_batches() {
    each_in_the_span_of_its_batch(|numbers| {
        let batched = numbers.batch(Batching::count(5));
        batched.handle(|batch: BatchOf<u64>| one_by_one(batch)).name("work").in_flight(3).into()
    });
}

/// Handles the records of a batch.
async fn one_by_one(batch: BatchOf<u64>) -> Vec<Result<u64, Error>> {
    let mut done = Vec::new();
    for n in batch {
        done.push(Ok(handle(n).await));
    }
    done
}

struct Hand;

impl Worker<u64> for Hand {
    type Output = u64;
    type Error = Error;

    async fn handle(&mut self, n: u64) -> Result<u64, Error> {
        Ok(handle(n).await)
    }
}

impl BatchWorker<u64> for Hand {
    type Answer = Vec<Result<u64, Error>>;
    type Error = Error;

    async fn handle(&mut self, batch: BatchOf<u64>) -> Vec<Result<u64, Error>> {
        one_by_one(batch).await
    }
}

#[test]
fn of_workers() {
    each_in_the_span_of_its_batch(|numbers| numbers.step(|| Hand).name("work").into());
}

#[test]
fn of_workers_on_batches() {
    each_in_the_span_of_its_batch(|numbers| numbers.batch(Batching::count(5)).step(|| Hand).name("work").into());
}

#[test]
fn at_info_there_is_no_span_around_a_future() {
    let all = logged(LevelFilter::INFO, |numbers| {
        numbers.map_async(|n| async move { Ok::<_, Error>(handle(n).await) }).name("work").into()
    });
    assert_eq!(all.len() as u64, 5 * BATCH);
    assert!(all.iter().all(|(_, spans)| spans.is_empty()), "{all:?}");
}
