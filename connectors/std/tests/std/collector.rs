//! What a collector promises, seen from both of its ends.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use millstream_core::{
    Body, ColumnBuilder, ErrorKind, Event, Form, Forms, Position, Read, Resume, ShardKey, Source, SourcePlan, Stamp,
    Timestamp,
};
use millstream_std::{Collector, CollectorOptions, Pushed, collector};

/// Values are texts here, and are given as such.
fn text_collector(records_max: usize, bytes_max: usize) -> (Collector<String>, impl SourcePlan) {
    let options = CollectorOptions { records_max, bytes_max, ..CollectorOptions::default() };
    let body = |values: Vec<String>| {
        let mut column = ColumnBuilder::default();
        values.iter().for_each(|value| column.push(Some(value.as_bytes())));
        Body::Bytes(column.finish(), Forms::Same(Form::Text))
    };
    collector(options, |value| value.len(), body)
}

async fn open(plan: &impl SourcePlan) -> Box<dyn Source> {
    let mut source = plan.create().unwrap();
    source.open(&Resume::default()).await.unwrap();
    source
}

async fn read(source: &mut dyn Source) -> Read {
    match source.next().await.unwrap() {
        Event::Batch(read) => read,
        other => panic!("{other:?}"),
    }
}

fn shown(read: &Read) -> Vec<String> {
    let text = |record: millstream_core::RecordRef<'_>| {
        format!("{} {}", record.sequence(), String::from_utf8_lossy(record.value().unwrap()))
    };
    read.batch.iter().map(text).collect()
}

fn stamp(epoch: u64) -> Stamp {
    Stamp { pipeline: "p".to_owned(), store_id: "s".to_owned(), epoch }
}

/// Looks once whether a future is done.
fn now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_record_is_accepted_before_push_returns_and_keeps_key_and_time() {
    let (collector, plan) = text_collector(10, 1 << 20);
    let time = Timestamp::parse("2026-11-21T00:00:00Z").unwrap();
    collector.push("a".to_owned()).await.unwrap();
    collector.push(Pushed::new("b".to_owned()).key("k").time(time)).await.unwrap();
    let read = read(&mut *open(&plan).await).await;
    assert_eq!(shown(&read), ["1 a", "2 b"]);
    let [a, b] = [read.batch.get(0), read.batch.get(1)];
    assert_eq!((a.key(), a.time()), (None, None));
    assert_eq!((b.key(), b.time()), (Some(&b"k"[..]), Some(time)));
    assert!(!read.alone, "nobody waits for its epoch");
}

#[tokio::test]
async fn a_full_collector_gives_the_value_back_as_it_was_pushed() {
    let (collector, plan) = text_collector(2, 1 << 20);
    let mut source = open(&plan).await;
    collector.try_push("a".to_owned()).unwrap();
    collector.try_push("b".to_owned()).unwrap();
    let (error, back) = collector.try_push(Pushed::new("c".to_owned()).key("k")).unwrap_err();
    assert_eq!((error.kind(), &*back.value, back.key.as_deref()), (ErrorKind::Full, "c", Some(&b"k"[..])));
    let (error, back) = collector.try_push_with_receipt(back).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(shown(&read(&mut *source).await), ["1 a", "2 b"]);
    collector.try_push(back).unwrap();
    assert_eq!(shown(&read(&mut *source).await), ["3 c"]);
}

#[tokio::test]
async fn room_is_bounded_in_bytes_and_one_value_may_be_larger() {
    let (collector, plan) = text_collector(1000, 1000);
    let mut source = open(&plan).await;
    collector.try_push("x".repeat(5000)).unwrap();
    assert_eq!(collector.try_push("y".to_owned()).unwrap_err().0.kind(), ErrorKind::Full);
    assert_eq!(read(&mut *source).await.batch.len(), 1);
    collector.try_push("y".repeat(500)).unwrap();
    assert_eq!(collector.try_push("y".repeat(500)).unwrap_err().0.kind(), ErrorKind::Full);
}

#[tokio::test]
async fn pushes_wait_in_turn_and_a_dropped_one_has_pushed_nothing() {
    let (collector, plan) = text_collector(1, 1 << 20);
    let mut source = open(&plan).await;
    collector.push("0".to_owned()).await.unwrap();
    let mut first = Box::pin(collector.push("dropped".to_owned()));
    let mut second = pin!(collector.push("2".to_owned()));
    assert!(now(first.as_mut()).is_none() && now(second.as_mut()).is_none());
    assert_eq!(shown(&read(&mut *source).await), ["1 0"]);
    // The room is the first one's; others do not overtake it, and inherit it.
    assert_eq!(collector.try_push("sly".to_owned()).unwrap_err().0.kind(), ErrorKind::Full);
    assert!(now(second.as_mut()).is_none());
    drop(first);
    now(second).unwrap().unwrap();
    assert_eq!(shown(&read(&mut *source).await), ["2 2"]);
    collector.try_push("3".to_owned()).unwrap();
}

#[tokio::test]
async fn a_push_that_was_given_room_and_has_not_come_when_all_ends_is_told_and_gives_it_back() {
    for close in [true, false] {
        let (collector, plan) = text_collector(1, 1 << 20);
        let mut source = open(&plan).await;
        collector.push("0".to_owned()).await.unwrap();
        let mut given = pin!(collector.push("1".to_owned()));
        assert!(now(given.as_mut()).is_none());
        assert_eq!(shown(&read(&mut *source).await), ["1 0"]);
        if close {
            collector.close()
        } else {
            plan.over()
        }
        assert_eq!(now(given).unwrap().unwrap_err().kind(), ErrorKind::Closed);
        if close {
            assert!(matches!(source.next().await.unwrap(), Event::End));
        } else {
            let mut source = open(&plan).await;
            collector.try_push("2".to_owned()).unwrap();
            assert_eq!(shown(&read(&mut *source).await), ["2 2"]);
        }
    }
}

#[tokio::test]
async fn callers_that_give_up_do_not_pile_up() {
    let (collector, plan) = text_collector(1, 1 << 20);
    let mut source = open(&plan).await;
    collector.push("0".to_owned()).await.unwrap();
    for _ in 0..10_000 {
        assert!(now(pin!(collector.push("gone".to_owned()))).is_none());
    }
    assert_eq!(shown(&read(&mut *source).await), ["1 0"]);
    collector.try_push("1".to_owned()).unwrap();
    assert_eq!(shown(&read(&mut *source).await), ["2 1"]);
}

#[tokio::test]
async fn a_receipt_resolves_with_the_epoch_that_holds_its_record_and_not_before() {
    let (collector, plan) = text_collector(10, 1 << 20);
    let mut source = open(&plan).await;
    let mut first = pin!(collector.push_and_wait("a".to_owned()));
    assert!(now(first.as_mut()).is_none());
    let taken = read(&mut *source).await;
    assert!(taken.alone, "its epoch is cut at once");
    let behind_a = source.position().unwrap();
    let mut second = pin!(collector.push_and_wait("b".to_owned()));
    assert!(now(second.as_mut()).is_none());
    read(&mut *source).await;
    assert!(now(first.as_mut()).is_none());
    source.commit(&behind_a, Some(&stamp(7))).await.unwrap();
    assert_eq!(now(first).unwrap().unwrap(), 7);
    assert!(now(second.as_mut()).is_none());
    let behind_b = source.position().unwrap();
    source.commit(&behind_b, Some(&stamp(8))).await.unwrap();
    assert_eq!(now(second).unwrap().unwrap(), 8);
}

#[tokio::test]
async fn a_push_that_is_dropped_while_it_waits_for_its_epoch_has_pushed_once() {
    let (collector, plan) = text_collector(10, 1 << 20);
    let mut source = open(&plan).await;
    assert!(now(pin!(collector.push_and_wait("a".to_owned()))).is_none());
    collector.push("b".to_owned()).await.unwrap();
    assert_eq!(shown(&read(&mut *source).await), ["1 a", "2 b"]);
    let position = source.position().unwrap();
    source.commit(&position, Some(&stamp(1))).await.unwrap();
}

#[tokio::test]
async fn values_pushed_together_come_together_or_not_at_all() {
    let (collector, plan) = text_collector(4, 1 << 20);
    let mut source = open(&plan).await;
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>();
    collector.push_all(texts(&["a", "b"])).await.unwrap();
    {
        let mut dropped = pin!(collector.push_all(texts(&["c", "d", "e"])));
        assert!(now(dropped.as_mut()).is_none());
    }
    let mut waiting = pin!(collector.push_all_and_wait(texts(&["f", "g", "h"])));
    assert!(now(waiting.as_mut()).is_none());
    assert_eq!(shown(&read(&mut *source).await), ["1 a", "2 b"]);
    assert!(now(waiting.as_mut()).is_none());
    assert_eq!(shown(&read(&mut *source).await), ["3 f", "4 g", "5 h"]);
    let position = source.position().unwrap();
    source.commit(&position, Some(&stamp(3))).await.unwrap();
    assert_eq!(now(waiting).unwrap().unwrap(), Some(3));
    // More than all the room, while nothing else waits.
    collector.push_all((0..9).map(|n| n.to_string())).await.unwrap();
    assert_eq!(read(&mut *source).await.batch.len(), 9);
    assert_eq!(collector.push_all_and_wait(Vec::<String>::new()).await.unwrap(), None);
}

#[tokio::test]
async fn the_source_gives_what_was_accepted_and_ends_when_the_last_clone_is_dropped_or_one_is_closed() {
    for close in [false, true] {
        let (collector, plan) = text_collector(1, 1 << 20);
        let mut source = open(&plan).await;
        let other = collector.clone();
        collector.push("a".to_owned()).await.unwrap();
        if close {
            let mut waiting = pin!(collector.push("b".to_owned()));
            assert!(now(waiting.as_mut()).is_none());
            other.close();
            assert_eq!(now(waiting).unwrap().unwrap_err().kind(), ErrorKind::Closed);
            let (error, back) = collector.try_push("b".to_owned()).unwrap_err();
            assert_eq!((error.kind(), &*back.value), (ErrorKind::Closed, "b"));
        }
        drop(collector);
        assert_eq!(shown(&read(&mut *source).await), ["1 a"]);
        if !close {
            assert!(now(pin!(source.next())).is_none());
        }
        drop(other);
        assert!(matches!(source.next().await.unwrap(), Event::End));
    }
}

#[tokio::test]
async fn everybody_is_told_when_the_pipeline_is_over_and_the_next_run_reads_what_nobody_waits_for() {
    let (collector, plan) = text_collector(3, 1 << 20);
    let mut source = open(&plan).await;
    let mut read_already = pin!(collector.push_and_wait("read".to_owned()));
    assert!(now(read_already.as_mut()).is_none());
    read(&mut *source).await;
    collector.push("kept".to_owned()).await.unwrap();
    let mut unread = pin!(collector.push_all_and_wait(["unread".to_owned(), "too".to_owned()]));
    let mut no_room = pin!(collector.push("no room".to_owned()));
    assert!(now(unread.as_mut()).is_none() && now(no_room.as_mut()).is_none());
    drop(source);
    plan.over();
    let told = |result: Option<millstream_core::Result<()>>| {
        let error = result.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        error.message().to_owned()
    };
    assert!(told(now(read_already).map(|done| done.map(drop))).contains("may have been delivered or not"));
    assert!(told(now(unread).map(|done| done.map(drop))).contains("they are not delivered"));
    assert!(told(now(no_room)).contains("the pipeline is over"));
    assert!(told(Some(collector.push("x".to_owned()).await)).contains("the pipeline is over"));
    let mut source = open(&plan).await;
    collector.push_all(["new".to_owned(), "newer".to_owned()]).await.unwrap();
    assert_eq!(shown(&read(&mut *source).await), ["2 kept", "3 new", "4 newer"]);
    drop((source, plan));
    assert_eq!(collector.push("x".to_owned()).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn sequences_go_on_where_an_earlier_process_stopped_and_an_old_commit_tells_nobody() {
    let (collector, plan) = text_collector(10, 1 << 20);
    let mut waiting = pin!(collector.push_and_wait("a".to_owned()));
    assert!(now(waiting.as_mut()).is_none());
    let mut position = Position::default();
    position.set(ShardKey::new("collector", 0), &41u64).unwrap();
    let mut source = plan.create().unwrap();
    source.open(&Resume { position: Some(position.clone()), ..Resume::default() }).await.unwrap();
    source.commit(&position, Some(&stamp(9))).await.unwrap();
    assert!(now(waiting.as_mut()).is_none());
    assert_eq!(shown(&read(&mut *source).await), ["41 a"]);
    let position = source.position().unwrap();
    source.commit(&position, Some(&stamp(10))).await.unwrap();
    assert_eq!(now(waiting).unwrap().unwrap(), 10);
}

#[test]
fn many_threads_push_and_each_one_stays_in_order() {
    const EACH: usize = 2_000;
    let (collector, plan) = text_collector(64, 1 << 20);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let pushers: Vec<_> = (0..4)
        .map(|pusher| {
            let collector = collector.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    for n in 0..EACH {
                        collector.push(format!("{pusher} {n}")).await.unwrap();
                    }
                });
            })
        })
        .collect();
    drop(collector);
    let mut next = [0; 4];
    runtime.block_on(async {
        let mut source = open(&plan).await;
        while let Event::Batch(read) = source.next().await.unwrap() {
            for record in read.batch.iter() {
                let text = String::from_utf8_lossy(record.value().unwrap()).into_owned();
                let (pusher, n) = text.split_once(' ').unwrap();
                let pusher: usize = pusher.parse().unwrap();
                assert_eq!(n.parse::<usize>().unwrap(), next[pusher]);
                next[pusher] += 1;
            }
        }
    });
    pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
    assert_eq!(next, [EACH; 4]);
}
