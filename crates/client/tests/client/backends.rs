//! The same code on every system, chosen by type or by URL.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use futures::executor::block_on;
use millstream_client::{Consumer, ConsumerOptions, ProducerOptions, Streamer};
use millstream_core::{ErrorKind, Registry, SeekTo};
use millstream_std::{Reading, Stdio};

use crate::support::{everywhere, text};

#[derive(Clone, Debug, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn pipes(input: impl Read + Send + 'static, loopback: bool) -> (Streamer, Written) {
    let written = Written::default();
    let stdio = Stdio::with(Reading { loopback, ..Reading::default() }, input, written.clone()).unwrap();
    (Streamer::of(stdio), written)
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    let all = millstream_std::components().into_iter().chain(millstream_file::components());
    all.for_each(|component| registry.add(component));
    registry
}

fn beginning() -> ConsumerOptions {
    ConsumerOptions { start: Some(SeekTo::Beginning), ..ConsumerOptions::real_time() }
}

/// Writes words and reads them back: unchanged on all systems.
async fn there_and_back(streamer: Streamer) {
    // Where nothing is kept, whoever wants to read must be there before it is written.
    let mut early = streamer.create_consumer(&["words"], beginning()).unwrap();
    let opened = early.opened().await;
    let producer = streamer.create_producer("words", ProducerOptions::default()).unwrap();
    let mut sequences = Vec::new();
    for word in ["the", "quick", "brown", "fox"] {
        sequences.push(producer.send(word).await.unwrap().await.unwrap().sequence);
    }
    producer.end().await.unwrap();
    if opened.is_err() {
        early = streamer.create_consumer(&["words"], beginning()).unwrap();
    }
    let mut read = Vec::new();
    while let Some(record) = early.next().await.unwrap() {
        if let Some(Some(told)) = sequences.get(read.len()) {
            assert_eq!(*told, record.sequence);
        }
        assert_eq!(&*record.origin.stream, "words");
        read.push(text(&record));
    }
    assert_eq!(read, ["the", "quick", "brown", "fox"]);
}

#[test]
fn one_function_runs_on_pipes_with_loopback() {
    everywhere(|| there_and_back(pipes(std::io::empty(), true).0));
}

#[test]
fn one_function_runs_on_a_stream_file_by_url() {
    everywhere(|| async {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}/a%20b.ss?follow=true", folder.path().display());
        there_and_back(Streamer::connect(&url, registry()).unwrap()).await;
    });
}

#[test]
fn a_text_file_is_written_and_read_by_url() {
    everywhere(|| async {
        let folder = tempfile::tempdir().unwrap();
        let streamer = Streamer::connect(&format!("file://{}", folder.path().display()), registry()).unwrap();
        let producer = streamer.create_producer("a, b.txt", ProducerOptions::default()).unwrap();
        for i in 0..1000 {
            drop(producer.send(i.to_string()).await.unwrap());
        }
        producer.end().await.unwrap();
        let mut consumer = streamer.create_consumer(&["a, b.txt"], ConsumerOptions::real_time()).unwrap();
        for i in 0..1000 {
            assert_eq!(text(&consumer.next().await.unwrap().unwrap()), i.to_string());
        }
        consumer.rewind(SeekTo::At(500)).await.unwrap();
        assert_eq!(text(&consumer.next().await.unwrap().unwrap()), "499");
    });
}

#[test]
fn a_resumable_consumer_of_a_file_keeps_its_place_beside_it() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.log");
        std::fs::write(&path, "a\nb\nc\nd\n").unwrap();
        let streamer = Streamer::connect(&format!("file://{}", path.display()), registry()).unwrap();
        for expected in ["a", "b", "c", "d"] {
            let mut consumer = streamer.create_consumer(&[], ConsumerOptions::resumable("me")).unwrap();
            assert_eq!(text(&consumer.next().await.unwrap().unwrap()), expected);
            consumer.close().await.unwrap();
        }
        assert!(folder.path().join(".app.log.me.position").exists());
    });
}

#[test]
fn a_stream_file_is_resumed_rewound_and_shared_for_every_key() {
    everywhere(|| async {
        let folder = tempfile::tempdir().unwrap();
        let streamer = Streamer::connect(&format!("file://{}/x.ss", folder.path().display()), registry()).unwrap();
        let producer = streamer.create_producer("", ProducerOptions::default()).unwrap();
        for i in 0..100 {
            for stream in ["a", "b"] {
                drop(producer.send(millstream_core::Record::new(stream, i.to_string())).await.unwrap());
            }
        }
        producer.end().await.unwrap();
        let mut read = 0;
        for _ in 0..3 {
            let mut consumer = streamer.create_consumer(&["b"], ConsumerOptions::resumable("me")).unwrap();
            for _ in 0..20 {
                assert_eq!(text(&consumer.next().await.unwrap().unwrap()), read.to_string());
                read += 1;
            }
            consumer.close().await.unwrap();
        }
        let mut consumer = streamer.create_consumer(&["a"], beginning()).unwrap();
        consumer.rewind(SeekTo::At(51)).await.unwrap();
        let record = consumer.next().await.unwrap().unwrap();
        assert_eq!((record.sequence, text(&record)), (51, "50".to_owned()));
        let member = || streamer.create_consumer(&["a", "b"], ConsumerOptions::load_balanced("team")).unwrap();
        let (one, two) = (member(), member());
        let (one, two) = futures::future::join(all(one), all(two)).await;
        assert_eq!(one.len() + two.len(), 200);
        let counted = (0..100).all(|i| one.iter().chain(&two).filter(|value| **value == i.to_string()).count() == 2);
        assert!(counted);
    });
}

async fn all(mut consumer: Consumer) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(record) = consumer.next().await.unwrap() {
        all.push(text(&record));
    }
    all
}

#[test]
fn consumers_made_before_the_first_question_miss_no_line_of_the_input() {
    everywhere(|| async {
        let input: String = (0..1000).map(|i| format!("[{}] {i}\n", ["a", "b"][i % 2])).collect();
        let (streamer, _) = pipes(std::io::Cursor::new(input), false);
        let (a, b) = (
            streamer.create_consumer(&["a"], ConsumerOptions::real_time()).unwrap(),
            streamer.create_consumer(&["b"], ConsumerOptions::real_time()).unwrap(),
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
        let (a, b) = futures::future::join(all(a), all(b)).await;
        assert_eq!(a, (0..1000).step_by(2).map(|i| i.to_string()).collect::<Vec<_>>());
        assert_eq!(b, (1..1000).step_by(2).map(|i| i.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn members_of_a_group_share_the_input() {
    everywhere(|| async {
        let input: String = (0..1000).map(|i| format!("[k] {i}\n")).collect();
        let (streamer, _) = pipes(std::io::Cursor::new(input), false);
        let member = || streamer.create_consumer(&["k"], ConsumerOptions::load_balanced("team")).unwrap();
        let (a, b) = (member(), member());
        let (a, b) = futures::future::join(all(a), all(b)).await;
        assert_eq!((a.len(), b.len()), (500, 500));
        let both: BTreeSet<_> = a.into_iter().chain(b).collect();
        assert_eq!(both.len(), 1000);
    });
}

#[test]
fn members_of_a_group_share_a_file() {
    everywhere(|| async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.log");
        std::fs::write(&path, (0..100).map(|i| format!("{i}\n")).collect::<String>()).unwrap();
        let streamer = Streamer::connect(&format!("file://{}", path.display()), registry()).unwrap();
        let member = || streamer.create_consumer(&[], ConsumerOptions::load_balanced("team")).unwrap();
        let (a, b) = (member(), member());
        let (a, b) = futures::future::join(all(a), all(b)).await;
        let both: BTreeSet<_> = a.iter().chain(&b).collect();
        assert_eq!((a.len() + b.len(), both.len()), (100, 100));
    });
}

#[test]
fn what_cannot_be_connected_is_said_before_anything_is_opened() {
    let error = Streamer::connect("stdoi:", registry()).unwrap_err();
    assert!(error.hint_text().unwrap().contains("stdio"), "{error:?}");
    assert_eq!(Streamer::connect("no url", registry()).unwrap_err().kind(), ErrorKind::Syntax);
    assert_eq!(Streamer::connect("file:///x?start=soon", registry()).unwrap_err().kind(), ErrorKind::Option);
    let streamer = Streamer::connect("file:///x?evry=1", registry()).unwrap();
    assert_eq!(streamer.create_consumer(&[], beginning()).unwrap_err().kind(), ErrorKind::Option);
    assert_eq!(streamer.create_consumer(&[""], beginning()).unwrap_err().kind(), ErrorKind::Option);
    let drop = Streamer::connect("drop:", registry()).unwrap();
    assert_eq!(drop.create_consumer(&[], beginning()).unwrap_err().kind(), ErrorKind::Option);
    assert!(!format!("{:?}", Streamer::connect("stdio://u:geheim@h/", registry()).unwrap()).contains("geheim"));
}

#[test]
fn a_file_that_is_not_there_is_an_error_and_not_a_wait() {
    block_on(async {
        let path = PathBuf::from("/nowhere/at/all.txt");
        let streamer = Streamer::connect(&format!("file://{}", path.display()), registry()).unwrap();
        let mut consumer = streamer.create_consumer(&[], ConsumerOptions::real_time()).unwrap();
        assert_eq!(consumer.next().await.unwrap_err().kind(), ErrorKind::NotFound);
    });
}
