//! Where reading begins and ends, and what is safe to do meanwhile.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, executor::block_on};
use millstream_client::{ConsumerOptions, ProducerOptions, Retry};
use millstream_core::{Record, SeekTo};
use tokio::sync::oneshot::error::TryRecvError;

use super::{
    Setting,
    scene::{Scene, fresh, from_beginning, next, number, numbers, send, silent, take, text},
};

/// At the beginning, at the end, at a sequence.
pub async fn a_reader_begins_where_it_is_told(setting: &Setting) {
    let scene = Scene::new(setting).await;
    if !setting.able.keeps {
        return;
    }
    scene.write(0..10).await;
    let all = take(&mut scene.reader().await, 10).await;
    let at = |start| ConsumerOptions { start: Some(start), ..ConsumerOptions::real_time() };
    let mut middle = scene.consumer(at(SeekTo::At(all[4].sequence))).await;
    assert_eq!(numbers(&mut middle, 6).await, [4, 5, 6, 7, 8, 9]);
    let mut end = scene.consumer(at(SeekTo::End)).await;
    scene.write(10..12).await;
    assert_eq!(numbers(&mut end, 2).await, [10, 11]);
}

/// Whoever names no start reads from now on.
pub async fn a_real_time_reader_of_a_live_stream_begins_at_its_end(setting: &Setting) {
    let scene = Scene::new(setting).await;
    if setting.able.keeps {
        scene.write(0..5).await;
    }
    let mut reader = scene.consumer(ConsumerOptions::real_time()).await;
    scene.write(5..10).await;
    assert_eq!(numbers(&mut reader, 5).await, [5, 6, 7, 8, 9]);
}

/// A bounded reader reads what is there, and ends; also where nothing is there.
pub async fn until_end_stops_at_the_end_as_it_is(setting: &Setting) {
    if !setting.able.keeps {
        return;
    }
    let scene = Scene::with_shards(setting, 2).await;
    let bounded = || ConsumerOptions { until_end: true, ..from_beginning(ConsumerOptions::real_time()) };
    assert!(scene.consumer(bounded()).await.next().await.unwrap().is_none());
    scene.write(0..100).await;
    let mut reader = scene.consumer(bounded()).await;
    let mut read = Vec::new();
    while let Some(record) = reader.next().await.unwrap() {
        read.push(number(&record));
    }
    read.sort_unstable();
    assert_eq!(read, (0..100).collect::<Vec<_>>());
}

/// Where a stream can end, `Producer::end` ends its readers; elsewhere they wait for more.
pub async fn the_end_of_a_stream_is_seen_where_there_is_one(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    let producer = scene.producer();
    send(&producer, 0..3).await.clear();
    producer.end().await.unwrap();
    assert_eq!(numbers(&mut reader, 3).await, [0, 1, 2]);
    match setting.able.ends {
        true => assert!(reader.next().await.unwrap().is_none()),
        false => assert!(silent(&mut reader).await),
    }
}

/// Futures of `next` may be dropped at any time.
pub async fn giving_up_waiting_loses_nothing_and_doubles_nothing(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    let producer = scene.producer();
    let writer = tokio::spawn(async move {
        for value in 0..2_000u64 {
            drop(producer.send(value.to_string()).await.unwrap());
            if value % 50 == 0 {
                producer.flush().await.unwrap();
            }
        }
        producer.flush().await.unwrap();
    });
    let mut read = Vec::new();
    let mut given_up = 0;
    while read.len() < 2_000 {
        let wait = Duration::from_micros(given_up % 300);
        match tokio::time::timeout(wait, reader.next()).await {
            Ok(record) => read.push(number(&record.unwrap().unwrap())),
            Err(_) => given_up += 1,
        }
        if read.len() % 7 == 0
            && let Some(record) = reader.next().now_or_never()
        {
            read.push(number(&record.unwrap().unwrap()));
        }
    }
    writer.await.unwrap();
    assert_eq!(read, (0..2_000).collect::<Vec<_>>());
}

/// Of two streams that one consumer reads, the quiet one does not wait until the busy one has nothing more.
pub async fn a_quiet_stream_is_heard_beside_a_busy_one(setting: &Setting) {
    let (busy, quiet) = (fresh("busy"), fresh("quiet"));
    (setting.make_stream)(busy.clone(), 1).await;
    (setting.make_stream)(quiet.clone(), 1).await;
    let streamer = setting.streamer();
    let both = from_beginning(ConsumerOptions::real_time());
    let mut reader = streamer.create_consumer(&[&busy, &quiet], both).unwrap();
    reader.opened().await.unwrap();
    // One producer for both: each record names its stream.
    let producer = streamer.create_producer("", ProducerOptions::default()).unwrap();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writer = tokio::spawn(async move {
        for value in 0u64.. {
            if matches!(stopped.try_recv(), Err(TryRecvError::Closed)) {
                break;
            }
            let (stream, text) = if value == 5_000 { (&quiet, "psst".into()) } else { (&busy, value.to_string()) };
            drop(producer.send(Record::new(stream.as_str(), text)).await.unwrap());
        }
    });
    // The busy stream never ends by itself: only a fair reader gets past it.
    loop {
        let record = next(&mut reader).await;
        if record.origin.stream.starts_with("quiet") {
            assert_eq!(text(&record), "psst");
            break;
        }
    }
    drop((stop, reader));
    writer.await.unwrap();
}

/// Nothing needs a runtime of its caller.
pub async fn any_executor_will_do(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let (streamer, stream, producer) = (scene.streamer.clone(), scene.stream.clone(), scene.producer());
    let read = tokio::task::spawn_blocking(move || {
        block_on(async move {
            let reader = from_beginning(ConsumerOptions::real_time());
            let mut reader = streamer.create_consumer(&[&stream], reader).unwrap();
            reader.opened().await.unwrap();
            producer.send("hello").await.unwrap().await.unwrap();
            text(&reader.next().await.unwrap().unwrap())
        })
    });
    assert_eq!(read.await.unwrap(), "hello");
}

/// `into_stream` gives the same records, and the consumer back.
pub async fn a_consumer_is_a_stream_that_owns_itself(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let reader = scene.reader().await;
    scene.write(0..20).await;
    let mut stream = reader.into_stream();
    let first: Vec<u64> = stream.by_ref().take(10).map(|record| number(&record.unwrap())).collect().await;
    assert_eq!(first, (0..10).collect::<Vec<_>>());
    assert_eq!(numbers(&mut stream.into_consumer(), 10).await, (10..20).collect::<Vec<_>>());
}

/// Connections that break while records flow are made again: nothing is lost, order holds, and what is doubled was in flight.
pub async fn a_cut_connection_is_mended(setting: &Setting) {
    let Some(cut) = &setting.cut else { return };
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    let options = ProducerOptions { retry: Retry::default(), ..ProducerOptions::default() };
    let producer = scene.producer_with(options);
    let writer = tokio::spawn(async move {
        for value in 0..3_000u64 {
            drop(producer.send(value.to_string()).await.unwrap());
            if value % 100 == 0 {
                producer.flush().await.unwrap();
            }
        }
        producer.flush().await.unwrap();
    });
    let (mut highest, mut seen) = (None, 0u64);
    while highest != Some(2_999) {
        let value = number(&next(&mut reader).await);
        assert!(value <= highest.map_or(0, |highest| highest + 1), "{value} after {highest:?}: records are lost");
        highest = highest.max(Some(value));
        seen += 1;
        if seen.is_multiple_of(700) && seen < 3_000 {
            cut();
        }
    }
    writer.await.unwrap();
    assert!(seen < 6_000, "{seen} records for 3000");
}
