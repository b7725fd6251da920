//! Slots of a cluster that nobody has for a while, or that go elsewhere: by fakes that say what a test wants.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use millstream_core::Sink;
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
