use std::time::Duration;

use millstream_core::{ErrorKind, Event, Position, Record, Resume, SeekTo, ShardKey, Timestamp};
use serde_json::json;

use crate::support::{
    LONG, event, kafka, name, opened, read, read_to_end, source, texts, topic, topic_with, values, write_all,
};

fn at(start: SeekTo) -> Resume {
    Resume { start, ..Resume::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_partitions_are_read_each_in_order() {
    let topic = topic(3);
    let records = values(0, 10_000);
    write_all(&topic, json!({}), &records).await;
    let read = read_to_end(&topic, json!({})).await;
    assert_eq!(read.len(), records.len());
    for shard in 0..3 {
        let of: Vec<_> = read.iter().filter(|record| record.origin.shard == shard).collect();
        assert!(of.windows(2).all(|pair| pair[0].sequence + 1 == pair[1].sequence));
        let numbers: Vec<u32> =
            of.iter().map(|record| String::from_utf8_lossy(record.value.as_ref().unwrap()).parse().unwrap()).collect();
        assert!(numbers.is_sorted() && !numbers.is_empty());
    }
    let mut all: Vec<u32> = texts(&read).iter().map(|text| text.parse().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..10_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_read_unless_they_are_left_out() {
    let topic = topic(1);
    let headers = vec![("a".to_owned(), Some("1".into()))];
    let records: Vec<_> = values(0, 10)
        .into_iter()
        .map(|record| Record { key: Some("k".into()), headers: headers.clone(), ..record })
        .collect();
    write_all(&topic, json!({}), &records).await;
    for (options, expected) in [(json!({}), headers), (json!({"headers": false}), Vec::new())] {
        let read = read_to_end(&topic, options).await;
        assert_eq!(texts(&read), (0..10).map(|i| i.to_string()).collect::<Vec<_>>());
        assert!(read.iter().all(|record| record.key.as_deref() == Some(b"k") && record.headers == expected));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_begins_where_it_is_told() {
    let topic = topic(1);
    let timed =
        |i: i64| Record { time: Some(Timestamp::from_millis(1_000_000 + i * 1000)), ..Record::new("x", i.to_string()) };
    write_all(&topic, json!({}), &(0..10).map(timed).collect::<Vec<_>>()).await;
    for (start, expected) in [
        (SeekTo::Beginning, 0),
        (SeekTo::At(4), 4),
        (SeekTo::Time(Timestamp::from_millis(1_006_500)), 7),
        (SeekTo::Time(Timestamp::from_millis(1_007_000)), 7),
        (SeekTo::Time(Timestamp::from_millis(0)), 0),
    ] {
        let mut source = opened(&topic, json!({}), &at(start.clone())).await;
        let read = read(&mut *source, 10 - expected).await;
        assert_eq!(texts(&read), (expected..10).map(|i| i.to_string()).collect::<Vec<_>>(), "{start}");
    }
    let later = SeekTo::Time(Timestamp::from_millis(9_000_000_000_000));
    for (base, start, skipped) in [(10, SeekTo::End, 0), (15, SeekTo::At(17), 2), (20, later, 0)] {
        let mut source = opened(&topic, json!({}), &at(start.clone())).await;
        write_all(&topic, json!({}), &values(0, 5)).await;
        let read = read(&mut *source, 5 - skipped).await;
        assert_eq!(read[0].sequence, (base + skipped) as u128, "{start}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_resumes_behind_any_record() {
    let topic = topic(2);
    write_all(&topic, json!({}), &values(0, 200)).await;
    let all = read_to_end(&topic, json!({})).await;
    let mut source = opened(&topic, json!({}), &Resume::default()).await;
    let mut seen = Vec::new();
    let mut positions: Vec<(usize, Position)> = vec![(0, source.position().unwrap())];
    while seen.len() < 200 {
        if let Event::Batch(read) = event(&mut *source).await.unwrap() {
            seen.extend(read.batch.iter().map(|record| record.to_record()));
            positions.push((seen.len(), source.position().unwrap()));
        }
    }
    for cut in [0u64, 1, 17] {
        // A position between batches is as good as one behind a batch.
        let mut position = Position::default();
        position.set(ShardKey::new(topic.as_str(), 0), &cut).unwrap();
        position.set(ShardKey::new(topic.as_str(), 1), &0u64).unwrap();
        positions.push((cut as usize, position));
    }
    assert_eq!(all.len(), 200);
    for (count, position) in positions {
        let resume = Resume { position: Some(position.clone()), start: SeekTo::End, ..Resume::default() };
        let mut again = opened(&topic, json!({}), &resume).await;
        let rest = read(&mut *again, 200 - count).await;
        let mut first = rest.iter().map(|record| (record.origin.clone(), record.sequence)).collect::<Vec<_>>();
        first.sort();
        first.dedup_by(|later, earlier| later.0 == earlier.0);
        for (shard, sequence) in first {
            assert_eq!(position.shard::<u128>(&shard).unwrap().unwrap(), sequence);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_next_loses_nothing_and_moves_nothing() {
    let topic = topic(1);
    let mut source = opened(&topic, json!({}), &Resume::default()).await;
    let before = source.position().unwrap();
    for _ in 0..50 {
        assert!(tokio::time::timeout(Duration::from_millis(1), source.next()).await.is_err());
    }
    assert_eq!(source.position().unwrap(), before);
    let writing = tokio::spawn({
        let topic = topic.clone();
        async move { write_all(&topic, json!({"batch": {"count": 10}}), &values(0, 5000)).await }
    });
    let mut seen = Vec::new();
    while seen.len() < 5000 {
        if let Ok(Ok(Event::Batch(read))) = tokio::time::timeout(Duration::from_micros(200), source.next()).await {
            seen.extend(read.batch.iter().map(|record| record.to_record()));
        }
    }
    writing.await.unwrap();
    assert_eq!(texts(&seen), texts(&values(0, 5000)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeking_forgets_what_was_read_ahead() {
    let topic = topic(2);
    write_all(&topic, json!({"partition": "round_robin"}), &values(0, 20_000)).await;
    let mut source = opened(&topic, json!({}), &Resume::default()).await;
    assert!(matches!(event(&mut *source).await.unwrap(), Event::Batch(_)));
    source.seek(&SeekTo::At(9_990), None).await.unwrap();
    let rest = read(&mut *source, 20).await;
    assert!(rest.iter().all(|record| record.sequence >= 9_990));
    // One shard alone; and back again.
    let one = [ShardKey::new(topic.as_str(), 1)];
    source.seek(&SeekTo::At(9_998), Some(&one)).await.unwrap();
    let again = read(&mut *source, 2).await;
    assert!(again.iter().all(|record| record.origin == one[0]));
    source.seek(&SeekTo::Beginning, None).await.unwrap();
    assert_eq!(read(&mut *source, 20_000).await.len(), 20_000);
    let unknown = [ShardKey::new(topic.as_str(), 9)];
    let position = source.position().unwrap();
    assert_eq!(source.seek(&SeekTo::End, Some(&unknown)).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(source.seek(&SeekTo::Committed, None).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(source.position().unwrap(), position);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_added_is_found_and_read_from_its_beginning() {
    let topic = topic(1);
    let mut source = opened(&topic, json!({"discover": "200ms"}), &at(SeekTo::End)).await;
    kafka().tool(
        "org.apache.kafka.tools.TopicCommand",
        &["--bootstrap-server", &kafka().bootstrap(), "--alter", "--topic", &topic, "--partitions", "3"],
    );
    write_all(&topic, json!({"partition": 2}), &values(0, 3)).await;
    let mut added = Vec::new();
    let mut records = Vec::new();
    while records.len() < 3 {
        match event(&mut *source).await.unwrap() {
            Event::Added(shards) => added.extend(shards),
            Event::Batch(read) => records.extend(read.batch.iter().map(|record| record.to_record())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(added, [ShardKey::new(topic.as_str(), 1), ShardKey::new(topic.as_str(), 2)]);
    assert_eq!(texts(&records), ["0", "1", "2"]);
    assert_eq!(source.shards().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_deleted_is_an_error_that_says_so() {
    let topic = topic(1);
    let mut source = opened(&topic, json!({"discover": "200ms"}), &Resume::default()).await;
    kafka().delete_topic(&topic);
    let error = tokio::time::timeout(LONG, async {
        loop {
            if let Err(error) = source.next().await
                && !error.facts().retry
            {
                return error;
            }
        }
    });
    let error = error.await.unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains(&topic) && error.hint_text().is_some(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_found_by_pattern() {
    let prefix = name("pattern");
    for topic in ["a", "b"] {
        kafka().create_topic(&format!("{prefix}.{topic}"), 1, &[]);
    }
    write_all(&format!("{prefix}.a"), json!({}), &values(0, 2)).await;
    let more = json!({"pattern": format!("^{}\\..*", prefix), "discover": "200ms"});
    let mut source = opened("", more, &Resume::default()).await;
    assert_eq!(source.shards().len(), 2);
    assert_eq!(read(&mut *source, 2).await.len(), 2);
    kafka().create_topic(&format!("{prefix}.c"), 1, &[]);
    write_all(&format!("{prefix}.c"), json!({}), &values(2, 4)).await;
    assert_eq!(texts(&read(&mut *source, 2).await), ["2", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_whose_records_are_gone_is_an_error_or_a_choice() {
    let topic = topic(1);
    write_all(&topic, json!({}), &values(0, 10)).await;
    let shard = ShardKey::new(topic.as_str(), 0);
    let mut position = Position::default();
    position.set(shard.clone(), &50u64).unwrap();
    let resume = Resume { position: Some(position), ..Resume::default() };
    let mut failing = source(&topic, json!({}));
    let error = failing.open(&resume).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
    assert!(error.message().contains(&shard.to_string()) && error.hint_text().is_some(), "{error:?}");
    let mut beginning = opened(&topic, json!({"on_missing": "beginning"}), &resume).await;
    assert_eq!(read(&mut *beginning, 10).await[0].sequence, 0);
    let end = opened(&topic, json!({"on_missing": "end"}), &resume).await;
    assert_eq!(end.position().unwrap().shard::<u64>(&shard).unwrap(), Some(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_that_the_broker_gave_are_told_apart() {
    for (kind, appended) in [("CreateTime", false), ("LogAppendTime", true)] {
        let topic = topic_with(1, &[("message.timestamp.type", kind)]);
        write_all(&topic, json!({}), &[Record { time: Some(Timestamp::from_millis(5_000)), ..Record::new("x", "v") }])
            .await;
        let mut source = opened(&topic, json!({}), &Resume::default()).await;
        let Event::Batch(read) = event(&mut *source).await.unwrap() else { panic!() };
        assert_eq!(read.batch.envelope().0.told.appended, appended);
        assert_eq!(read.batch.get(0).time() == Some(Timestamp::from_millis(5_000)), !appended);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_may_not_run_on_ends_at_the_end_as_it_was() {
    let topic = topic(3);
    // One partition stays empty.
    write_all(&topic, json!({"partition": 0}), &values(0, 10)).await;
    write_all(&topic, json!({"partition": 2}), &values(10, 20)).await;
    let mut source = opened(&topic, json!({}), &Resume { until_end: true, ..Resume::default() }).await;
    assert_eq!(source.size().unwrap().records, Some(20));
    write_all(&topic, json!({"partition": 0}), &values(20, 30)).await;
    let mut count = 0;
    loop {
        match event(&mut *source).await.unwrap() {
            Event::Batch(read) => count += read.batch.len(),
            Event::End => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(count, 20);
    // Nothing at all is an end, too.
    assert!(read_to_end(&self::topic(2), json!({})).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_behind_the_end_while_the_rest_is_read_is_left_to_the_next_run() {
    let topic = topic(2);
    write_all(&topic, json!({"partition": 0}), &values(0, 10)).await;
    // More than is read ahead.
    let large = Record::new("x", "x".repeat(1000));
    write_all(&topic, json!({"partition": 1}), &vec![large; 20_000]).await;
    let until_end = Resume { until_end: true, ..Resume::default() };
    let mut source = opened(&topic, json!({"prefetch": "1MiB"}), &until_end).await;
    write_all(&topic, json!({"partition": 0}), &values(10, 60)).await;
    let mut count = 0;
    while let Event::Batch(read) = event(&mut *source).await.unwrap() {
        count += read.batch.len();
    }
    assert_eq!(count, 20_010);
    let position = source.position().unwrap();
    source.close().await.unwrap();
    let rest = Resume { position: Some(position), ..until_end };
    let mut source = opened(&topic, json!({}), &rest).await;
    assert_eq!(texts(&read(&mut *source, 50).await), texts(&values(10, 60)));
    assert!(matches!(event(&mut *source).await.unwrap(), Event::End));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lag_is_what_is_not_yet_read() {
    let topic = topic(1);
    write_all(&topic, json!({}), &values(0, 100)).await;
    let mut source = opened(&topic, json!({}), &Resume::default()).await;
    read(&mut *source, 100).await;
    assert_eq!(source.lag().and_then(|lag| lag.records), Some(0));
    source.seek(&SeekTo::At(40), None).await.unwrap();
    assert_eq!(source.lag().and_then(|lag| lag.records), Some(60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_can_be_opened_again() {
    let topic = topic(1);
    write_all(&topic, json!({}), &values(0, 10)).await;
    let mut source = opened(&topic, json!({}), &Resume::default()).await;
    for _ in 0..3 {
        assert_eq!(read(&mut *source, 10).await.len(), 10);
        source.open(&Resume::default()).await.unwrap();
    }
    source.close().await.unwrap();
}
