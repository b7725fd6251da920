//! What is promised of reading standard input.

use std::io::Write;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use millstream_codec::{CodecOptions, log::Headers};
use millstream_core::{ErrorKind, Event, Form, Owner};
use millstream_std::{Reading, Stdio};

use crate::support::*;

fn verbatim() -> Reading {
    Reading { headers: Headers::Off, stream: "stdin".into(), ..Reading::default() }
}

#[tokio::test]
async fn stdin_takes_lines_verbatim_and_a_log_line_keeps_its_bracket() {
    let (stdio, input, _out) = pipes(verbatim());
    feed(input, "[error] disk full\r\n\n[2022-01-01T00:00:00 | k | 1] x\nlast");
    let plan = stdio.consumer(vec![], None);
    let got = all(&mut *open(&*plan).await).await;
    assert_eq!(
        shown(&got),
        ["stdin/0@1 [error] disk full", "stdin/0@2 ", "stdin/0@3 [2022-01-01T00:00:00 | k | 1] x", "stdin/0@4 last"]
    );
    assert_eq!((plan.form(), plan.capabilities().owner), (Form::Text, Owner::Nobody));
}

#[tokio::test]
async fn stdio_reads_headers() {
    let (stdio, input, _out) = pipes(Reading::default());
    feed(input, "[2022-01-01T00:00:00 | k | 7 | 2] x\n[error] y\n");
    let got = all(&mut *open(&*stdio.consumer(vec![], None)).await).await;
    assert_eq!(shown(&got), ["k/2@7 x", "broadcast/0@1 [error] y"]);
    assert_eq!(got[0].time.unwrap().to_string(), "2022-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn not_a_line_is_lost_at_start_however_fast_the_input() {
    let lines: Vec<String> = (0..200_000).map(|n| format!("line {n}")).collect();
    let (stdio, input, _out) = pipes(Reading::default());
    let writer = feed(input, lines.join("\n"));
    let (first, second) = (stdio.consumer(vec![], None), stdio.consumer(vec![], None));
    std::thread::sleep(Duration::from_millis(20));
    let (mut first, mut second) = (open(&*first).await, open(&*second).await);
    let (a, b) = tokio::join!(all(&mut *first), all(&mut *second));
    assert!(texts(&a) == lines && texts(&b) == lines);
    assert!(a.iter().zip(1..).all(|(record, n)| record.sequence == n));
    writer.join().unwrap();
}

#[tokio::test]
async fn the_end_of_input_ends_every_consumer_also_later_ones() {
    let (stdio, input, _out) = pipes(Reading::default());
    drop(input);
    let plans = [
        stdio.consumer(vec![], None),
        stdio.consumer(vec!["a".into()], None),
        stdio.consumer(vec![], Some("g".into())),
    ];
    for plan in &plans {
        assert!(all(&mut *open(&**plan).await).await.is_empty());
    }
    assert!(all(&mut *open(&*stdio.consumer(vec![], None)).await).await.is_empty());
}

#[tokio::test]
async fn a_lone_record_is_passed_on_at_once() {
    let (stdio, mut input, _out) = pipes(Reading::default());
    let mut source = open(&*stdio.consumer(vec![], None)).await;
    for n in 0..20 {
        writeln!(input, "{n}").unwrap();
        assert_eq!(texts(&[next(&mut *source).await.unwrap().remove(0).unwrap()]), [n.to_string()]);
    }
    input.write_all(b"half a").unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), source.next()).await.is_err());
    input.write_all(b" line\n").unwrap();
    assert_eq!(texts(&[next(&mut *source).await.unwrap().remove(0).unwrap()]), ["half a line"]);
}

#[tokio::test]
async fn next_can_be_cancelled_without_loss() {
    let (stdio, mut input, _out) = pipes(Reading::default());
    let mut source = open(&*stdio.consumer(vec![], None)).await;
    let writer = std::thread::spawn(move || {
        for n in 0..500 {
            writeln!(input, "{n}").unwrap();
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    let mut seen = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_micros(50), source.next()).await {
            Err(_) => continue,
            Ok(event) => match event.unwrap() {
                Event::Batch(read) => seen.extend(read.batch.iter().map(|record| record.to_record())),
                _ => break,
            },
        }
    }
    writer.join().unwrap();
    assert_eq!(texts(&seen), (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_restarted_source_goes_on_where_the_last_one_stopped() {
    let (stdio, input, _out) = pipes(Reading::default());
    let lines: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    feed(input, lines.join("\n"));
    let plan = stdio.consumer(vec![], None);
    let mut source = open(&*plan).await;
    let mut got: Vec<_> = next(&mut *source).await.unwrap().into_iter().map(Result::unwrap).collect();
    let position = source.position().unwrap();
    drop(source);
    let mut source = open(&*plan).await;
    assert_eq!(source.position().unwrap(), position);
    got.extend(all(&mut *source).await);
    assert_eq!(texts(&got), lines);
}

#[tokio::test]
async fn bytes_that_are_no_utf8_are_an_error_record_with_the_line_number() {
    let (stdio, input, _out) = pipes(verbatim());
    feed(input, b"a\n\xff\nb\n".to_vec());
    let got = next(&mut *open(&*stdio.consumer(vec![], None)).await).await.unwrap();
    let error = got[1].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Decode, "cannot read line 2"));
    assert!(got[0].is_ok() && got[2].is_ok());
}

#[tokio::test]
async fn a_consumer_that_does_not_read_holds_the_input_up() {
    struct Endless(Arc<AtomicUsize>);
    impl std::io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            buffer.fill(b'\n');
            self.0.fetch_add(buffer.len(), Ordering::Relaxed);
            Ok(buffer.len())
        }
    }
    let read = Arc::new(AtomicUsize::new(0));
    let stdio = Stdio::with(Reading::default(), Endless(read.clone()), std::io::sink()).unwrap();
    let mut source = open(&*stdio.consumer(vec![], None)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let held = read.load(Ordering::Relaxed);
    assert!(held < 1 << 20, "{held} bytes read ahead");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(read.load(Ordering::Relaxed), held);
    for _ in 0..1000 {
        next(&mut *source).await.unwrap();
    }
}

#[tokio::test]
async fn lines_longer_than_a_block_are_whole() {
    let long = "x".repeat(3 << 20);
    let (stdio, input, _out) = pipes(verbatim());
    feed(input, format!("a\n{long}\nb\n{long}"));
    let got = all(&mut *open(&*stdio.consumer(vec![], None)).await).await;
    assert_eq!(
        got.iter().map(|record| record.value.as_ref().unwrap().len()).collect::<Vec<_>>(),
        [1, 3 << 20, 1, 3 << 20]
    );
}

#[tokio::test]
async fn any_codec_reads_stdin() {
    let codec = CodecOptions::named("csv").unwrap();
    let (stdio, input, _out) = pipes(Reading { codec, ..verbatim() });
    feed(input, "a,b\n1,2\n3\n4,5\n");
    let got = next(&mut *open(&*stdio.consumer(vec![], None)).await).await.unwrap();
    assert_eq!(
        shown(&[got[0].clone().unwrap(), got[2].clone().unwrap()]),
        ["stdin/0@1 {\"a\":\"1\",\"b\":\"2\"}", "stdin/0@3 {\"a\":\"4\",\"b\":\"5\"}",]
    );
    assert_eq!(got[1].as_ref().unwrap_err().message(), "cannot read record 2");
    let codec = CodecOptions::named("csv").unwrap();
    let error = Stdio::with(Reading { codec, ..Reading::default() }, std::io::empty(), std::io::sink()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn consumers_get_their_streams_and_broadcast() {
    let (stdio, input, _out) = pipes(Reading::default());
    feed(input, "[a | 1] x\n[b | 1] y\nall\n[a] z\n");
    let (a, b) = (stdio.consumer(vec!["a".into()], None), stdio.consumer(vec!["b".into()], None));
    let (mut a, mut b) = (open(&*a).await, open(&*b).await);
    let (a, b) = tokio::join!(all(&mut *a), all(&mut *b));
    assert_eq!(shown(&a), ["a/0@1 x", "broadcast/0@1 all", "a/0@2 z"]);
    assert_eq!(shown(&b), ["b/0@1 y", "broadcast/0@1 all"]);
}

#[tokio::test]
async fn groups_share_round_robin() {
    let (stdio, input, _out) = pipes(Reading::default());
    feed(input, (0..10).map(|n| format!("{n}\n")).collect::<String>());
    let plans: Vec<_> =
        [Some("g"), Some("g"), Some("h"), None].map(|group| stdio.consumer(vec![], group.map(str::to_owned))).into();
    assert!(plans[0].capabilities().groups && !plans[3].capabilities().groups);
    let mut got = Vec::new();
    for plan in &plans {
        got.push(texts(&all(&mut *open(&**plan).await).await));
    }
    assert_eq!(got[0], ["0", "2", "4", "6", "8"]);
    assert_eq!(got[1], ["1", "3", "5", "7", "9"]);
    assert_eq!((got[2].len(), got[3].len()), (10, 10));
}

#[tokio::test]
async fn what_a_member_that_left_was_to_get_goes_to_the_others() {
    let (stdio, mut input, _out) = pipes(Reading::default());
    let (first, second) = (stdio.consumer(vec![], Some("g".into())), stdio.consumer(vec![], Some("g".into())));
    let mut second_source = open(&*second).await;
    drop(first);
    input.write_all(b"0\n1\n2\n").unwrap();
    drop(input);
    assert_eq!(texts(&all(&mut *second_source).await), ["0", "1", "2"]);
}

#[tokio::test]
async fn nothing_is_thrown_away_while_there_is_no_consumer() {
    let (stdio, mut input, _out) = pipes(Reading::default());
    let plan = stdio.consumer(vec![], None);
    let source = open(&*plan).await;
    drop((plan, source));
    input.write_all(b"0\n1\n").unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut source = open(&*stdio.consumer(vec![], None)).await;
    drop(input);
    assert_eq!(texts(&all(&mut *source).await), ["0", "1"]);
}
