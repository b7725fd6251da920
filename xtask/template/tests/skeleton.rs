//! Source and sink against a server on a free port.
#![allow(missing_docs, clippy::unwrap_used)]

use millstream_core::{BatchBuilder, Event, Form, PlanContext, Planner, Record, Resume, Sink, Source};
use millstream_skeleton::components;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn options(listener: &TcpListener) -> Value {
    json!({ "url": format!("skeleton://{}", listener.local_addr().unwrap()) })
}

fn source(options: &Value) -> Box<dyn Source> {
    let plan = components().iter().find_map(|component| match component.planner {
        Planner::Source(plan) => Some(plan(options, &PlanContext::default()).unwrap()),
        _ => None,
    });
    plan.unwrap().create().unwrap()
}

fn sink(options: &Value) -> Box<dyn Sink> {
    let plan = components().iter().find_map(|component| match component.planner {
        Planner::Sink(plan) => Some(plan(options, &PlanContext::default()).unwrap()),
        _ => None,
    });
    plan.unwrap().create().unwrap()
}

#[tokio::test]
async fn lines_become_records_and_the_end_of_the_connection_is_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut source = source(&options(&listener));
    source.open(&Resume::default()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"one\n\nthr").await.unwrap();
    server.write_all(b"ee\nno line feed").await.unwrap();
    drop(server);

    let mut values = Vec::new();
    while let Event::Batch(read) = source.next().await.unwrap() {
        let value = |record: millstream_core::RecordRef<'_>| record.value().unwrap().to_vec();
        values.extend(read.batch.iter().map(|record| (record.sequence(), value(record))));
    }
    let expected: [&[u8]; 4] = [b"one", b"", b"three", b"no line feed"];
    assert_eq!(values, (1..).zip(expected.map(<[u8]>::to_vec)).collect::<Vec<_>>());
}

#[tokio::test]
async fn records_become_lines_and_only_what_is_no_line_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut sink = sink(&options(&listener));
    sink.open(&[]).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();

    let mut builder = BatchBuilder::new();
    for value in ["one", "no\nline", "two"] {
        builder.push(&Record { form: Form::Text, ..Record::new("test", value) });
    }
    let write = sink.write(builder.finish()).await.unwrap();
    let rejected: Vec<_> = sink.flush().await.unwrap().rejected.iter().map(|(write, row, _)| (*write, *row)).collect();
    assert_eq!(rejected, [(write, 1)]);
    drop(sink);

    let mut received = String::new();
    server.read_to_string(&mut received).await.unwrap();
    assert_eq!(received, "one\ntwo\n");
}

#[test]
fn a_wrong_url_is_refused_before_anything_is_opened() {
    for url in ["", "localhost:1", "http://localhost:1", "skeleton://", "skeleton://a:1,b:2"] {
        for component in components() {
            let options = json!({ "url": url });
            let error = match component.planner {
                Planner::Source(plan) => plan(&options, &PlanContext::default()).err(),
                Planner::Sink(plan) => plan(&options, &PlanContext::default()).err(),
                Planner::Step(_) => None,
            };
            assert_eq!(error.unwrap().place().unwrap().path, ["url"], "{url}");
        }
    }
}
