//! Positions that outlive their consumer: resumable consumers, acknowledgements, commits.

use millstream_client::{Ack, ConsumerOptions};
use millstream_core::{ErrorKind, Owner};

use super::{
    Setting,
    scene::{Scene, fresh, from_beginning, next, number, numbers, take},
};

/// A consumer of the same name goes on behind what was committed; `close` commits what was handed out.
pub async fn a_resumed_consumer_goes_on_behind_what_it_has_committed(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let resumable = from_beginning(ConsumerOptions::resumable(fresh("reader")));
    if setting.source(&scene.stream, None).owner == Owner::Nobody {
        let refused = scene.streamer.create_consumer(&[&scene.stream], resumable).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        return;
    }
    scene.write(0..30).await;
    for begin in [0, 10, 20] {
        let mut consumer = scene.consumer(resumable.clone()).await;
        assert_eq!(numbers(&mut consumer, 10).await, (begin..begin + 10).collect::<Vec<_>>());
        consumer.close().await.unwrap();
    }
    // Another connection knows it too.
    let mut consumer = setting.streamer().create_consumer(&[&scene.stream], resumable).unwrap();
    scene.write(30..31).await;
    assert_eq!(number(&next(&mut consumer).await), 30);
    consumer.commit().await.unwrap();
}

/// With acknowledgements by hand, what was not acknowledged comes again, and where acknowledgements are exact nothing else.
pub async fn what_is_not_acknowledged_comes_again(setting: &Setting) {
    let scene = Scene::new(setting).await;
    if setting.source(&scene.stream, None).owner == Owner::Nobody {
        return;
    }
    scene.write(0..10).await;
    let by_hand = ConsumerOptions {
        ack: Ack::Manual,
        commit_every: None,
        ..from_beginning(ConsumerOptions::resumable(fresh("careful")))
    };
    let mut consumer = scene.consumer(by_hand.clone()).await;
    let records = take(&mut consumer, 10).await;
    for nth in [0, 1, 2, 5] {
        consumer.ack(&records[nth]).unwrap();
    }
    assert_eq!(consumer.ack(&records[5]).unwrap_err().kind(), ErrorKind::NotFound);
    consumer.commit().await.unwrap();
    consumer.close().await.unwrap();
    let mut again = scene.consumer(by_hand).await;
    let first = number(&next(&mut again).await);
    assert_eq!(first, 3, "the first that was not acknowledged");
    let mut rest = vec![first];
    while rest.last() != Some(&9) {
        rest.push(number(&next(&mut again).await));
    }
    assert!([3, 4, 6, 7, 8, 9].iter().all(|value| rest.contains(value)), "{rest:?}");
}

/// A real-time consumer has nothing to commit.
pub async fn commit_is_refused_where_nothing_is_kept(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    assert_eq!(reader.commit().await.unwrap_err().kind(), ErrorKind::Unsupported);
    scene.write(0..1).await;
    assert_eq!(number(&next(&mut reader).await), 0);
}
