//! Records that are larger than the server takes.

use millstream_core::{ErrorKind, Record, Sink};
use millstream_testkit::{servers::Redis, started};
use serde_json::json;

use crate::{exact, support::*};

/// Twice as large as the server takes, between small ones.
fn records() -> Vec<Record> {
    let mut records: Vec<Record> = numbered(0..50).into_iter().map(|value| Record::new("in", value)).collect();
    records.insert(20, Record::new("in", vec![b'x'; 2 << 20]));
    records
}

/// The large one is refused, and nothing else.
async fn refused_alone(sink: &mut dyn Sink) {
    let outcomes = put(sink, &records()).await;
    let [(_, row, error)] = outcomes.rejected.as_slice() else { panic!("{:?}", outcomes.rejected) };
    assert_eq!((*row, error.kind()), (20, ErrorKind::TooLarge), "{error:?}");
}

#[tokio::test]
async fn a_record_that_the_server_does_not_take_is_refused_alone() {
    let setup = Redis::setup().argument("--proto-max-bulk-len", "1mb").acl("user dumb on >pw ~* +@all -config");
    let redis = started!(setup.start());
    let mut asks = sink(&redis, json!({"stream": "asks"})).await;
    let mut may_not = sink(&redis, json!({"stream": "may_not", "auth": {"user": "dumb", "password": "pw"}})).await;
    for sink in [&mut asks, &mut may_not] {
        refused_alone(&mut **sink).await;
    }
    for stream in ["asks", "may_not"] {
        let mut source = source_at(&redis, json!({"stream": stream}), until_end()).await;
        assert_eq!(all(&mut *source).await, numbered(0..50), "{stream}");
    }
    refused_alone(&mut *exact::open(&options(&redis, json!({"stream": "staged"})), "s", &[]).await).await;
}
