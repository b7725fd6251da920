//! Records that expire, and topics that come, go and grow while they are read.

use std::time::Duration;

use millstream_core::{Error, ErrorKind, Event, Position, Record, Resume, ShardKey, Source, Stamp};
use serde_json::{Value, json};

use crate::support::*;

fn with(mut options: Value, more: &Value) -> Value {
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    options
}

fn member() -> Resume {
    let stamp = Stamp { pipeline: "p".into(), store_id: "store".into(), epoch: 1 };
    Resume { stamp: Some(stamp), ..Resume::default() }
}

fn at(topic: &str, offset: u64) -> Position {
    let mut position = Position::default();
    position.set(ShardKey::new(topic, 0), &offset).unwrap();
    position
}

/// Deletes the records of these topics before an offset, as their retention does; all for `-1`.
fn expire(topics: &[&str], before: i64) {
    let partitions: Vec<_> =
        topics.iter().map(|topic| json!({"topic": topic, "partition": 0, "offset": before})).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("offsets.json");
    std::fs::write(&file, json!({"partitions": partitions, "version": 1}).to_string()).unwrap();
    kafka().tool("kafka-delete-records", &["--offset-json-file", file.to_str().unwrap()]);
}

/// The next records' first sequence, or what went wrong.
async fn first(source: &mut dyn Source) -> Result<u128, Error> {
    loop {
        match event(source).await {
            Ok(Event::Batch(read)) => return Ok(read.batch.get(0).sequence()),
            Err(error) if !error.facts().retry => return Err(error),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_has_expired_is_an_error_or_a_choice_with_a_group_too() {
    let _kafka = kafka();
    let topic = topic(1);
    write_all(&topic, json!({}), &values(0, 10)).await;
    let choices = ["fail", "beginning", "end"];
    let groups = choices.map(|_| name("group"));
    for group in &groups {
        let mut source = opened(&topic, json!({"group": group}), &member()).await;
        read(&mut *source, 10).await;
        source.commit(&at(&topic, 3), member().stamp.as_ref()).await.unwrap();
        source.close().await.unwrap();
    }
    tokio::task::block_in_place(|| expire(&[&topic], 6));
    for (choice, group) in choices.iter().zip(&groups) {
        let on_missing = json!({"on_missing": choice});
        let mut grouped = opened(&topic, with(json!({"group": group}), &on_missing), &member()).await;
        let mut assigned = source(&topic, on_missing);
        let resumed = assigned.open(&Resume { position: Some(at(&topic, 3)), ..Resume::default() }).await;
        if *choice == "end" {
            // Only what comes from now on.
            assert!(matches!(event(&mut *grouped).await.unwrap(), Event::Added(_)));
            write_all(&topic, json!({}), &values(10, 11)).await;
        }
        let outcomes = [
            first(&mut *grouped).await,
            async {
                resumed.map(drop)?;
                first(&mut *assigned).await
            }
            .await,
        ];
        for outcome in outcomes {
            match (*choice, outcome) {
                ("fail", Err(error)) => {
                    assert_eq!(error.kind(), ErrorKind::StateMismatch);
                    assert!(error.message().contains("from 6 up to 10") && error.hint_text().is_some(), "{error:?}");
                }
                ("beginning", Ok(sequence)) => assert_eq!(sequence, 6),
                ("end", Ok(sequence)) => assert_eq!(sequence, 10),
                other => panic!("{other:?}"),
            }
        }
        grouped.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_expire_while_they_are_waited_for_are_an_error_or_a_choice() {
    let _kafka = kafka();
    const RECORDS: usize = 600;
    let group = || json!({"group": name("group")});
    let mut readers = Vec::new();
    for more in [json!({}), group(), json!({"on_missing": "end"}), with(group(), &json!({"on_missing": "beginning"}))] {
        let topic = topic(1);
        write_all(&topic, json!({}), &vec![Record::new("test", vec![b'x'; 50 << 10]); RECORDS]).await;
        let source = opened(&topic, with(more.clone(), &json!({"prefetch": "1MiB"})), &member()).await;
        readers.push((topic, more, source));
    }
    for (_, _, source) in &mut readers {
        // It reads ahead until it holds what it may.
        while !matches!(event(&mut **source).await.unwrap(), Event::Batch(_)) {}
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let topics: Vec<&str> = readers.iter().map(|(topic, ..)| topic.as_str()).collect();
    tokio::task::block_in_place(|| expire(&topics, -1));
    for (topic, more, mut source) in readers {
        // Who goes on at the end sees what is written behind that.
        let later = topic.clone();
        let writing = tokio::spawn(async move {
            loop {
                write_all(&later, json!({}), &[Record::new("test", "later")]).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let mut held = 0;
        let ended = loop {
            match event(&mut *source).await {
                Ok(Event::Batch(read)) if read.batch.get(0).sequence() >= RECORDS as u128 => break Ok(()),
                Ok(Event::Batch(read)) => held += read.batch.len(),
                Ok(_) => {}
                Err(error) if error.facts().retry => {}
                Err(error) => break Err(error),
            }
        };
        // 4 MiB of batches, 1 MiB in the queue, and what one fetch has beyond each of them.
        assert!(held < RECORDS / 3, "{held} records of 50 KiB were held: {more}");
        match (more.get("on_missing"), ended) {
            (None, Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::StateMismatch);
                assert!(error.message().contains(&topic) && error.hint_text().is_some(), "{error:?}");
            }
            (Some(_), Ok(())) => {}
            other => panic!("{other:?}"),
        }
        writing.abort();
        source.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_finds_new_partitions_and_new_topics_of_its_pattern() {
    let _kafka = kafka();
    let prefix = name("growing");
    let [one, two] = ["a", "b"].map(|topic| format!("{prefix}.{topic}"));
    kafka().create_topic(&one, 1, &[]);
    write_all(&one, json!({}), &values(0, 2)).await;
    let more = json!({"pattern": format!("^{prefix}\\..*"), "discover": "200ms", "group": name("group")});
    let mut source = opened("", more, &Resume::default()).await;
    assert_eq!(texts(&read(&mut *source, 2).await), ["0", "1"]);
    tokio::task::block_in_place(|| kafka().tool("kafka-topics", &["--alter", "--topic", &one, "--partitions", "2"]));
    write_all(&one, json!({"partition": 1}), &values(2, 4)).await;
    assert_eq!(texts(&following(&mut *source, 2).await), ["2", "3"]);
    kafka().create_topic(&two, 1, &[]);
    write_all(&two, json!({}), &values(4, 6)).await;
    assert_eq!(texts(&following(&mut *source, 2).await), ["4", "5"]);
    assert_eq!(source.shards().len(), 3);
    source.close().await.unwrap();
}

/// So many records; partitions are given back as they are asked for.
async fn following(source: &mut dyn Source, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        match event(source).await.unwrap() {
            Event::Batch(read) => records.extend(read.batch.iter().map(|record| record.to_record())),
            Event::Leaving(shards) => {
                let position = source.position().unwrap();
                source.commit(&position, None).await.unwrap();
                source.release(&shards).await.unwrap();
            }
            _ => {}
        }
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_deleted_under_a_group_is_an_error_that_says_so() {
    let _kafka = kafka();
    let topic = topic(1);
    write_all(&topic, json!({}), &values(0, 1)).await;
    let mut source = opened(&topic, json!({"discover": "200ms", "group": name("group")}), &member()).await;
    read(&mut *source, 1).await;
    tokio::task::block_in_place(|| kafka().delete_topic(&topic));
    let error = first(&mut *source).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint_text().is_some(), "{error:?}");
}
