//! The order of each key, where a server refuses some commands of a connection and takes those behind them.

use std::sync::{Arc, Mutex};

use millstream_core::{Delivery, PlanContext, Planner, Sink};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::support::*;

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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shared = taken.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, shared.clone()));
        }
    });
    (address, taken)
}

/// Answers commands until the connection ends.
async fn serve(stream: TcpStream, taken: Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut words = Vec::new();
        for _ in 0..line.trim()[1..].parse().unwrap() {
            line.clear();
            stream.read_line(&mut line).await?;
            let mut word = vec![0; line.trim()[1..].parse::<usize>().unwrap() + 2];
            stream.read_exact(&mut word).await?;
            word.truncate(word.len() - 2);
            words.push(String::from_utf8_lossy(&word).into_owned());
        }
        let answer = answer(&words, &mut taken.lock().unwrap());
        stream.write_all(answer.as_bytes()).await?;
    }
}

fn answer(words: &[String], taken: &mut Taken) -> String {
    let value = match words[0].as_str() {
        "XADD" | "RPUSH" => words.last().unwrap(),
        "TYPE" => return "+none\r\n".to_owned(),
        "SCAN" => return "*2\r\n$1\r\n0\r\n*0\r\n".to_owned(),
        "CLUSTER" => return "-ERR This instance has cluster support disabled\r\n".to_owned(),
        _ => return "+OK\r\n".to_owned(),
    };
    if value.ends_with("v3") && taken.refusals > 0 {
        taken.refusals -= 1;
        return "-READONLY You can't write against a read only replica.\r\n".to_owned();
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
