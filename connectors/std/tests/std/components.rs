//! `generate`, `values`, `drop`, channels, and what the registry says of all.

use std::time::Duration;

use millstream_core::{ErrorKind, Form, PlanContext, Planner, Record, Registry, Resume, Role, SeekTo, SourcePlan, Url};
use millstream_std::{ChannelOptions, Dropped, channel, components, receiver, values};
use serde_json::{Value, json};

use crate::support::*;

fn source(name: &str, options: Value) -> millstream_core::Result<Box<dyn SourcePlan>> {
    let component = components().into_iter().find(|c| c.name == name && c.role() == Role::Source).unwrap();
    let Planner::Source(plan) = component.planner else { panic!("{name}") };
    plan(&options, &PlanContext::default())
}

fn from_url(role: Role, url: &str) -> millstream_core::Result<Value> {
    let mut registry = Registry::default();
    components().into_iter().for_each(|component| registry.add(component));
    let (component, options) = registry.by_url(role, &Url::parse(url)?)?;
    let context = PlanContext::default();
    match component.planner {
        Planner::Source(plan) => plan(&options, &context).map(|_| options),
        Planner::Sink(plan) => plan(&options, &context).map(|_| options),
        Planner::Step(_) => unreachable!(),
    }
}

#[test]
fn every_example_can_be_planned_and_every_option_is_described() {
    for component in components() {
        let example: Value = serde_saphyr::from_str(component.example).unwrap();
        let options = &example[component.name];
        assert!(!options.is_null(), "{}", component.example);
        match component.planner {
            Planner::Source(plan) => drop(plan(options, &PlanContext::default()).unwrap()),
            Planner::Sink(plan) => drop(plan(options, &PlanContext::default()).unwrap()),
            Planner::Step(_) => unreachable!(),
        }
        let schema = (component.schema)().to_value();
        for (name, option) in schema["properties"].as_object().into_iter().flatten() {
            assert!(option["description"].is_string(), "{}.{name}", component.name);
        }
        let wrong = json!({"no_such_option": 1});
        let error = match component.planner {
            Planner::Source(plan) => plan(&wrong, &PlanContext::default()).unwrap_err(),
            Planner::Sink(plan) => plan(&wrong, &PlanContext::default()).unwrap_err(),
            Planner::Step(_) => unreachable!(),
        };
        assert_eq!(error.place().unwrap().path, ["no_such_option"]);
    }
}

#[test]
fn urls_name_streams_and_options() {
    assert_eq!(from_url(Role::Source, "stdio:").unwrap(), json!({}));
    assert_eq!(
        from_url(Role::Source, "stdio:///a,b?headers=strict&codec=ndjson&group=g").unwrap(),
        json!({"streams": ["a", "b"], "headers": "strict", "codec": "ndjson", "group": "g"})
    );
    assert_eq!(from_url(Role::Sink, "stdio:///a?format=raw").unwrap(), json!({"stream": "a", "format": "raw"}));
    assert_eq!(from_url(Role::Sink, "drop:").unwrap(), json!({}));
    for (role, url) in [
        (Role::Source, "stdio://a"),
        (Role::Source, "stdio:///a/b"),
        (Role::Source, "stdio:///a?streams=b"),
        (Role::Source, "stdio:?headers=maybe"),
        (Role::Sink, "stdio:///a,b"),
        (Role::Sink, "stdio:///a%20b"),
        (Role::Sink, "drop:?x=1"),
        (Role::Source, "drop:"),
    ] {
        assert_eq!(from_url(role, url).unwrap_err().kind(), ErrorKind::Option, "{url}");
    }
}

#[tokio::test]
async fn values_are_text_or_json_and_go_on_where_they_were() {
    let plan = values(vec![json!("a"), json!("b"), json!("c")]);
    assert_eq!((plan.form(), plan.capabilities().bounded), (Form::Text, true));
    let mut reader = plan.create().unwrap();
    reader.open(&Resume { start: SeekTo::At(1), ..Resume::default() }).await.unwrap();
    assert_eq!(shown(&all(&mut *reader).await), ["values/0@1 b", "values/0@2 c"]);
    let position = reader.position().unwrap();
    reader.seek(&SeekTo::Beginning, None).await.unwrap();
    assert_eq!(all(&mut *reader).await.len(), 3);
    let mut again = plan.create().unwrap();
    again.open(&Resume { position: Some(position), ..Resume::default() }).await.unwrap();
    assert!(all(&mut *again).await.is_empty());
    let mixed = source("values", json!({"values": ["a", {"b": 1.50}, null]})).unwrap();
    assert_eq!(texts(&all(&mut *open(&*mixed).await).await), ["\"a\"", "{\"b\":1.5}", "null"]);
}

#[tokio::test(start_paused = true)]
async fn generate_keeps_its_rate_its_count_and_its_place() {
    let plan = source("generate", json!({"rate": 2, "count": 5, "template": "{n}"})).unwrap();
    let mut reader = open(&*plan).await;
    let started = tokio::time::Instant::now();
    let mut due = Vec::new();
    for _ in 0..3 {
        assert_eq!(next(&mut *reader).await.unwrap().len(), 1);
        due.push(started.elapsed().as_millis() / 10 * 10);
    }
    assert_eq!(due, [0, 500, 1000]);
    let position = reader.position().unwrap();
    let mut reader = plan.create().unwrap();
    reader.open(&Resume { position: Some(position), ..Resume::default() }).await.unwrap();
    assert_eq!(shown(&all(&mut *reader).await), ["generate/0@4 4", "generate/0@5 5"]);
}

#[tokio::test(start_paused = true)]
async fn generate_makes_batches_at_high_rates_and_does_not_make_up_for_long_stops() {
    let plan = source("generate", json!({"rate": 100_000, "value": {"a": 1}})).unwrap();
    let mut reader = open(&*plan).await;
    let (started, mut records, mut batches) = (tokio::time::Instant::now(), 0, 0);
    while started.elapsed() < Duration::from_secs(1) {
        records += next(&mut *reader).await.unwrap().len();
        batches += 1;
    }
    assert!((99_000..=103_000).contains(&records) && batches <= 110, "{records} in {batches}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (started, mut records) = (tokio::time::Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(1) {
        records += next(&mut *reader).await.unwrap().len();
    }
    assert!(records < 220_000, "{records}");
    let mut now = plan.create().unwrap();
    now.open(&Resume { until_end: true, ..Resume::default() }).await.unwrap();
    assert!(all(&mut *now).await.is_empty());
}

#[tokio::test]
async fn generate_without_a_rate_is_fast_and_the_same_each_time() {
    let plan = source("generate", json!({"count": 100_000, "template": "{n} {random}", "seed": 1})).unwrap();
    let (first, again) = (all(&mut *open(&*plan).await).await, all(&mut *open(&*plan).await).await);
    assert_eq!((first.len(), texts(&first)), (100_000, texts(&again)));
    assert!(
        source("generate", json!({"rate": 0})).is_err()
            && source("generate", json!({"value": 1, "template": 1})).is_err()
    );
    let default = source("generate", json!({"count": 1})).unwrap();
    assert_eq!(default.form(), Form::Json);
    assert!(texts(&all(&mut *open(&*default).await).await)[0].starts_with("{\"n\":1,\"time\":\"20"));
}

#[tokio::test]
async fn drop_counts() {
    let dropped = Dropped::default();
    let mut sink = open_sink(&dropped).await;
    sink.write(batch("s", &["a", "bc"])).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    assert_eq!((dropped.records(), dropped.bytes()), (2, 3));
}

#[tokio::test]
async fn channels_wait_for_room_and_tell_when_they_are_full() {
    let (sender, plan) = channel(ChannelOptions { records_max: 2, form: Form::Text, ..ChannelOptions::default() });
    let mut reader = open(&*plan).await;
    sender.push(Record::new("x", "1")).await.unwrap();
    sender.try_push(Record::new("x", "2")).unwrap();
    let (error, back) = sender.try_push(Record::new("x", "3")).unwrap_err();
    assert_eq!((error.kind(), back.value.as_deref()), (ErrorKind::Full, Some(&b"3"[..])));
    assert!(tokio::time::timeout(Duration::from_millis(20), sender.push(Record::new("x", "never"))).await.is_err());
    let waiting = tokio::spawn({
        let sender = sender.clone();
        async move { sender.push(Record::new("x", "3")).await }
    });
    let mut got: Vec<_> = next(&mut *reader).await.unwrap().into_iter().map(Result::unwrap).collect();
    waiting.await.unwrap().unwrap();
    drop(sender);
    drop(reader);
    let mut reader = open(&*plan).await; // A restart loses nothing that waits.
    got.extend(all(&mut *reader).await);
    assert_eq!(shown(&got), ["channel/0@1 1", "channel/0@2 2", "channel/0@3 3"]);
    assert_eq!(got[0].form, Form::Text);
}

#[tokio::test]
async fn channels_are_bounded_in_bytes_and_take_a_record_that_is_larger() {
    let (sender, plan) = channel(ChannelOptions { bytes_max: 1000, ..ChannelOptions::default() });
    let mut reader = open(&*plan).await;
    sender.try_push(Record::new("x", vec![0; 5000])).unwrap();
    assert_eq!(sender.try_push(Record::new("x", "y")).unwrap_err().0.kind(), ErrorKind::Full);
    assert_eq!(next(&mut *reader).await.unwrap().len(), 1);
    sender.try_push(Record::new("x", "y")).unwrap();
    drop((reader, plan));
    assert_eq!(sender.push(Record::new("x", "y")).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_receiver_gets_batches_and_ends() {
    let (plan, mut out) = receiver(1);
    let mut sink = open_sink(&*plan).await;
    sink.write(batch("s", &["a"])).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), sink.write(batch("s", &["b"]))).await.is_err());
    assert_eq!(out.recv().await.unwrap().len(), 1);
    drop((sink, plan));
    assert!(out.recv().await.is_none());
    let (plan, out) = receiver(1);
    drop(out);
    assert_eq!(open_sink(&*plan).await.write(batch("s", &["a"])).await.unwrap_err().kind(), ErrorKind::Closed);
}
