//! Records that are larger than the server takes.

use std::sync::Arc;

use millstream_core::{ErrorKind, Record, Registry, Sink, SinkPlan};
use millstream_runtime::{Plan, PlanOptions, RunOptions, Running};
use millstream_state::{Memory, MemoryStore};
use millstream_testkit::{
    FakeSink,
    servers::{Missing, Redis},
    started,
};
use serde_json::{Value, json};

use crate::{exact, fake, pipeline, support::*};

/// Small ones, and so many that are larger than the server takes, at these places and of these sizes.
fn records(large: &[(usize, usize)]) -> Vec<Record> {
    let mut records: Vec<Record> = numbered(0..50).into_iter().map(|value| Record::new("in", value)).collect();
    large.iter().for_each(|(at, bytes)| records.insert(*at, Record::new("in", vec![b'x'; *bytes])));
    records
}

/// The large one is refused, and nothing else.
async fn refused_alone(sink: &mut dyn Sink) {
    let outcomes = put(sink, &records(&[(20, 2 << 20)])).await;
    let [(_, row, error)] = outcomes.rejected.as_slice() else { panic!("{:?}", outcomes.rejected) };
    assert_eq!((*row, error.kind()), (20, ErrorKind::TooLarge), "{error:?}");
}

/// A server that takes 1 MiB, and a user who may not ask it how much that is.
fn server() -> Result<Redis, Missing> {
    Redis::setup().argument("--proto-max-bulk-len", "1mb").acl("user dumb on >pw ~* +@all -config").start()
}

fn may_not_ask(stream: &str) -> Value {
    json!({"stream": stream, "auth": {"user": "dumb", "password": "pw"}})
}

#[tokio::test]
async fn a_record_that_the_server_does_not_take_is_refused_alone() {
    let redis = started!(server());
    let mut asks = sink(&redis, json!({"stream": "asks"})).await;
    let mut may_not = sink(&redis, may_not_ask("may_not")).await;
    for sink in [&mut asks, &mut may_not] {
        refused_alone(&mut **sink).await;
    }
    for stream in ["asks", "may_not"] {
        let mut source = source_at(&redis, json!({"stream": stream}), until_end()).await;
        assert_eq!(all(&mut *source).await, numbered(0..50), "{stream}");
    }
    refused_alone(&mut *exact::open(&options(&redis, json!({"stream": "staged"})), "s", &[]).await).await;
}

/// Each breaks a connection, and the small ones between them are sent again.
#[tokio::test]
async fn several_records_that_the_server_does_not_take_are_refused_and_no_others() {
    let redis = started!(server());
    for (round, sizes) in [[2 << 20, 2 << 20, 2 << 20], [6 << 20, 4 << 20, 2 << 20]].into_iter().enumerate() {
        let stream = format!("k{round}");
        let mut sink = sink(&redis, may_not_ask(&stream)).await;
        let large = [(10, sizes[0]), (30, sizes[1]), (31, sizes[2])];
        let outcomes = put(&mut *sink, &records(&large)).await;
        let refused: Vec<_> = outcomes.rejected.iter().map(|(_, row, error)| (*row, error.kind())).collect();
        assert_eq!(refused, [10, 30, 31].map(|row| (row, ErrorKind::TooLarge)));
        // What was large enough to be in doubt and is not, is written.
        let outcomes = put(&mut *sink, &[Record::new("in", vec![b'x'; 1 << 20])]).await;
        assert!(outcomes.rejected.is_empty(), "{outcomes:?}");
        let mut source = source_at(&redis, json!({"stream": stream}), until_end()).await;
        let mut got = all(&mut *source).await;
        assert_eq!(got.pop().map(|last| last.len()), Some(1 << 20));
        // The small ones may be there twice.
        let mut firsts: Vec<String> = Vec::new();
        got.into_iter().for_each(|value| {
            if !firsts.contains(&value) {
                firsts.push(value)
            }
        });
        assert_eq!(firsts, numbered(0..50));
    }
}

/// Opens, writes and flushes, as the runtime plays an epoch again, until it is told which records are refused; in how many tries.
async fn replayed(plan: &dyn SinkPlan, records: &[Record]) -> (Vec<u32>, usize) {
    for tries in 1..10 {
        let mut sink = plan.create().unwrap();
        sink.introduce("out", &stamp("s"));
        sink.open(&[]).await.unwrap();
        sink.write(batch(records)).await.unwrap();
        match sink.flush().await {
            Ok(outcomes) => {
                assert!(outcomes.rejected.iter().all(|(.., error)| error.kind() == ErrorKind::TooLarge));
                return (outcomes.rejected.iter().map(|(_, row, _)| *row).collect(), tries);
            }
            Err(error) => assert!(error.facts().retry, "{error:?}"),
        }
    }
    panic!("still nobody says which records are too large");
}

#[tokio::test]
async fn an_epoch_with_records_that_the_server_does_not_take_is_played_again_until_all_are_known() {
    let redis = started!(server());
    let one = vec![(20, 2 << 20)];
    let first_tells = vec![(10, 2 << 20), (30, 2 << 20), (31, 3 << 20)];
    // Each that is smaller than the one before it is a surprise again.
    let each_tells = vec![(10, 6 << 20), (30, 4 << 20), (31, 2 << 20)];
    for (large, tries) in [(one, 2), (first_tells, 2), (each_tells, 4)] {
        let plan = exact::plan(&options(&redis, may_not_ask(&key())));
        let rows: Vec<u32> = large.iter().map(|(row, _)| *row as u32).collect();
        assert_eq!(replayed(&*plan, &records(&large)).await, (rows, tries));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_that_is_exactly_once_goes_on_without_what_its_server_does_not_take() {
    let (redis, from) = (started!(server()), started!(Redis::shared()));
    let (stream, letters) = (key(), Arc::new(FakeSink::truncating()));
    let mut filler = sink(from, json!({"stream": stream})).await;
    let large = [(10, 2 << 20), (30, 2 << 20), (31, 3 << 20)];
    assert!(put(&mut *filler, &records(&large)).await.rejected.is_empty());
    let (read, write) = (options(from, json!({"stream": stream})), options(&redis, may_not_ask("to")));
    let spec = pipeline::spec_of(&key(), &read, &[&write]);
    let plan = Plan::new(&spec, &Registry::default(), PlanOptions::default()).unwrap();
    let mut options = RunOptions::new(Box::new(MemoryStore::new(Memory::new())), letters.clone());
    options.until_end = true;
    let mut running = Running::start(plan, options);
    tokio::time::timeout(PATIENCE, running.wait()).await.expect("an end in time").unwrap();
    assert_eq!(letters.records().len(), large.len());
    let mut source = source_at(&redis, json!({"stream": "to"}), until_end()).await;
    assert_eq!(all(&mut *source).await, numbered(0..50));
}

/// A length whose digits were damaged on their way is as wrong to a server as one that is too large.
#[tokio::test]
async fn nothing_is_learned_of_a_record_that_every_server_takes() {
    let mut refusals = 1;
    let address = fake::server(move |words| {
        if words[0] == "XADD" && refusals > 0 {
            refusals -= 1;
            return Some("-ERR Protocol error: invalid bulk length\r\n".to_owned());
        }
        Some(if words[0] == "XADD" { "$3\r\n1-1\r\n".to_owned() } else { fake::greeting(words) })
    })
    .await;
    let mut sink = plan_sink(&json!({"url": format!("redis://{address}/k")})).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    assert_eq!(put(&mut *sink, &records(&[])[..1]).await.rejected.len(), 1);
    assert!(put(&mut *sink, &records(&[(0, 1 << 20)])).await.rejected.is_empty());
}
