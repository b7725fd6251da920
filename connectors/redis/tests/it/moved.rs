//! Slots of a cluster that nobody has for a while, or that go elsewhere: by fakes that say what a test wants.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use millstream_core::{Error, Sink};
use millstream_redis::{Answer, RedisStreams};
use serde_json::json;

use crate::{fake, support::*};

const ID: &str = "$3\r\n1-1\r\n";
const DOWN: &str = "-CLUSTERDOWN Hash slot not served\r\n";

/// Opens a sink of the cluster that this node is in; the stream's name is that of each record's stream.
async fn open(address: &str) -> Box<dyn Sink> {
    let mut sink =
        plan_sink(&json!({"url": format!("redis://{address}"), "stream": "{stream}"})).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    sink
}

fn port(address: &str) -> u16 {
    address.rsplit_once(':').unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn a_slot_that_nobody_had_is_written_as_soon_as_somebody_has_it() {
    let (own, last) = (Arc::new(AtomicU16::new(0)), Arc::new(AtomicU16::new(1)));
    let (port_of, upto) = (own.clone(), last.clone());
    let address = fake::server(move |words| {
        Some(match words[0].as_str() {
            "CLUSTER" => fake::slots(port_of.load(Ordering::SeqCst), upto.load(Ordering::SeqCst)),
            "XADD" => ID.to_owned(),
            _ => fake::greeting(words),
        })
    })
    .await;
    own.store(port(&address), Ordering::SeqCst);
    let mut sink = open(&address).await;
    for _ in 0..2 {
        let error = sink.write(value_batch(0..1)).await.unwrap_err();
        assert!(error.facts().retry && error.message().contains("CLUSTERDOWN"), "{error:?}");
    }
    last.store(16_383, Ordering::SeqCst);
    sink.write(value_batch(0..1)).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
}

#[tokio::test]
async fn a_refused_record_finds_the_node_that_has_taken_its_slot_over() {
    let master = Arc::new(AtomicU16::new(0));
    let slots = {
        let master = master.clone();
        move || fake::slots(master.load(Ordering::SeqCst), 16_383)
    };
    let old = {
        let slots = slots.clone();
        fake::server(move |words| {
            Some(match words[0].as_str() {
                "CLUSTER" => slots(),
                "XADD" => DOWN.to_owned(),
                _ => fake::greeting(words),
            })
        })
    }
    .await;
    let new = fake::server(|words| Some(if words[0] == "XADD" { ID.to_owned() } else { fake::greeting(words) })).await;
    master.store(port(&old), Ordering::SeqCst);
    let mut sink = open(&old).await;
    sink.write(value_batch(0..1)).await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert!(error.facts().retry && error.message().contains("CLUSTERDOWN"), "{error:?}");
    master.store(port(&new), Ordering::SeqCst);
    assert!(sink.flush().await.unwrap().rejected.is_empty());
}

/// A node that says so often that the keys of a command are neither here nor there, and a command of several keys.
async fn on_its_way(mut times: usize) -> Result<Answer, Error> {
    let address = fake::server(move |words| {
        Some(match words[0].as_str() {
            "DEL" if times == 0 => ":2\r\n".to_owned(),
            "DEL" => {
                times -= 1;
                "-TRYAGAIN Multiple keys request during rehashing of slot\r\n".to_owned()
            }
            _ => fake::greeting(words),
        })
    })
    .await;
    let url = format!("redis://{address}?timeout=500ms");
    let mut connection = RedisStreams::at(&url).unwrap().connection().unwrap();
    connection.command(&[b"DEL", b"{t}a", b"{t}b"]).await
}

#[tokio::test]
async fn a_command_on_keys_that_are_on_their_way_waits_for_them_and_not_for_ever() {
    assert_eq!(on_its_way(3).await.unwrap(), Answer::Integer(2));
    let error = on_its_way(usize::MAX).await.unwrap_err();
    assert!(error.facts().retry && error.message().contains("TRYAGAIN"), "{error:?}");
}
