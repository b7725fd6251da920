use std::{collections::BTreeMap, time::Duration};

use millstream_core::{
    CHECKPOINT_VERSION, Checkpoint, Companion, Epoch, ErrorKind, Host, Hosted, Position, Record, Resume, ShardKey,
    Sink, SourceCheckpoint, Stamp, Timestamp,
};
use serde_json::{Value, json};

use crate::support::{
    batch, event, name, opened, options, read, read_to_end, sink_plan, source, texts, topic, topic_with, values,
    write_all,
};

fn stamp(pipeline: &str) -> Stamp {
    Stamp { pipeline: pipeline.into(), store_id: "store".into(), epoch: 0 }
}

fn checkpoint(epoch: Epoch) -> Checkpoint {
    Checkpoint {
        version: CHECKPOINT_VERSION,
        store_id: "store".into(),
        plan: String::new(),
        epoch,
        sources: BTreeMap::from([("s".to_owned(), SourceCheckpoint::default())]),
        sinks: BTreeMap::new(),
        host: None,
        segments: Vec::new(),
        finished: false,
        drained: false,
        decided_at: Timestamp(epoch as i64),
    }
}

fn with_log(log: &str, more: Value) -> Value {
    let mut all = json!({"checkpoint_topic": log, "transaction_timeout": "10s"});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

async fn host(topic: &str, log: &str, pipeline: &str) -> (Box<dyn Host>, Option<Checkpoint>) {
    let mut host = sink_plan(&options(topic, with_log(log, json!({})))).unwrap().host().unwrap();
    host.introduce(&stamp(pipeline));
    let found = host.fence().await.unwrap();
    (host, found)
}

async fn joined(host: &dyn Host, topic: &str) -> Box<dyn Sink> {
    let mut sink = sink_plan(&options(topic, json!({}))).unwrap().create().unwrap();
    sink.join(&host.share()).unwrap();
    sink.open(&[]).await.unwrap();
    sink
}

async fn write(sink: &mut dyn Sink, records: &[Record]) {
    sink.write(batch(records)).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
}

fn committed(hosted: &Hosted) -> bool {
    matches!(hosted, Hosted::Committed)
}

/// With the offsets of this member a transaction counts for nothing, and what was written in it neither.
async fn does_not_count(output: &str, log: &str, pipeline: &str, member: Companion) -> Box<dyn Host> {
    let (mut hosting, _) = host(output, log, pipeline).await;
    let mut sink = joined(&*hosting, output).await;
    write(&mut *sink, &values(0, 10)).await;
    let hosted = hosting.commit(&checkpoint(1), &[("s".to_owned(), member)]).await;
    assert!(matches!(hosted, Hosted::Aborted(_)), "{hosted:?}");
    assert!(read_to_end(output, json!({})).await.is_empty());
    hosting
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_behind_an_open_transaction_is_not_gone() {
    let (topic, log, pipeline) = (topic(1), name("log"), name("pipeline"));
    let (mut hosting, _) = host(&topic, &log, &pipeline).await;
    let mut open = joined(&*hosting, &topic).await;
    write(&mut *open, &values(0, 10)).await;
    // As `kafka reset --to end` leaves it, or who reads all records.
    let shard = ShardKey::new(topic.as_str(), 0);
    let mut position = Position::default();
    position.set(shard.clone(), &10u64).unwrap();
    let resume = Resume { position: Some(position.clone()), ..Resume::default() };
    let mut source = opened(&topic, json!({}), &resume).await;
    assert_eq!(source.position().unwrap().shard::<u64>(&shard).unwrap(), Some(10));
    assert!(committed(&hosting.commit(&checkpoint(1), &[]).await));
    write_all(&topic, json!({}), &values(10, 15)).await;
    assert_eq!(texts(&read(&mut *source, 5).await), texts(&values(10, 15)));
    // Behind all records it is.
    position.set(shard, &1000u64).unwrap();
    let beyond = Resume { position: Some(position), ..Resume::default() };
    let mut source = self::source(&topic, json!({}));
    assert_eq!(source.open(&beyond).await.unwrap_err().kind(), ErrorKind::StateMismatch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_whose_old_records_are_deleted_takes_no_checkpoints() {
    let (topic, log) = (topic(1), topic_with(1, &[("cleanup.policy", "delete")]));
    let mut host = sink_plan(&options(&topic, with_log(&log, json!({})))).unwrap().host().unwrap();
    host.introduce(&stamp(&name("pipeline")));
    let error = host.fence().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option);
    assert!(error.message().contains("cleanup.policy=delete") && error.hint_text().is_some(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sinks_and_the_checkpoint_count_together_or_not_at_all() {
    let (first, second, log, pipeline) = (topic(2), topic(1), name("log"), name("pipeline"));
    let (mut hosting, found) = host(&first, &log, &pipeline).await;
    assert!(found.is_none());
    let (mut one, mut two) = (joined(&*hosting, &first).await, joined(&*hosting, &second).await);
    write(&mut *one, &values(0, 10)).await;
    write(&mut *two, &values(0, 5)).await;
    assert!(read_to_end(&first, json!({})).await.is_empty(), "nothing counts before the commit");
    assert!(committed(&hosting.commit(&checkpoint(1), &[]).await));
    assert_eq!(read_to_end(&first, json!({})).await.len(), 10);
    assert_eq!(read_to_end(&second, json!({})).await.len(), 5);
    // The next epoch dies with its runner.
    write(&mut *one, &values(10, 20)).await;
    write(&mut *two, &values(5, 10)).await;
    let (mut again, found) = host(&first, &log, &pipeline).await;
    assert_eq!(found, Some(checkpoint(1)));
    assert_eq!(read_to_end(&first, json!({})).await.len(), 10);
    assert_eq!(read_to_end(&first, json!({"isolation": "read_uncommitted"})).await.len(), 20);
    // The old runner is shut out.
    let late = hosting.commit(&checkpoint(2), &[]).await;
    assert!(matches!(&late, Hosted::Fenced(error) if error.kind() == ErrorKind::Fenced), "{late:?}");
    // The new one goes on, also with an epoch without records.
    assert!(committed(&again.commit(&checkpoint(2), &[]).await));
    let mut one = joined(&*again, &first).await;
    write(&mut *one, &values(10, 20)).await;
    assert!(committed(&again.commit(&checkpoint(3), &[]).await));
    assert_eq!(read_to_end(&first, json!({})).await.len(), 20);
    let (mut last, found) = host(&first, &log, &pipeline).await;
    assert_eq!(found, Some(checkpoint(3)));
    last.reset().await.unwrap();
    assert!(host(&first, &log, &pipeline).await.1.is_none());
    assert!(last.age_max().unwrap() <= Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_offsets_count_with_the_transaction() {
    let (input, output, log, group, pipeline) = (topic(1), topic(1), name("log"), name("group"), name("pipeline"));
    write_all(&input, json!({}), &values(0, 100)).await;
    let more = json!({"group": group});
    let mut reader = opened(&input, more.clone(), &Resume { stamp: Some(stamp(&pipeline)), ..Resume::default() }).await;
    let records = read(&mut *reader, 100).await;
    let (mut hosting, _) = host(&output, &log, &pipeline).await;
    let mut sink = joined(&*hosting, &output).await;
    write(&mut *sink, &records[..50]).await;
    let mut position = reader.position().unwrap();
    position.set(reader.shards()[0].clone(), &50i64).unwrap();
    reader.seek(&millstream_core::SeekTo::At(50), None).await.unwrap();
    let companion: Companion = reader.companion().unwrap();
    assert!(committed(&hosting.commit(&checkpoint(1), &[("s".to_owned(), companion)]).await));
    // A second epoch does not count: neither its records nor its offsets.
    write(&mut *sink, &records[50..]).await;
    reader.close().await.unwrap();
    let (_again, _) = host(&output, &log, &pipeline).await;
    let mut next = opened(
        &input,
        more,
        &Resume { stamp: Some(Stamp { epoch: 1, ..stamp(&pipeline) }), keyed: true, ..Resume::default() },
    )
    .await;
    assert_eq!(read(&mut *next, 50).await[0].sequence, 50);
    assert_eq!(texts(&read_to_end(&output, json!({})).await), texts(&values(0, 50)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_an_old_generation_cannot_commit() {
    let (input, output, log, group, pipeline) = (topic(1), topic(1), name("log"), name("group"), name("pipeline"));
    write_all(&input, json!({}), &values(0, 10)).await;
    let more = json!({"group": group});
    let mut reader = opened(&input, more.clone(), &Resume::default()).await;
    read(&mut *reader, 10).await;
    let companion = reader.companion().unwrap();
    reader.close().await.unwrap();
    // Another member has the partition now.
    let mut other = opened(&input, more, &Resume::default()).await;
    read(&mut *other, 10).await;
    does_not_count(&output, &log, &pipeline, companion).await;
    assert!(host(&output, &log, &pipeline).await.1.is_none());
}

/// It is a member of the new generation, and has not taken note of what it lost with the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_has_lost_partitions_cannot_commit_them_before_it_knows() {
    let (input, output, log, group, pipeline) = (topic(2), topic(1), name("log"), name("group"), name("pipeline"));
    write_all(&input, json!({"partition": "round_robin"}), &values(0, 10)).await;
    let more = json!({"group": group, "membership": {"session_timeout": "6s", "rebalance_timeout": "6s"}});
    let mut reader = opened(&input, more.clone(), &Resume::default()).await;
    read(&mut *reader, 10).await;
    let mut other = opened(&input, more, &Resume::default()).await;
    read(&mut *other, 5).await;
    let companion = reader.companion().unwrap();
    let mut hosting = does_not_count(&output, &log, &pipeline, companion).await;
    // With what is left it goes on.
    while reader.shards().len() == 2 {
        event(&mut *reader).await.unwrap();
    }
    let companion = reader.companion().unwrap();
    hosting.introduce(&stamp(&pipeline));
    assert!(hosting.fence().await.unwrap().is_none());
    let mut sink = joined(&*hosting, &output).await;
    write(&mut *sink, &values(0, 5)).await;
    let hosted = hosting.commit(&checkpoint(1), &[("s".to_owned(), companion)]).await;
    assert!(committed(&hosted), "{hosted:?}");
}

/// Giving the batch again would not help: the sink must be opened again, and that is what an error of `settled` asks for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_cannot_begin_is_told_by_the_outcomes() {
    let (output, log, pipeline) = (topic(1), name("log"), name("pipeline"));
    let (mut hosting, _) = host(&output, &log, &pipeline).await;
    let mut sink = joined(&*hosting, &output).await;
    hosting.close().await.unwrap();
    sink.write(batch(&values(0, 10))).await.unwrap();
    assert!(sink.settled().await.is_err());
    assert!(sink.flush().await.is_err());
    assert!(hosting.fence().await.unwrap().is_none());
    let mut sink = joined(&*hosting, &output).await;
    write(&mut *sink, &values(0, 10)).await;
    assert!(committed(&hosting.commit(&checkpoint(1), &[]).await));
    assert_eq!(read_to_end(&output, json!({})).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_times_out_does_not_count() {
    let (output, log, pipeline) = (topic(1), name("log"), name("pipeline"));
    let more = with_log(&log, json!({"transaction_timeout": "2s"}));
    let mut hosting = sink_plan(&options(&output, more)).unwrap().host().unwrap();
    hosting.introduce(&stamp(&pipeline));
    hosting.fence().await.unwrap();
    let mut sink = joined(&*hosting, &output).await;
    write(&mut *sink, &values(0, 10)).await;
    // The broker looks for old transactions every 10 s; readers see that it has aborted this one when the next record comes through.
    let waited = std::time::Instant::now();
    loop {
        let mut source = source(&output, json!({}));
        source.open(&Resume { until_end: true, ..Resume::default() }).await.unwrap();
        if source.size().and_then(|size| size.records).is_some_and(|records| records > 0) {
            break;
        }
        assert!(waited.elapsed() < Duration::from_secs(60), "the transaction was not aborted");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let hosted = hosting.commit(&checkpoint(1), &[]).await;
    assert!(!committed(&hosted), "{hosted:?}");
    assert!(read_to_end(&output, json!({})).await.is_empty());
    hosting.introduce(&stamp(&pipeline));
    assert!(hosting.fence().await.unwrap().is_none());
    let mut sink = joined(&*hosting, &output).await;
    write(&mut *sink, &values(0, 10)).await;
    assert!(committed(&hosting.commit(&checkpoint(1), &[]).await));
    assert_eq!(read_to_end(&output, json!({})).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_topic_does_not_take_fails_alone_and_before_the_transaction() {
    let (output, log, pipeline) = (topic_with(1, &[("max.message.bytes", "2000")]), name("log"), name("pipeline"));
    let (mut hosting, _) = host(&output, &log, &pipeline).await;
    let mut sink = joined(&*hosting, &output).await;
    let mut records = values(0, 10);
    records[3] = Record::new("x", vec![b'x'; 5000]);
    sink.write(batch(&records)).await.unwrap();
    let outcomes = sink.flush().await.unwrap();
    assert_eq!(outcomes.rejected.iter().map(|(_, row, _)| *row).collect::<Vec<_>>(), [3]);
    assert!(committed(&hosting.commit(&checkpoint(1), &[]).await));
    assert_eq!(read_to_end(&output, json!({})).await.len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_waits_for_the_open_transactions_of_other_pipelines() {
    let (output, log) = (topic(1), name("log"));
    let (ours, theirs) = (name("ours"), name("theirs"));
    let (mut first, _) = host(&output, &log, &ours).await;
    let (mut other, _) = host(&output, &log, &theirs).await;
    // Theirs is open in the log, and in front of ours.
    let plan = sink_plan(&options(&log, json!({}))).unwrap();
    let mut open = plan.create().unwrap();
    open.join(&other.share()).unwrap();
    open.open(&[]).await.unwrap();
    write(&mut *open, &[Record { key: Some("foreign".into()), ..Record::new("x", "{}") }]).await;
    assert!(committed(&first.commit(&checkpoint(7), &[]).await));
    let again = tokio::spawn(async move { host(&output, &log, &ours).await.1 });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!again.is_finished(), "it must not take the end that a client reports for the end");
    assert!(committed(&other.commit(&checkpoint(1), &[]).await));
    assert_eq!(again.await.unwrap(), Some(checkpoint(7)));
}
