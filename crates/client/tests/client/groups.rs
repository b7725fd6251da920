//! Members of a group share records.

use std::sync::Arc;

use futures::{FutureExt, executor::block_on};
use millstream_client::{Ack, Consumer, ConsumerOptions, PositionFiles};
use millstream_core::{ErrorKind, Owner, SeekTo, ShardKey, SourceCapabilities};

use crate::support::{Memory, eventually, number, quick, text};

fn member() -> ConsumerOptions {
    ConsumerOptions { retry: quick(), start: Some(SeekTo::Beginning), ..ConsumerOptions::load_balanced("team") }
}

async fn drain(consumer: &mut Consumer) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(record) = consumer.next().await.unwrap() {
        all.push(text(&record));
    }
    all
}

#[test]
fn each_record_goes_to_one_member_and_each_gets_its_share_of_every_stream() {
    block_on(async {
        let memory = Memory::new();
        for i in 0..90 {
            ["a", "b"].iter().for_each(|stream| memory.log.push(stream, 0, format!("{stream}{i:02}")));
        }
        memory.log.end();
        let streamer = memory.streamer();
        let mut members: Vec<_> = (0..3).map(|_| streamer.create_consumer(&["a", "b"], member()).unwrap()).collect();
        let mut all = Vec::new();
        for consumer in &mut members {
            let got = drain(consumer).await;
            for stream in ["a", "b"] {
                let of: Vec<_> = got.iter().filter(|value| value.starts_with(stream)).collect();
                assert_eq!(of.len(), 30, "{got:?}");
                assert!(of.is_sorted());
            }
            all.extend(got);
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 180);
    });
}

#[test]
fn members_may_ask_for_different_streams() {
    block_on(async {
        let memory = Memory::new();
        for i in 0..20 {
            ["a", "b"].iter().for_each(|stream| memory.log.push(stream, 0, format!("{stream}{i:02}")));
        }
        memory.log.end();
        let streamer = memory.streamer();
        let mut one = streamer.create_consumer(&["a"], member()).unwrap();
        let mut both = streamer.create_consumer(&["b", "a"], member()).unwrap();
        let (one, both) = (drain(&mut one).await, drain(&mut both).await);
        assert_eq!(one.len(), 10);
        assert_eq!(both.iter().filter(|value| value.starts_with('a')).count(), 10);
        assert_eq!(both.iter().filter(|value| value.starts_with('b')).count(), 20);
    });
}

#[test]
fn what_a_member_has_not_done_when_it_goes_is_given_to_the_others() {
    block_on(async {
        let memory = Memory::new();
        memory.log.numbers(0..100);
        let streamer = memory.streamer();
        let options = || ConsumerOptions { ack: Ack::Manual, ..member() };
        let mut leaves = streamer.create_consumer(&["s"], options()).unwrap();
        let mut stays = streamer.create_consumer(&["s"], options()).unwrap();
        let mut done = Vec::new();
        for i in 0..20 {
            let record = leaves.next().await.unwrap().unwrap();
            if i % 2 == 0 {
                leaves.ack(&record).unwrap();
                done.push(number(&record));
            }
        }
        drop(leaves);
        memory.log.end();
        while let Some(record) = stays.next().await.unwrap() {
            stays.ack(&record).unwrap();
            done.push(number(&record));
        }
        done.sort_unstable();
        assert_eq!(done, (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn what_was_taken_of_a_shard_that_leaves_is_neither_handed_out_nor_committed() {
    block_on(async {
        let mut memory = Memory::new();
        memory.log.capabilities =
            SourceCapabilities { owner: Owner::System, groups: true, seek: false, ..SourceCapabilities::LOG };
        for i in 0..8 {
            memory.log.push("s", i % 2, i.to_string());
        }
        let mut consumer = memory.streamer().create_consumer(&["s"], member()).unwrap();
        for expected in 0..4 {
            assert_eq!(number(&consumer.next().await.unwrap().unwrap()), expected);
        }
        // All eight lie in one batch, which the consumer has taken; 3, of the shard that leaves, is in its hands.
        memory.log.leave(ShardKey::new("s", 1));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(memory.log.released(), None, "it waits for the record in hand");
        for expected in [4, 6] {
            assert_eq!(number(&consumer.next().await.unwrap().unwrap()), expected);
        }
        memory.log.push("s", 0, "8");
        assert_eq!(number(&consumer.next().await.unwrap().unwrap()), 8);
        eventually("the shard is released", || memory.log.released().is_some());
    });
}

#[test]
fn members_that_come_and_go_lose_and_repeat_nothing_that_is_done() {
    block_on(async {
        let memory = Memory::new();
        memory.log.numbers(0..3000);
        memory.log.end();
        let streamer = memory.streamer();
        // One member is always there, so the group goes on.
        let mut first = streamer.create_consumer(&["s"], member()).unwrap();
        let mut done = Vec::new();
        for _ in 0..100 {
            let mut guest = streamer.create_consumer(&["s"], member()).unwrap();
            let mut last = None;
            for _ in 0..7 {
                // Asking for the next says that the one before is done.
                let next = guest.next().now_or_never();
                done.extend(last.take());
                if let Some(Ok(Some(record))) = next {
                    last = Some(number(&record));
                }
            }
            guest.close().await.unwrap();
            done.extend(last);
            if let Some(record) = first.next().await.unwrap() {
                done.push(number(&record));
            }
        }
        while let Some(record) = first.next().await.unwrap() {
            done.push(number(&record));
        }
        done.sort_unstable();
        assert_eq!(done, (0..3000).collect::<Vec<_>>());
    });
}

#[test]
fn a_group_cannot_be_moved_by_one_member() {
    block_on(async {
        let memory = Memory::new();
        let mut consumer = memory.streamer().create_consumer(&["s"], member()).unwrap();
        assert_eq!(consumer.rewind(SeekTo::End).await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(consumer.unassign(&[]).await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(consumer.commit().await.unwrap_err().kind(), ErrorKind::Unsupported);
    });
}

#[test]
fn some_with_streams_and_some_without_is_refused() {
    let memory = Memory::new();
    let streamer = memory.streamer();
    let named = streamer.create_consumer(&["s"], member()).unwrap();
    assert_eq!(streamer.create_consumer(&[], member()).unwrap_err().kind(), ErrorKind::Unsupported);
    drop(named);
    let _all = streamer.create_consumer(&[], member()).unwrap();
    assert_eq!(streamer.create_consumer(&["s"], member()).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_group_goes_on_where_its_members_have_committed() {
    block_on(async {
        let (memory, folder) = (Memory::new(), tempfile::tempdir().unwrap());
        memory.log.numbers(0..60);
        memory.log.end();
        let options = || ConsumerOptions {
            positions: Some(Arc::new(PositionFiles::within(folder.path()))),
            commit_every: None,
            ..member()
        };
        let streamer = memory.streamer();
        let (mut a, mut b) = (
            streamer.create_consumer(&["s"], options()).unwrap(),
            streamer.create_consumer(&["s"], options()).unwrap(),
        );
        let mut done = Vec::new();
        for _ in 0..10 {
            done.push(number(&a.next().await.unwrap().unwrap()));
            done.push(number(&b.next().await.unwrap().unwrap()));
        }
        a.close().await.unwrap();
        b.close().await.unwrap();
        let mut c = streamer.create_consumer(&["s"], options()).unwrap();
        while let Some(record) = c.next().await.unwrap() {
            done.push(number(&record));
        }
        done.sort_unstable();
        assert_eq!(done, (0..60).collect::<Vec<_>>());
    });
}

#[test]
fn a_system_with_groups_is_told_what_is_done_and_given_back_what_nobody_has_seen() {
    block_on(async {
        let mut memory = Memory::new();
        memory.log.capabilities = SourceCapabilities {
            owner: millstream_core::Owner::System,
            groups: true,
            give_back: true,
            ..SourceCapabilities::LOG
        };
        memory.log.batch = 4;
        memory.log.numbers(0..8);
        let options = ConsumerOptions { ack: Ack::Manual, commit_every: None, ..member() };
        let mut consumer = memory.streamer().create_consumer(&["s"], options).unwrap();
        for i in 0..6 {
            let record = consumer.next().await.unwrap().unwrap();
            if i != 4 {
                consumer.ack(&record).unwrap();
            }
        }
        consumer.commit().await.unwrap();
        let shard = millstream_core::ShardKey::new("s", 0);
        assert_eq!(memory.log.committed().unwrap().shard::<u64>(&shard).unwrap(), Some(5));
        drop(consumer);
        eventually("it is given back", || !memory.log.given_back().is_empty());
        // 4 was in somebody's hands: the system counts that.
        assert_eq!(memory.log.given_back(), ["6", "7"]);
    });
}
