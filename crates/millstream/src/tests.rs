//! Closures as steps, on fakes.

use millstream_core::{Error, ErrorKind, RecordRef};
use millstream_testkit::{FakeSink, FakeSource};

use crate::{Home, Pipeline, Raw, Result, Stream, Summary};

fn run(
    source: &FakeSource,
    build: impl FnOnce(Stream<Raw>) -> Stream<Raw>,
) -> (Vec<String>, Summary, tempfile::TempDir) {
    let (folder, sink) = (tempfile::tempdir().unwrap(), FakeSink::plain());
    let pipeline = Pipeline::new("test").in_memory().home(Home::new(folder.path()));
    build(pipeline.source_of(source.clone())).sink_of(sink.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let summary = runtime.block_on(pipeline.run()).unwrap();
    for (name, stage) in &summary.stages {
        assert_eq!(stage.in_flight(), 0, "the books of `{name}` balance: {stage:?}");
    }
    (sink.values(), summary, folder)
}

fn text<'a>(record: RecordRef<'a>) -> &'a str {
    std::str::from_utf8(record.value().unwrap_or_default()).unwrap_or_default()
}

fn letters(folder: &tempfile::TempDir) -> Vec<(String, String)> {
    let letters = millstream_state::read_dead_letters(&folder.path().join("test"), 0, 99).unwrap();
    letters.into_iter().map(|(_, letter)| (letter.record.id(), letter.code)).collect()
}

#[test]
fn map_replaces_values_and_an_error_or_panic_costs_only_its_record() {
    let (values, summary, folder) = run(&FakeSource::of(["1", "two", "0", "4"]), |pipeline| {
        pipeline.map(|record, out| {
            let number: u32 = text(record).parse().map_err(|_| Error::new(ErrorKind::Data, "not a number"))?;
            out.push(b'=');
            let result = 12u32.checked_div(number).expect("no division by zero");
            out.extend_from_slice(result.to_string().as_bytes());
            Ok(())
        })
    });
    assert_eq!(values, ["=12", "=3"]);
    assert_eq!(letters(&folder), [("fake/0@1".into(), "E_DATA".into()), ("fake/0@2".into(), "E_PANIC".into())]);
    assert_eq!(summary.dead(), 2);
}

#[test]
fn flat_map_emits_slices_and_new_values_and_takes_back_what_a_panic_left() {
    let (values, _, folder) = run(&FakeSource::of(["a b", "boom", "", "c!"]), |pipeline| {
        pipeline.flat_map(|record, out| {
            let value = text(record);
            value.split_whitespace().for_each(|word| out.value(word.as_bytes()));
            assert!(value != "boom", "boom");
            if value.ends_with('!') {
                out.value(b"new");
            }
        })
    });
    assert_eq!(values, ["a", "b", "c!", "new"]);
    assert_eq!(letters(&folder), [("fake/0@1".into(), "E_PANIC".into())]);
}

#[test]
fn filter_keeps_and_counts_what_it_leaves_out() {
    let (values, summary, _folder) = run(&FakeSource::of((0..10).map(|i| i.to_string())), |pipeline| {
        pipeline.filter(|record| text(record) > "6").name("large")
    });
    assert_eq!(values, ["7", "8", "9"]);
    assert_eq!(summary.stages["large"].filtered, 7);
}

#[test]
fn fold_keeps_a_state_for_each_key() {
    let (values, summary, _folder) = run(&FakeSource::of(["b", "a", "b", "", "b"]), |pipeline| {
        pipeline.fold(
            "count",
            |record| record.value().filter(|value| !value.is_empty()),
            |count: &mut u64, _| *count += 1,
            |key, count, out| out.extend_from_slice(format!("{}={count}", String::from_utf8_lossy(key)).as_bytes()),
        )
    });
    assert_eq!(values, ["b=3", "a=1"]);
    assert_eq!((summary.stages["count"].absorbed, summary.stages["count"].filtered), (4, 1));
}

#[test]
fn a_stream_is_written_and_read_by_url() {
    use millstream_client::{ConsumerOptions, ProducerOptions};
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}", folder.path().join("x.ss").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let streamer = crate::connect(&url).unwrap();
        let producer = streamer.create_producer("words", ProducerOptions::default()).unwrap();
        let receipt = producer.send("hello").await.unwrap();
        assert_eq!(receipt.await.unwrap().sequence, Some(1));
        producer.end().await.unwrap();
        let options = ConsumerOptions { start: Some(crate::SeekTo::Beginning), ..ConsumerOptions::real_time() };
        let mut consumer = streamer.create_consumer(&["words"], options).unwrap();
        let record = consumer.next().await.unwrap().unwrap();
        assert_eq!((record.value.as_deref(), record.sequence), (Some(&b"hello"[..]), 1));
        assert!(consumer.next().await.unwrap().is_none());
    });
}

#[test]
fn what_cannot_be_planned_is_told_before_anything_runs() -> Result<()> {
    let wrong = Pipeline::new("x").source("fil:in.txt").sink("drop:");
    assert_eq!(wrong.plan().unwrap_err().hint_text(), Some("did you mean `file`?"));
    let unread = Pipeline::new("x");
    let _ = unread.source("file:in.txt");
    assert_eq!(unread.plan().unwrap_err().message(), "the pipeline has no sink");
    Pipeline::new("x").source("file:in.txt").sink("drop:").plan().map(|_| ())
}
