//! What a record may hold.

use bytes::Bytes;
use millstream_core::{ErrorKind, Timestamp};

use super::{
    Setting,
    scene::{Scene, next, record, text},
};

/// From no byte at all to the most that must pass, unchanged.
pub async fn values_of_any_size_pass(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    let producer = scene.producer();
    let sizes = [0, 1, 2, 100, 4_095, 4_096, 65_537, setting.able.value_bytes];
    for size in sizes.into_iter().filter(|size| *size > 0 || setting.able.empty) {
        let value: String = (0..size).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
        producer.send(value.clone()).await.unwrap().await.unwrap();
        assert!(text(&next(&mut reader).await) == value, "a value of {size} bytes has changed");
    }
}

/// A record beyond the limit is an error of its own; those around it pass.
pub async fn a_value_that_is_too_large_is_refused_alone(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let Some(most) = setting.sink(&scene.stream).record_bytes_max.filter(|most| *most <= 64 << 20) else { return };
    let mut reader = scene.reader().await;
    let producer = scene.producer();
    let before = producer.send("before").await.unwrap();
    let large = producer.send(vec![b'x'; most as usize + 1]).await;
    let after = producer.send("after").await.unwrap();
    let refused = match large {
        Ok(receipt) => receipt.await.map(drop),
        Err(error) => Err(error),
    };
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{}", error.chain());
    before.await.unwrap();
    after.await.unwrap();
    assert_eq!((text(&next(&mut reader).await), text(&next(&mut reader).await)), ("before".into(), "after".into()));
}

/// Bytes that are no text.
pub async fn any_bytes_pass_or_are_refused(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    let producer = scene.producer();
    let bytes: Vec<u8> = (0..=255).chain([0, 10, 13, 10, 255]).collect();
    let sent = match producer.send(bytes.clone()).await {
        Ok(receipt) => receipt.await.map(drop),
        Err(error) => Err(error),
    };
    match setting.able.binary {
        true => {
            sent.unwrap();
            assert_eq!(next(&mut reader).await.value.as_deref(), Some(&*bytes));
        }
        false => assert!(sent.is_err(), "bytes that cannot be told in this system were taken"),
    }
    producer.send("after").await.unwrap().await.unwrap();
    assert_eq!(text(&next(&mut reader).await), "after");
}

/// Key and headers, with repeats and absent values, come as they were sent; where they are not kept the value comes alone.
pub async fn keys_and_headers_survive(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    let (keys, headers) = (setting.sink(&scene.stream).keys, setting.sink(&scene.stream).headers);
    let mut sent = record("value");
    sent.key = Some(Bytes::from_static(b"k\xffy"));
    sent.headers = vec![
        ("trace".to_owned(), Some(Bytes::from_static(b"1"))),
        ("other".to_owned(), Some(Bytes::from_static(b"\x00\xfe"))),
        ("trace".to_owned(), Some(Bytes::from_static(b""))),
    ];
    let delivered = scene.producer().send(sent.clone()).await.unwrap().await;
    if !keys && delivered.is_err() {
        return;
    }
    delivered.unwrap();
    let got = next(&mut reader).await;
    assert_eq!(text(&got), "value");
    assert!(got.key == sent.key || !keys, "the key is {:?}", got.key);
    assert!(got.headers == sent.headers || !headers, "the headers are {:?}", got.headers);
}

/// An absent value is not an empty one.
pub async fn tombstones_survive(setting: &Setting) {
    let scene = Scene::new(setting).await;
    if !setting.sink(&scene.stream).tombstones {
        return;
    }
    let mut reader = scene.reader().await;
    let producer = scene.producer();
    let mut gone = record("");
    (gone.key, gone.value) = (Some("k".into()), None);
    producer.send(gone).await.unwrap().await.unwrap();
    let mut empty = record("");
    empty.key = Some("k".into());
    producer.send(empty).await.unwrap().await.unwrap();
    assert_eq!(next(&mut reader).await.value, None);
    assert_eq!(next(&mut reader).await.value, Some(Bytes::new()));
}

/// The time that is given is the time that is read, as exact as the system is.
pub async fn times_survive(setting: &Setting) {
    let scene = Scene::new(setting).await;
    if !setting.sink(&scene.stream).times {
        return;
    }
    let mut reader = scene.reader().await;
    let step = setting.able.time_step;
    let time = Timestamp((Timestamp::now().0 - 7_200_000_000_000) / step * step);
    let mut sent = record("then");
    sent.time = Some(time);
    let producer = scene.producer();
    producer.send(sent).await.unwrap().await.unwrap();
    assert_eq!(next(&mut reader).await.time, Some(time));
}
