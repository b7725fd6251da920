//! The order of each key, where a server refuses some commands of a connection and takes those behind them.

use std::sync::{Arc, Mutex};

use millstream_core::{Delivery, PlanContext, Planner, Sink};
use serde_json::json;

use crate::{fake, support::*};

const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";

/// What a server has taken, and how often it will still refuse.
#[derive(Default)]
struct Taken {
    values: Vec<String>,
    refusals: usize,
}

type Shared = Arc<Mutex<Taken>>;

/// A server that refuses records with the value `v3`, as often as it is told.
async fn server(refusals: usize) -> (String, Shared) {
    let taken = Shared::new(Mutex::new(Taken { values: Vec::new(), refusals }));
    let shared = taken.clone();
    let address = fake::server(move |words| Some(answer(words, &mut shared.lock().unwrap()))).await;
    (address, taken)
}

fn answer(words: &[String], taken: &mut Taken) -> String {
    if !["XADD", "RPUSH"].contains(&words[0].as_str()) {
        return fake::greeting(words);
    }
    let value = words.last().unwrap();
    if value.ends_with("v3") && taken.refusals > 0 {
        taken.refusals -= 1;
        return READONLY.to_owned();
    }
    taken.values.push(value.clone());
    if words[0] == "RPUSH" { ":1\r\n".to_owned() } else { format!("$3\r\n1-{}\r\n", taken.values.len() % 10) }
}

#[tokio::test]
async fn what_was_taken_behind_a_refused_record_comes_behind_it_once_more() {
    let (address, taken) = server(1).await;
    let mut sink = plan_sink(&json!({"url": format!("redis://{address}/k")})).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    sink.write(value_batch(0..4)).await.unwrap();
    sink.write(value_batch(4..6)).await.unwrap();
    let outcomes = sink.flush().await.unwrap();
    assert!(outcomes.rejected.is_empty());
    assert!(outcomes.repeated.ends_with(&[(2, 1)]) && !outcomes.repeated.contains(&(1, 3)), "{outcomes:?}");
    sink.write(value_batch(6..7)).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    let values = taken.lock().unwrap().values.clone();
    let first = values.iter().position(|value| value == "v3").unwrap();
    assert_eq!(values[first..], numbered(3..7), "{values:?}");
}

#[tokio::test]
async fn a_refused_record_that_is_sent_again_and_not_answered_may_be_there_twice() {
    let mut records = 0;
    let answers = move |words: &[String]| {
        if words[0] != "XADD" {
            return Some(fake::greeting(words));
        }
        records += 1;
        match records {
            1 => Some(READONLY.to_owned()),
            // Taken, and nobody hears of it.
            2 => None,
            _ => Some("$3\r\n1-1\r\n".to_owned()),
        }
    };
    let address = fake::server(answers).await;
    let mut sink = plan_sink(&json!({"url": format!("redis://{address}/k")})).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    let write = sink.write(value_batch(0..1)).await.unwrap();
    let outcomes = loop {
        match sink.flush().await {
            Ok(outcomes) => break outcomes,
            Err(error) => assert!(error.facts().retry, "{error:?}"),
        }
    };
    assert_eq!((outcomes.rejected.len(), outcomes.repeated), (0, vec![(write, 0)]));
}

#[tokio::test]
async fn what_is_staged_behind_a_refused_record_spoils_its_epoch() {
    let (address, _taken) = server(1).await;
    let mut sink = exact_sink(&address).await;
    sink.write(value_batch(0..6)).await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert!(error.facts().retry, "{error:?}");
    sink.open(&[]).await.unwrap();
    sink.write(value_batch(0..6)).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
}

async fn exact_sink(address: &str) -> Box<dyn Sink> {
    let context = PlanContext { delivery: Delivery::ExactlyOnce, ..PlanContext::default() };
    let component = millstream_redis::components().into_iter().find_map(|component| match component.planner {
        Planner::Sink(plan) => Some(plan),
        _ => None,
    });
    let plan = component.unwrap()(&json!({"url": format!("redis://{address}/k")}), &context).unwrap();
    let mut sink = plan.create().unwrap();
    sink.introduce("out", &stamp("s"));
    sink.open(&[]).await.unwrap();
    sink
}
