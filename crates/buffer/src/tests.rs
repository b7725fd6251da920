//! Blocks: any batch comes back as it was, and no bytes make the reader panic.

use bytes::Bytes;
use millstream_core::{Batch, BatchBuilder, Body, Column, Extent, Form, Forms, Record, ShardKey, Timestamp};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    block::{BLOCK_BYTES_MAX, cut, encode},
    decode::{Decoded, decode},
    format::{BLOCK_HEADER_BYTES, Id},
};

const ID: Id = Id([7; 16]);
const AT: Timestamp = Timestamp(1_234);
/// Cases of each property.
const CASES: u32 = 300;

fn block(batch: &Batch, offset: u64) -> Bytes {
    let mut bytes = Vec::new();
    encode(batch, &(0..batch.len()), ID, offset, AT, &mut bytes);
    bytes.into()
}

fn read(bytes: &Bytes, offset: u64) -> Batch {
    match decode(bytes, ID, offset, bytes.len() as u64) {
        Decoded::Block(batch, header) => {
            assert_eq!((header.total(), header.written_at), (bytes.len() as u64, AT.0));
            assert_eq!(header.records as usize, batch.len());
            batch
        }
        other => panic!("{other:?}"),
    }
}

fn records(batch: &Batch) -> Vec<Record> {
    batch.iter().map(|record| record.to_record()).collect()
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

prop_compose! {
    fn record()(
        (shard, sequence, index) in (0u64..3, any::<u64>(), prop_oneof![3 => Just(0u64), 1 => any::<u64>()]),
        time in option::of(any::<i64>().prop_map(Timestamp)),
        key in option::of(bytes()),
        headers in vec(("[a-zé]{0,5}", option::of(bytes())), 0..3),
        value in option::of(bytes()),
        form in prop_oneof![Just(Form::Bytes), Just(Form::Text), Just(Form::Json)],
        original in option::of(bytes()),
        deliveries in prop_oneof![3 => Just(1u32), 1 => any::<u32>()],
    ) -> Record {
        let origin = ShardKey::new(format!("s{shard}"), shard);
        let sequence = u128::from(sequence);
        Record { origin, sequence, index, time, key, headers, value, form, original, deliveries, ..Record::new("", "") }
    }
}

#[test]
fn any_batch_comes_back_as_it_was() {
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let batches = (vec(record(), 1..40), any::<u64>());
    runner
        .run(&batches, |(all, offset)| {
            let mut builder = BatchBuilder::new();
            all.iter().for_each(|record| builder.push(record));
            let batch = builder.finish();
            let again = read(&block(&batch, offset), offset);
            prop_assert_eq!(comparable(&batch), comparable(&again));
            // A selection of rows, in another order, is a batch as well.
            let picks: Vec<u32> = (0..batch.len() as u32).rev().step_by(2).collect();
            let some = batch.select(picks);
            prop_assert_eq!(comparable(&some), comparable(&read(&block(&some, offset), offset)));
            Ok(())
        })
        .unwrap();
}

/// Records, where an original that equals the value is none: nobody can tell them apart.
fn comparable(batch: &Batch) -> Vec<Record> {
    let mut all = records(batch);
    for record in &mut all {
        record.original.take_if(|original| record.value.as_ref() == Some(&*original));
    }
    all
}

#[test]
fn a_derived_batch_keeps_originals_and_indexes() {
    let mut builder = BatchBuilder::new();
    builder.push(&Record::new("in", "a b"));
    let parsed = Column::new(Bytes::from_static(b"ab"), vec![Extent { start: 0, end: 1 }, Extent { start: 1, end: 2 }]);
    let derived = builder.finish().derive(vec![0, 0], Body::Bytes(parsed, Forms::Same(Form::Text)));
    let again = read(&block(&derived, 0), 0);
    assert_eq!(records(&again), records(&derived));
    assert_eq!((again.get(1).index(), again.get(1).original()), (1, Some(&b"a b"[..])));
}

#[test]
fn absent_is_not_empty() {
    let mut builder = BatchBuilder::new();
    builder.push(&Record { value: None, key: Some(Bytes::new()), ..Record::new("s", "") });
    builder
        .push(&Record { headers: vec![("h".into(), None), ("h".into(), Some(Bytes::new()))], ..Record::new("s", "") });
    let batch = builder.finish();
    assert_eq!(records(&read(&block(&batch, 5), 5)), records(&batch));
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let mut builder = BatchBuilder::new();
    (0..5).for_each(|i| builder.push(&Record { key: Some("k".into()), ..Record::new("s", format!("value {i}")) }));
    let good = block(&builder.finish(), 64);
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.to_vec();
            bad[at] ^= 1 << bit;
            let read = decode(&bad.into(), ID, 64, good.len() as u64);
            assert!(!matches!(read, Decoded::Block(..)), "bit {bit} of byte {at} was flipped, and read: {read:?}");
        }
    }
    // Nor is it taken for a block of another place or another buffer.
    let elsewhere = [decode(&good, ID, 65, good.len() as u64), decode(&good, Id([8; 16]), 64, good.len() as u64)];
    assert!(elsewhere.iter().all(|read| matches!(read, Decoded::Bad(_))), "{elsewhere:?}");
}

#[test]
fn any_body_with_a_right_checksum_is_read_or_refused() {
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let bodies = (vec(any::<u8>(), 0..200), any::<u16>(), 0u32..60, vec((any::<usize>(), any::<u8>()), 0..6));
    runner
        .run(&bodies, |(noise, flags, rows, changes)| {
            forged(noise, flags, rows);
            // A body that is nearly right reaches further.
            let mut builder = BatchBuilder::new();
            (0..4u32).for_each(|i| {
                let headers = vec![("name".into(), Some(Bytes::from_static(b"v")))];
                let original = Some(Bytes::from_static(b"was"));
                builder.push(&Record { headers, original, index: i.into(), ..Record::new("s", "value") });
            });
            let good = block(&builder.finish(), 0);
            let header = crate::format::BlockHeader::decode(&good).unwrap();
            let mut body = good[BLOCK_HEADER_BYTES..].to_vec();
            for (at, byte) in changes {
                let at = at % body.len();
                body[at] = byte;
            }
            forged(body, header.flags, header.records);
            Ok(())
        })
        .unwrap();
}

fn forged(body: Vec<u8>, flags: u16, records: u32) {
    let header = crate::format::BlockHeader {
        length: body.len() as u32,
        version: 1,
        kind: 1,
        flags,
        records,
        written_at: 0,
        check: 0,
    };
    let mut bytes = header.encode(ID, 0, &body).to_vec();
    bytes.extend_from_slice(&body);
    let most = bytes.len() as u64;
    if let Decoded::Block(batch, _) = decode(&bytes.into(), ID, 0, most) {
        // Whatever it says can be looked at.
        assert_eq!(self::records(&batch).len(), records as usize);
    }
}

#[test]
fn a_large_batch_is_cut_into_blocks_that_fit() {
    let mut builder = BatchBuilder::new();
    let value = vec![7; 100 << 10];
    (0..25).for_each(|_| builder.push(&Record::new("s", value.clone())));
    builder.push(&Record::new("s", vec![8; 2 * BLOCK_BYTES_MAX]));
    let batch = builder.finish();
    let runs = cut(&batch, BLOCK_BYTES_MAX);
    let rows: Vec<usize> = runs.iter().cloned().flatten().collect();
    assert_eq!(rows, (0..26).collect::<Vec<_>>());
    for run in &runs {
        let mut bytes = Vec::new();
        encode(&batch, run, ID, 0, AT, &mut bytes);
        assert!(bytes.len() < BLOCK_BYTES_MAX + 4096 || run.len() == 1, "{run:?} has {} bytes", bytes.len());
        assert_eq!(read(&bytes.into(), 0).len(), run.len());
    }
    assert!(runs.len() >= 4, "{runs:?}");
}

#[test]
fn an_incomplete_block_says_how_much_it_needs() {
    let mut builder = BatchBuilder::new();
    builder.push(&Record::new("s", "value"));
    let good = block(&builder.finish(), 0);
    for length in 0..good.len() {
        match decode(&good.slice(..length), ID, 0, good.len() as u64) {
            Decoded::More(needed) if length < BLOCK_HEADER_BYTES => assert_eq!(needed, BLOCK_HEADER_BYTES as u64),
            Decoded::More(needed) => assert_eq!(needed, good.len() as u64),
            other => panic!("{length} bytes: {other:?}"),
        }
    }
    // Where no more can come, it is damage.
    assert!(matches!(decode(&good, ID, 0, good.len() as u64 - 1), Decoded::Bad(_)));
}
