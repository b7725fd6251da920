//! Sources that are to end with what is there, and find nothing that is theirs.

use millstream_core::{ErrorKind, Event, Resume, Source, Stamp};
use serde_json::{Value, json};

use crate::support::*;

fn until_end() -> Resume {
    Resume { until_end: true, ..Resume::default() }
}

/// All records up to the end.
async fn rest(source: &mut dyn Source) -> usize {
    let mut count = 0;
    loop {
        match event(source).await.unwrap() {
            Event::Batch(read) => count += read.batch.len(),
            Event::End => return count,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_that_matches_nothing_is_an_error_where_the_end_is_wanted_and_else_a_state_that_is_told() {
    let _kafka = kafka();
    for group in [json!({}), json!({"group": name("group")})] {
        let prefix = name("nothing");
        let mut more = json!({"pattern": format!("^{prefix}\\..*"), "discover": "200ms"});
        more.as_object_mut().unwrap().extend(group.as_object().unwrap().clone());
        let error = source("", more.clone()).open(&until_end()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains(&prefix) && error.hint_text().is_some(), "{error:?}");
        let mut source = opened("", more, &Resume::default()).await;
        let told = event(&mut *source).await.unwrap_err();
        assert!(told.facts().retry && told.message().contains(&prefix), "{told:?}");
        let topic = format!("{prefix}.a");
        kafka().create_topic(&topic, 1, &[]);
        write_all(&topic, json!({}), &values(0, 3)).await;
        let mut seen = 0;
        while seen < 3 {
            match event(&mut *source).await {
                Ok(Event::Batch(read)) => seen += read.batch.len(),
                Ok(_) => {}
                Err(error) => assert!(error.facts().retry && error.message().contains(&prefix), "{error:?}"),
            }
        }
        source.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_partitions_ends_once_the_others_have_them_all() {
    let _kafka = kafka();
    for membership in [json!({"protocol": "classic"}), json!({"protocol": "consumer"})] {
        let topic = topic(1);
        write_all(&topic, json!({}), &values(0, 10)).await;
        let group: Value = json!({"group": name("group"), "membership": membership});
        let mut first = opened(&topic, group.clone(), &Resume::default()).await;
        assert_eq!(read(&mut *first, 10).await.len(), 10);
        // It answers the rebalance that the second one causes, and keeps what it has.
        let keeps = tokio::spawn(async move {
            loop {
                if let Event::Leaving(shards) = first.next().await.unwrap() {
                    first.release(&shards).await.unwrap();
                }
            }
        });
        let stamp = Stamp { pipeline: "p".into(), store_id: "second".into(), epoch: 0 };
        let mut second = opened(&topic, group, &Resume { stamp: Some(stamp), ..until_end() }).await;
        let read = rest(&mut *second).await;
        // The group may have chosen the second one: then it had something to read up to the end.
        assert!(read == 0 || read == 10, "{read}");
        second.close().await.unwrap();
        keeps.abort();
    }
}
