//! Reading rotated files one behind the other.

use std::{fs, path::Path, sync::Mutex};

use millstream_core::{ErrorKind, Last, Position, SeekTo};
use serde_json::json;

use super::{
    rotate::{names, numbered, series},
    *,
};

fn options(dir: &Path, follow: bool) -> Value {
    json!({"path": dir.join("x-*.ss"), "follow": follow, "start": "beginning"})
}

async fn follow(dir: &Path, position: Option<Position>) -> Result<Box<dyn Source>> {
    open_source(options(dir, true), Resume { position, ..Resume::default() }).await
}

/// Files of two records each, the last one still written, numbered from 1.
async fn files(dir: &Path, records: usize) -> (Box<dyn Sink>, Vec<String>) {
    let mut sink = open_sink(&numbered(dir, 1000), &exactly_once(), &[]).await.unwrap();
    let texts: Vec<String> = (1..=records).map(|n| format!("{n:0>370}")).collect();
    let records: Vec<_> = texts.iter().enumerate().map(|(n, text)| ("s", 0, 1000 + n as i64, text.as_str())).collect();
    epoch(&mut *sink, batch(&records), Last::No).await;
    (sink, texts)
}

fn sequences(got: &[Got]) -> Vec<u64> {
    got.iter().map(|(_, _, sequence, _)| *sequence).collect()
}

#[tokio::test]
async fn files_come_in_order_of_their_numbers_with_the_one_that_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, texts) = files(dir.path(), 25).await;
    assert_eq!(names(dir.path()).len(), 13);
    let got = series(dir.path()).await;
    assert_eq!(values(&got), texts);
    assert_eq!(sequences(&got), (1..=25).collect::<Vec<_>>());
    drop(sink);
    let error = open_source(json!({"path": dir.path().join("y-*.ss")}), Resume::default()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sees_all_that_is_written_and_rotated_meanwhile() {
    for context in [PlanContext::default(), exactly_once()] {
        let dir = tempfile::tempdir().unwrap();
        let mut source = follow(dir.path(), None).await.unwrap();
        let path = dir.path().to_owned();
        let written = tokio::spawn(async move {
            let mut sink = open_sink(&numbered(&path, 2000), &context, &[]).await.unwrap();
            let mut count = 0;
            for round in 0..300 {
                let texts: Vec<String> = (0..round * 7 % 50).map(|n| format!("{}", count + n)).collect();
                count += texts.len();
                sink.write(of(&texts.iter().map(String::as_str).collect::<Vec<_>>())).await.unwrap();
                if round % 3 == 0 {
                    epoch(&mut *sink, of(&[]), Last::No).await;
                }
            }
            epoch(&mut *sink, of(&[]), Last::Drained).await;
            sink.close().await.unwrap();
            count
        });
        let mut got = some(&mut *source, 10).await;
        // Also across restarts.
        for _ in 0..5 {
            let position = source.position().unwrap();
            source = follow(dir.path(), Some(position)).await.unwrap();
            got.extend(some(&mut *source, 300).await);
        }
        let count = written.await.unwrap();
        got.extend(some(&mut *source, count - got.len()).await);
        assert!(names(dir.path()).len() > 50);
        for (at, (_, _, sequence, value)) in got.iter().enumerate() {
            assert_eq!((*sequence, value.as_str()), (at as u64 + 1, at.to_string().as_str()));
        }
        assert_eq!(got.len(), count);
        quiet(&mut *source).await;
    }
}

#[tokio::test]
async fn reading_goes_on_behind_every_batch_while_files_are_rotated_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut writing = numbered(dir.path(), 1000);
    writing["rotate"]["keep"] = 4.into();
    let mut sink = open_sink(&writing, &exactly_once(), &[]).await.unwrap();
    let (mut source, mut got) = (follow(dir.path(), None).await.unwrap(), Vec::new());
    for round in 1..=40_u64 {
        epoch(&mut *sink, of(&[&format!("{round:0>300}"), "x"]), Last::No).await;
        while got.len() < 2 * round as usize {
            got.extend(some(&mut *source, 1).await);
            let position = serde_json::to_string(&source.position().unwrap()).unwrap();
            source = follow(dir.path(), Some(serde_json::from_str(&position).unwrap())).await.unwrap();
        }
    }
    assert_eq!(sequences(&got), (1..=80).collect::<Vec<_>>());
    assert_eq!(names(dir.path()).len(), 5);
}

#[tokio::test]
async fn what_does_not_count_is_not_seen_in_any_file() {
    let dir = tempfile::tempdir().unwrap();
    let writing = numbered(dir.path(), 1000);
    let mut sink = open_sink(&writing, &exactly_once(), &[]).await.unwrap();
    let mut source = follow(dir.path(), None).await.unwrap();
    let text = "t".repeat(370);
    let first = prepared(&mut *sink, of(&["1"]), Last::No).await;
    quiet(&mut *source).await;
    sink.commit(&first).await.unwrap();
    assert_eq!(values(&some(&mut *source, 1).await), ["1"]);
    // Over the end of the file, and of the next.
    prepared(&mut *sink, of(&[text.as_str(); 6]), Last::No).await;
    assert_eq!(names(dir.path()).len(), 3);
    quiet(&mut *source).await;
    drop(sink);
    let mut sink = open_sink(&writing, &exactly_once(), &[(1, first)]).await.unwrap();
    assert_eq!(names(dir.path()), ["x-1.ss.part"]);
    quiet(&mut *source).await;
    epoch(&mut *sink, of(&["2", &text, &text, "5"]), Last::No).await;
    let got = some(&mut *source, 4).await;
    assert_eq!((sequences(&got), values(&got)), (vec![2, 3, 4, 5], vec!["2", &text, &text, "5"]));
}

/// The writer dies behind a rename, and what was published beside the old name stays.
#[tokio::test]
async fn a_finished_file_is_read_to_its_end_whatever_is_published_beside_its_old_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open_sink(&numbered(dir.path(), 1000), &exactly_once(), &[]).await.unwrap();
    let mut source = follow(dir.path(), None).await.unwrap();
    epoch(&mut *sink, of(&["1"]), Last::No).await;
    some(&mut *source, 1).await;
    let text = "t".repeat(370);
    prepared(&mut *sink, of(&["2", &text, &text]), Last::No).await;
    drop(sink);
    fs::rename(dir.path().join("x-1.ss.part"), dir.path().join("x-1.ss")).unwrap();
    assert!(dir.path().join(".x-1.ss.part.committed").exists());
    assert_eq!(values(&some(&mut *source, 2).await), ["2", &text]);
    quiet(&mut *source).await;
}

/// At least once nothing is published, so a reader may have read what recovery takes back.
#[tokio::test]
async fn a_reader_of_bytes_that_were_taken_back_is_told() {
    let writing = |dir: &Path| numbered(dir, 1000);
    let told = async |mut source: Box<dyn Source>| {
        let error = tokio::time::timeout(Duration::from_secs(20), source.next()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StateMismatch, "{error:?}");
    };
    // Of a file that the checkpoint knows.
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open_sink(&writing(dir.path()), &PlanContext::default(), &[]).await.unwrap();
    let mut source = follow(dir.path(), None).await.unwrap();
    let token = epoch(&mut *sink, of(&["1"]), Last::No).await;
    prepared(&mut *sink, of(&["2"]), Last::No).await;
    some(&mut *source, 2).await;
    drop(sink);
    drop(open_sink(&writing(dir.path()), &PlanContext::default(), &[(1, token)]).await.unwrap());
    told(source).await;
    // Of one that it does not know.
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open_sink(&writing(dir.path()), &PlanContext::default(), &[]).await.unwrap();
    let mut source = follow(dir.path(), None).await.unwrap();
    let resume = [(1, epoch(&mut *sink, of(&["1"]), Last::Finished).await)];
    sink.open(&resume).await.unwrap();
    prepared(&mut *sink, of(&["2"]), Last::No).await;
    some(&mut *source, 2).await;
    drop(sink);
    drop(open_sink(&writing(dir.path()), &PlanContext::default(), &resume).await.unwrap());
    assert_eq!(names(dir.path()), ["x-1.ss"]);
    told(source).await;
}

#[tokio::test]
async fn a_file_that_is_deleted_while_it_is_read_is_read_to_its_end_and_what_is_lost_is_said() {
    warnings::listen();
    let dir = tempfile::tempdir().unwrap();
    let (_sink, _) = files(dir.path(), 7).await;
    let mut source = follow(dir.path(), None).await.unwrap();
    for name in ["x-1.ss", "x-2.ss"] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    let got = some(&mut *source, 5).await;
    assert_eq!(sequences(&got), [1, 2, 5, 6, 7], "the first one was open");
    let told = warnings::told();
    let said = |what: &str| told.iter().any(|line| line.contains(what) && line.contains(dir.path().to_str().unwrap()));
    assert!(said("x-1.ss") && told.iter().any(|line| line.contains("deleted before they were read")), "{told:?}");
    assert!(said("lost=2"), "{told:?}");
}

#[tokio::test]
async fn a_saved_position_in_a_file_that_is_gone_is_refused_unless_all_of_it_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sink, _) = files(dir.path(), 4).await;
    let mut source = follow(dir.path(), None).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 3 {
        got.extend(some(&mut *source, 1).await);
    }
    let inside = source.position().unwrap();
    // The second file is finished, and the reader has noticed that all of it is read.
    epoch(&mut *sink, of(&[]), Last::Finished).await;
    sink.close().await.unwrap();
    quiet(&mut *source).await;
    let over = source.position().unwrap();
    assert_ne!(inside, over);
    let mut sink = open_sink(&numbered(dir.path(), 1000), &exactly_once(), &[]).await.unwrap();
    epoch(&mut *sink, of(&["5"]), Last::No).await;
    fs::remove_file(dir.path().join("x-2.ss")).unwrap();
    let error = follow(dir.path(), Some(inside)).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::StateMismatch, "{error:?}");
    assert!(error.hint_text().unwrap().contains("--to beginning"));
    let mut source = follow(dir.path(), Some(over)).await.unwrap();
    let got = some(&mut *source, 1).await;
    assert_eq!(values(&got), ["5"]);
}

#[tokio::test]
async fn seeks_go_across_files() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sink, _) = files(dir.path(), 9).await;
    let mut source = follow(dir.path(), None).await.unwrap();
    some(&mut *source, 9).await;
    for (to, first) in [(at(3), 3), (ms(1006), 7), (at(9), 9), (SeekTo::Beginning, 1)] {
        source.seek(&to, None).await.unwrap();
        assert_eq!(sequences(&some(&mut *source, 10 - first as usize).await), (first..=9).collect::<Vec<_>>(), "{to}");
    }
    let before = source.position().unwrap();
    assert_eq!(source.seek(&at(10), None).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(source.position().unwrap(), before);
    // One shard goes back over files, the other goes on where it stood.
    epoch(&mut *sink, batch(&[("t", 0, 1, "t1")]), Last::No).await;
    assert_eq!(values(&some(&mut *source, 1).await), ["t1"]);
    source.seek(&at(8), Some(&[ShardKey::new("s", 0)])).await.unwrap();
    let position = source.position().unwrap();
    let mut source = follow(dir.path(), Some(position)).await.unwrap();
    epoch(&mut *sink, batch(&[("t", 0, 1, "t2")]), Last::No).await;
    let got: Vec<_> =
        some(&mut *source, 3).await.into_iter().map(|(stream, _, sequence, _)| (stream, sequence)).collect();
    assert_eq!(got, [("s".into(), 8), ("s".into(), 9), ("t".into(), 2)]);
    source.seek(&SeekTo::End, None).await.unwrap();
    quiet(&mut *source).await;
}

#[tokio::test]
async fn until_end_means_the_end_at_the_start_and_start_end_only_what_comes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sink, texts) = files(dir.path(), 5).await;
    let until = |position| Resume { until_end: true, position, ..Resume::default() };
    let mut source = open_source(options(dir.path(), true), until(None)).await.unwrap();
    let mut ended =
        open_source(json!({"path": dir.path().join("x-*.ss"), "follow": true}), Resume::default()).await.unwrap();
    let more: Vec<&str> = texts[..4].iter().map(String::as_str).collect();
    epoch(&mut *sink, of(&more), Last::No).await;
    assert_eq!(sequences(&all(&mut *source).await), [1, 2, 3, 4, 5]);
    assert_eq!(sequences(&some(&mut *ended, 4).await), [6, 7, 8, 9]);
    let resume = until(Some(source.position().unwrap()));
    let mut source = open_source(options(dir.path(), true), resume).await.unwrap();
    assert_eq!(sequences(&all(&mut *source).await), [6, 7, 8, 9]);
}

#[tokio::test]
async fn an_end_of_stream_ends_readers_unless_a_later_file_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut writing = numbered(dir.path(), 1000);
    writing["end_of_stream"] = true.into();
    let mut live = follow(dir.path(), None).await.unwrap();
    let mut sink = open_sink(&writing, &exactly_once(), &[]).await.unwrap();
    let text = "t".repeat(370);
    let token = epoch(&mut *sink, of(&[text.as_str(); 4]), Last::Finished).await;
    sink.close().await.unwrap();
    assert_eq!(all(&mut *live).await.len(), 4);
    let mut sink = open_sink(&writing, &exactly_once(), &[(1, token)]).await.unwrap();
    epoch(&mut *sink, of(&["5"]), Last::No).await;
    let mut live = follow(dir.path(), Some(live.position().unwrap())).await.unwrap();
    assert_eq!(sequences(&some(&mut *live, 1).await), [5]);
    quiet(&mut *live).await;
}

#[tokio::test]
async fn a_finished_file_without_a_header_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (_sink, _) = files(dir.path(), 3).await;
    fs::rename(dir.path().join("x-2.ss.part"), dir.path().join("x-3.ss.part")).unwrap();
    fs::write(dir.path().join("x-2.ss"), "Ss").unwrap();
    assert_eq!(sequences(&series(dir.path()).await), [1, 2, 3]);
    let mut source = follow(dir.path(), None).await.unwrap();
    assert_eq!(sequences(&some(&mut *source, 3).await), [1, 2, 3]);
}

/// What is logged as a warning, by any thread.
mod warnings {
    use std::fmt::Write;

    use tracing::{Event, Metadata, Subscriber, field, span};

    use super::Mutex;

    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());

    struct Listener;

    struct Line(String);

    impl field::Visit for Line {
        fn record_debug(&mut self, field: &field::Field, value: &dyn std::fmt::Debug) {
            write!(self.0, "{field}={value:?} ").unwrap();
        }
    }

    impl Subscriber for Listener {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(String::new());
            event.record(&mut line);
            TOLD.lock().unwrap().push(line.0);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    pub(super) fn listen() {
        // Another test may have been first.
        let _ = tracing::subscriber::set_global_default(Listener);
    }

    pub(super) fn told() -> Vec<String> {
        TOLD.lock().unwrap().clone()
    }
}
