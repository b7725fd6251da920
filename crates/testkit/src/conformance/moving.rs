//! Seek, rewind, assign, unassign.

use millstream_client::ConsumerOptions;
use millstream_core::{ErrorKind, SeekTo, ShardKey, Timestamp};

use super::{
    Setting,
    scene::{Scene, from_beginning, next, number, numbers, record, silent, take},
};

/// `rewind` goes to the beginning, to the end, and to the first record at or behind a sequence; else it is refused, and the
/// consumer stands where it stood.
pub async fn rewinding_is_inclusive(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    scene.write(0..20).await;
    let first = take(&mut reader, 10).await;
    if !setting.source(&scene.stream, None).seek {
        assert_eq!(reader.rewind(SeekTo::Beginning).await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(numbers(&mut reader, 10).await, (10..20).collect::<Vec<_>>());
        return;
    }
    reader.rewind(SeekTo::At(first[3].sequence)).await.unwrap();
    assert_eq!(numbers(&mut reader, 5).await, [3, 4, 5, 6, 7]);
    reader.rewind(SeekTo::Beginning).await.unwrap();
    assert_eq!(numbers(&mut reader, 20).await, (0..20).collect::<Vec<_>>());
    reader.rewind(SeekTo::At(first[3].sequence)).await.unwrap();
    reader.rewind(SeekTo::End).await.unwrap();
    scene.write(20..22).await;
    assert_eq!(numbers(&mut reader, 2).await, [20, 21]);
}

/// `seek` goes to the first record at or behind a time.
pub async fn seeking_to_a_time_is_inclusive(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    let begin = Timestamp::now().0 / 1_000_000_000 * 1_000_000_000 - 60_000_000_000;
    let at = |nth: i64| Timestamp(begin + nth * 1_000_000_000);
    let producer = scene.producer();
    for nth in 0..10i64 {
        let mut record = record(nth.to_string());
        record.time = Some(at(nth));
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    take(&mut reader, 10).await;
    if !setting.source(&scene.stream, None).seek_time {
        assert_eq!(reader.seek(at(4)).await.unwrap_err().kind(), ErrorKind::Unsupported);
        return;
    }
    if !setting.sink(&scene.stream).times {
        return;
    }
    reader.seek(at(4)).await.unwrap();
    assert_eq!(numbers(&mut reader, 6).await, [4, 5, 6, 7, 8, 9]);
    reader.seek(Timestamp(at(7).0 - 500_000_000)).await.unwrap();
    assert_eq!(numbers(&mut reader, 3).await, [7, 8, 9]);
    // Behind everything: nothing comes, or the system says that there is nothing.
    match reader.seek(Timestamp(at(60).0 + 3_600_000_000_000)).await {
        Ok(()) => assert!(silent(&mut reader).await),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain()),
    }
}

/// A shard that is put aside is not read; taken up again it goes on where it was.
pub async fn shards_are_put_aside_and_taken_up_again(setting: &Setting) {
    let scene = Scene::with_shards(setting, 2).await;
    if !setting.able.shards || !setting.source(&scene.stream, None).seek {
        return;
    }
    let mut reader = scene.consumer(from_beginning(ConsumerOptions::real_time())).await;
    let (one, two) = (ShardKey::new(scene.stream.as_str(), 0), ShardKey::new(scene.stream.as_str(), 1));
    let producer = scene.producer();
    let mut by_key = Vec::new();
    for value in 0..400u64 {
        let mut record = record(value.to_string());
        record.key = Some(format!("{value}").into());
        by_key.push(value);
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    let read = take(&mut reader, 400).await;
    let of = |shard: &ShardKey| read.iter().filter(|r| r.origin == *shard).map(number).collect::<Vec<_>>();
    let (first, second) = (of(&one), of(&two));
    assert!(!first.is_empty() && !second.is_empty(), "both shards have records: {} and {}", first.len(), second.len());
    reader.rewind(SeekTo::Beginning).await.unwrap();
    reader.unassign(std::slice::from_ref(&two)).await.unwrap();
    assert_eq!(numbers(&mut reader, first.len()).await, first);
    reader.assign(std::slice::from_ref(&two)).await.unwrap();
    for expected in second {
        assert_eq!(number(&next(&mut reader).await), expected);
    }
}
