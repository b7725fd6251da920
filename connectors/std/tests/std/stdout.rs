//! What is promised of writing standard output.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream_codec::print::Format;
use millstream_core::{ErrorKind, Form, Record, Timestamp};
use millstream_std::{PrintedSequences, Reading, Stdio, StdioSinkOptions, StdoutOptions};

use crate::support::*;

fn options(value: serde_json::Value) -> StdoutOptions {
    millstream_core::parse_options(&value).unwrap()
}

/// Keeps each write; sleeps in each, as a slow reader makes it.
#[derive(Clone, Default)]
struct Slow(Arc<Mutex<Vec<Vec<u8>>>>, Duration);

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::thread::sleep(self.1);
        self.0.lock().unwrap().push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn values_are_lines_and_json_is_on_one() {
    let (stdio, _input, seen) = pipes(Reading::default());
    let plan = stdio.stdout(&StdoutOptions::default()).unwrap();
    let mut sink = open_sink(&*plan).await;
    sink.write(batch("s", &["a", "", "b"])).await.unwrap();
    let mut builder = millstream_core::BatchBuilder::new();
    builder.push(&Record { form: Form::Json, ..Record::new("s", "{\n \"a\": 1\n}") });
    sink.write(builder.finish()).await.unwrap();
    sink.close().await.unwrap();
    drop((plan, sink, stdio));
    assert_eq!(read_all(seen), "a\n\nb\n{\"a\":1}\n");
}

#[tokio::test]
async fn a_lone_record_is_flushed_at_once() {
    let (stdio, _input, mut seen) = pipes(Reading::default());
    let mut sink = open_sink(&*stdio.stdout(&StdoutOptions::default()).unwrap()).await;
    for _ in 0..20 {
        sink.write(batch("s", &["now"])).await.unwrap();
        seen = tokio::task::spawn_blocking(move || {
            read_exactly(&mut seen, "now\n");
            seen
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn there_is_no_system_call_for_each_record() {
    let slow = Slow(Arc::default(), Duration::from_millis(5));
    let stdio = Stdio::with(Reading::default(), std::io::empty(), slow.clone()).unwrap();
    let mut sink = open_sink(&*stdio.stdout(&StdoutOptions::default()).unwrap()).await;
    sink.write(batch("s", &["x"; 4096])).await.unwrap();
    sink.flush().await.unwrap();
    assert_eq!(slow.0.lock().unwrap().len(), 1);
    for _ in 0..100 {
        sink.write(batch("s", &["x"])).await.unwrap();
    }
    sink.flush().await.unwrap();
    let writes = slow.0.lock().unwrap().clone();
    assert!(writes.len() < 50, "{} writes for 100 batches", writes.len());
    assert_eq!(writes.concat().len(), 2 * 4196);
}

#[tokio::test]
async fn a_reader_that_goes_away_is_closed() {
    let (stdio, _input, seen) = pipes(Reading::default());
    let plan = stdio.stdout(&StdoutOptions::default()).unwrap();
    let mut sink = open_sink(&*plan).await;
    drop(seen);
    sink.write(batch("s", &["x"])).await.unwrap();
    assert_eq!(sink.flush().await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(sink.write(batch("s", &["x"])).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(plan.create().unwrap().open(&[]).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn an_error_is_reported_and_the_next_open_tries_again() {
    struct FullOnce(bool, std::io::PipeWriter);
    impl Write for FullOnce {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            match std::mem::replace(&mut self.0, false) {
                true => Err(std::io::ErrorKind::StorageFull.into()),
                false => self.1.write(bytes),
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (mut seen, output) = std::io::pipe().unwrap();
    let stdio = Stdio::with(Reading::default(), std::io::empty(), FullOnce(true, output)).unwrap();
    let mut sink = open_sink(&*stdio.stdout(&StdoutOptions::default()).unwrap()).await;
    sink.write(batch("s", &["x"])).await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert!(error.facts().retry);
    sink.open(&[]).await.unwrap();
    sink.write(batch("s", &["x"])).await.unwrap();
    sink.flush().await.unwrap();
    read_exactly(&mut seen, "x\n");
}

#[tokio::test]
async fn a_value_with_a_line_break_is_rejected_and_its_neighbours_are_written() {
    for format in [None, Some(Format::Log), Some(Format::Raw)] {
        let (stdio, _input, seen) = pipes(Reading::default());
        let plan = stdio.stdout(&StdoutOptions { format, ..StdoutOptions::default() }).unwrap();
        let mut sink = open_sink(&*plan).await;
        let id = sink.write(batch("s", &["a", "b\nc", "d"])).await.unwrap();
        let outcomes = sink.flush().await.unwrap();
        let rejected: Vec<_> = outcomes.rejected.iter().map(|(id, row, error)| (*id, *row, error.kind())).collect();
        assert_eq!(rejected, [(id, 1, ErrorKind::Rejected)]);
        drop((plan, sink, stdio));
        assert_eq!(read_all(seen).lines().count(), 2);
    }
}

#[tokio::test]
async fn a_preamble_is_written_once_also_over_restarts() {
    let (stdio, _input, seen) = pipes(Reading::default());
    let plan = stdio.stdout(&options(serde_json::json!({"codec": "csv"}))).unwrap();
    for n in 0..2 {
        let mut sink = open_sink(&*plan).await;
        let mut builder = millstream_core::BatchBuilder::new();
        builder.push(&Record { form: Form::Json, ..Record::new("s", format!("{{\"n\":{n}}}")) });
        sink.write(builder.finish()).await.unwrap();
        sink.close().await.unwrap();
    }
    drop((plan, stdio));
    assert_eq!(read_all(seen), "n\n0\n1\n");
}

#[tokio::test]
async fn stdio_prints_headers_and_tells_the_sequences() {
    let (stdio, _input, seen) = pipes(Reading::default());
    let plan = stdio.producer(&StdioSinkOptions::default()).unwrap();
    let mut sink = open_sink(&*plan).await;
    let time = Timestamp::parse("2022-01-01T00:00:00.5Z").unwrap();
    let mut builder = millstream_core::BatchBuilder::new();
    for (stream, value) in [("a", "1"), ("b", "2"), ("a", "3\n"), ("a", "4"), ("/x y", "5"), ("", "6")] {
        builder.push(&Record { time: Some(time), form: Form::Text, ..Record::new(stream, value) });
    }
    let first = sink.write(builder.finish()).await.unwrap();
    let second = sink.write(batch("a", &["7"])).await.unwrap();
    let outcomes = sink.flush().await.unwrap();
    assert_eq!(outcomes.sequences, [(first, vec![1, 1, 2, 2, 1, 1]), (second, vec![3])]);
    assert_eq!(outcomes.rejected.len(), 1);
    drop((plan, sink, stdio));
    let out = read_all(seen);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(
        lines[..5],
        [
            "[2022-01-01T00:00:00.500 | a | 1 | 0] 1",
            "[2022-01-01T00:00:00.500 | b | 1 | 0] 2",
            "[2022-01-01T00:00:00.500 | a | 2 | 0] 4",
            "[2022-01-01T00:00:00.500 | _x_y | 1 | 0] 5",
            "[2022-01-01T00:00:00.500 | broadcast | 1 | 0] 6",
        ]
    );
    assert!(lines[5].ends_with(" | a | 3 | 0] 7"));
}

#[tokio::test]
async fn what_is_printed_can_be_chosen() {
    for (options, expected) in [
        (StdioSinkOptions { format: Format::Raw, ..Default::default() }, "x\n"),
        (StdioSinkOptions { stream: Some("t".into()), ..Default::default() }, " | t | 1 | 0] x\n"),
        (StdioSinkOptions { sequences: PrintedSequences::Origin, ..Default::default() }, " | s | 0 | 0] x\n"),
        (
            StdioSinkOptions { format: Format::Ndjson, ..Default::default() },
            ",\"key\":null,\"headers\":[],\"value\":\"x\"}\n",
        ),
    ] {
        let (stdio, _input, seen) = pipes(Reading::default());
        let plan = stdio.producer(&options).unwrap();
        let mut sink = open_sink(&*plan).await;
        sink.write(batch("s", &["x"])).await.unwrap();
        sink.close().await.unwrap();
        drop((plan, sink, stdio));
        let out = read_all(seen);
        assert!(out.ends_with(expected), "{out}");
    }
    let (stdio, _input, _seen) = pipes(Reading::default());
    let wrong = StdioSinkOptions { stream: Some("a b".into()), ..Default::default() };
    assert_eq!(stdio.producer(&wrong).unwrap_err().place().unwrap().path, ["stream"]);
    let both = options(serde_json::json!({"codec": "lines", "format": "log"}));
    assert_eq!(stdio.stdout(&both).unwrap_err().place().unwrap().path, ["format"]);
}

#[tokio::test]
async fn loopback_feeds_produced_records_to_consumers_of_the_process() {
    let (stdio, input, seen) = pipes(Reading { loopback: true, ..Reading::default() });
    let (all_of, some) = (stdio.consumer(vec![], None), stdio.consumer(vec!["a".into()], None));
    let (mut all_of, mut some) = (open(&*all_of).await, open(&*some).await);
    drop(input); // The end of the input is not the end.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let plan = stdio.producer(&StdioSinkOptions::default()).unwrap();
    let mut sink = open_sink(&*plan).await;
    sink.write(batch("a", &["1", "2\n", "3"])).await.unwrap();
    sink.write(batch("b", &["4"])).await.unwrap();
    sink.close().await.unwrap();
    let (first, second) = tokio::join!(all(&mut *all_of), all(&mut *some));
    assert_eq!(shown(&first), ["a/0@1 1", "a/0@2 3", "b/0@1 4"]);
    assert_eq!(shown(&second), ["a/0@1 1", "a/0@2 3"]);
    drop((plan, sink, stdio, all_of, some));
    drop(seen);
}

#[tokio::test]
async fn with_loopback_consumers_end_when_told_to() {
    let (stdio, _input, _seen) = pipes(Reading { loopback: true, ..Reading::default() });
    let mut source = open(&*stdio.consumer(vec![], None)).await;
    let mut sink = open_sink(&*stdio.producer(&StdioSinkOptions::default()).unwrap()).await;
    sink.write(batch("a", &["1"])).await.unwrap();
    stdio.end();
    assert_eq!(texts(&all(&mut *source).await), ["1"]);
}

#[tokio::test]
async fn what_a_member_left_unread_goes_to_others_whose_queues_are_full_and_to_who_comes_last() {
    let (stdio, input, _seen) = pipes(Reading { loopback: true, ..Reading::default() });
    let member = || stdio.consumer(vec![], Some("g".into()));
    let (first, second) = (member(), member());
    let mut sink = open_sink(&*stdio.producer(&StdioSinkOptions::default()).unwrap()).await;
    // As many batches as may wait for each.
    for n in 0..8 {
        sink.write(batch("a", &[&format!("{n}"), &format!("{n}'")])).await.unwrap();
    }
    drop(first);
    let mut source = open(&*second).await;
    let mut got = Vec::new();
    while got.len() < 9 {
        got.extend(next(&mut *source).await.unwrap().into_iter().map(|record| texts(&[record.unwrap()]).remove(0)));
    }
    drop((second, source, input));
    let third = member();
    sink.close().await.unwrap();
    got.extend(texts(&all(&mut *open(&*third).await).await));
    got.sort();
    let mut expected: Vec<String> = (0..8).flat_map(|n| [format!("{n}"), format!("{n}'")]).collect();
    expected.sort();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn any_number_of_them_live_in_one_process() {
    let mut tasks = Vec::new();
    for n in 0..20 {
        tasks.push(tokio::spawn(async move {
            let (stdio, input, seen) = pipes(Reading::default());
            feed(input, format!("{n}\n").repeat(1000));
            let (source, sink) = (stdio.consumer(vec![], None), stdio.stdout(&StdoutOptions::default()).unwrap());
            let (mut reader, mut writer) = (open(&*source).await, open_sink(&*sink).await);
            let seen = tokio::task::spawn_blocking(move || read_all(seen));
            while let millstream_core::Event::Batch(read) = reader.next().await.unwrap() {
                writer.write(read.batch).await.unwrap();
            }
            writer.close().await.unwrap();
            drop((source, sink, reader, writer, stdio));
            assert_eq!(seen.await.unwrap(), format!("{n}\n").repeat(1000));
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(30))]
    #[test]
    fn any_lines_pass_through_unchanged(lines in proptest::collection::vec("[^\r\n]{0,30}", 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
            // Through the line protocol and back: header off, header on, header off.
            let (stdio, feeder, seen) = pipes(Reading { headers: millstream_codec::log::Headers::Off, ..Reading::default() });
            feed(feeder, input.clone());
            let (source, sink) = (stdio.consumer(vec![], None), stdio.producer(&StdioSinkOptions::default()).unwrap());
            let (mut reader, mut writer) = (open(&*source).await, open_sink(&*sink).await);
            let seen = tokio::task::spawn_blocking(move || read_all(seen));
            while let millstream_core::Event::Batch(read) = reader.next().await.unwrap() {
                writer.write(read.batch).await.unwrap();
            }
            writer.close().await.unwrap();
            drop((source, sink, reader, writer, stdio));
            let printed = seen.await.unwrap();
            let (stdio, feeder, _seen) = pipes(Reading::default());
            feed(feeder, printed);
            let got = all(&mut *open(&*stdio.consumer(vec![], None)).await).await;
            assert_eq!(texts(&got), lines);
        });
    }
}
