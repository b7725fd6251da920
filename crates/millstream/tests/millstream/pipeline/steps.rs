//! Steps that handle each record at once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use millstream::{Error, ErrorKind, ErrorRule, Retry};
use millstream_testkit::FakeSource;
use serde::{Deserialize, Serialize};

use super::bed::{Bed, dead, texts};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    customer: String,
}

/// Tries again at once, this often.
fn again(attempts: u32) -> ErrorRule {
    ErrorRule::any().retry(Retry::times(attempts).delay(std::time::Duration::ZERO))
}

behaviours! {
    async fn map_replaces_each_value_in_order() {
        let bed = Bed::new();
        bed.collect(bed.numbers(10_000).map(|n| n * 2));
        bed.run().await;
        assert_eq!(bed.delivered(), texts((0..10_000).map(|n| n * 2)));
    }

    async fn a_panic_in_map_costs_only_its_record() {
        let bed = Bed::new();
        let odd = bed.numbers(10).filter(|n| *n != 4);
        bed.collect(odd.map(|n| 60 / (n % 5)));
        bed.run().await;
        assert_eq!(bed.delivered(), texts([60, 30, 20, 60, 30, 20, 15]));
        assert_eq!(bed.dead(), [dead("0", "E_PANIC"), dead("5", "E_PANIC")]);
    }

    async fn an_error_in_try_map_costs_only_its_record_and_keeps_its_kind() {
        let bed = Bed::new();
        bed.collect(bed.numbers(5).try_map(|n| match n {
            1 => Err(Error::new(ErrorKind::TooLarge, "one is too many")),
            _ => Ok(n + 1),
        }));
        bed.run().await;
        assert_eq!(bed.delivered(), texts([1, 3, 4, 5]));
        assert_eq!(bed.dead(), [dead("1", "E_TOO_LARGE")]);
    }

    async fn a_failed_record_is_tried_again_with_the_value_that_it_had() {
        let bed = Bed::new();
        let tries = Arc::new(AtomicU64::new(0));
        let counted = tries.clone();
        let orders = bed.numbers(3).map(|id| Order { id: *id, customer: format!("c{id}") });
        bed.collect(orders.try_map(move |order| {
            if order.id == 1 && counted.fetch_add(1, Ordering::SeqCst) < 3 {
                return Err("not yet");
            }
            Ok(order.customer.clone())
        }).on_error(again(5)));
        bed.run().await;
        assert_eq!(bed.sorted(), ["\"c0\"", "\"c1\"", "\"c2\""]);
        assert_eq!(tries.load(Ordering::SeqCst), 4);
    }

    async fn filter_counts_what_it_leaves_out() {
        let bed = Bed::new();
        bed.collect(bed.numbers(1000).filter(|n| n % 10 == 0).name("tens"));
        let summary = bed.run().await;
        assert_eq!(bed.delivered(), texts((0..1000).step_by(10)));
        assert_eq!((summary.stages["tens"].filtered, summary.stages["tens"].records_out), (900, 100));
    }

    async fn a_few_records_that_are_left_of_many_are_still_typed() {
        let bed = Bed::new();
        // So few that the engine copies them out of their batch between two stages.
        let (few, rest) = bed.numbers(4096).branch(|n| n % 1000 == 7);
        bed.collect(few.map_async(|n| async move { Ok::<_, Error>(n + 1) }).map(|n| n * 2));
        rest.drop();
        bed.run().await;
        assert_eq!(bed.delivered(), texts([16, 2016, 4016, 6016, 8016]));
    }

    async fn flat_map_takes_the_outputs_of_a_panic_back() {
        let bed = Bed::new();
        bed.collect(bed.numbers(4).flat_map(|n| {
            let n = *n;
            (0..n).map(move |i| {
                assert!(n != 2 || i == 0, "half-way");
                10 * n + i
            })
        }).name("split"));
        let summary = bed.run().await;
        assert_eq!(bed.delivered(), texts([10, 30, 31, 32]));
        assert_eq!(bed.dead(), [dead("2", "E_PANIC")]);
        assert_eq!((summary.stages["split"].filtered, summary.stages["split"].created), (1, 2));
    }

    async fn inspect_sees_every_value_and_changes_none() {
        let bed = Bed::new();
        let sum = Arc::new(AtomicU64::new(0));
        let seen = sum.clone();
        bed.collect(bed.numbers(100).inspect(move |n| {
            seen.fetch_add(*n, Ordering::SeqCst);
        }));
        bed.run().await;
        assert_eq!((bed.delivered().len(), sum.load(Ordering::SeqCst)), (100, 4950));
    }

    async fn what_is_not_json_fails_alone_and_keeps_its_bytes() {
        let bed = Bed::new();
        let source = FakeSource::of(["{\"id\":1,\"customer\":\"a\"}", "{\"id\":", "{\"id\":\"x\",\"customer\":\"a\"}"]);
        bed.collect(bed.pipeline.source_of(source).json::<Order>().map(|order| order.id));
        bed.run().await;
        assert_eq!(bed.delivered(), ["1"]);
        let letters = bed.letters();
        assert_eq!(letters.len(), 2);
        assert!(letters.iter().all(|(_, code, _)| code == "E_DECODE"), "{letters:?}");
        assert_eq!(letters[0].0, "{\"id\":");
    }

    async fn a_dead_letter_of_a_typed_step_shows_its_value_as_json() {
        let bed = Bed::new();
        let orders = bed.numbers(1).map(|id| Order { id: *id, customer: "a".to_owned() });
        bed.collect(orders.try_map(|_| Err::<u64, _>("refused")));
        bed.run().await;
        assert_eq!(bed.dead(), [dead("{\"id\":0,\"customer\":\"a\"}", "E_DATA")]);
    }

    async fn lines_makes_a_record_of_each_line() {
        let bed = Bed::new();
        bed.collect(bed.pipeline.source_of(FakeSource::of(["a\nb\r\n", "", "c"])).lines());
        bed.run().await;
        assert_eq!(bed.delivered(), ["\"a\"", "\"b\"", "\"c\""]);
    }

    async fn decode_and_encode_are_functions_of_yours() {
        let bed = Bed::new();
        let numbers = bed.pipeline.source_of(FakeSource::of(["1", "x", "3"])).decode(|bytes| {
            std::str::from_utf8(bytes).map_err(|_| "no text")?.parse::<u64>().map_err(|_| "no number")
        });
        numbers.encode(|n, bytes| {
            bytes.push(b'#');
            if *n == 3 {
                return Err("three is not written");
            }
            bytes.extend_from_slice(n.to_string().as_bytes());
            Ok(())
        }).sink_of(bed.sink.clone());
        bed.run().await;
        assert_eq!(bed.delivered(), ["#1"]);
        assert_eq!(bed.dead(), [dead("3", "E_DATA"), dead("x", "E_DECODE")]);
    }

    async fn on_failed_hears_of_a_failure_before_its_rule_acts() {
        let bed = Bed::new();
        let heard = Arc::new(AtomicU64::new(0));
        let hear = heard.clone();
        let failing = bed.numbers(3).try_map(|n| if *n == 1 { Err("one") } else { Ok(*n) }).on_error(again(2));
        bed.collect(failing.on_failed(move |record, error, attempts| {
            assert_eq!((record.value.as_deref(), error.message()), (Some(&b"1"[..]), "one"));
            assert_eq!(hear.fetch_add(1, Ordering::SeqCst) + 1, u64::from(attempts));
        }));
        bed.run().await;
        assert_eq!((heard.load(Ordering::SeqCst), bed.dead().len()), (3, 1));
    }

    async fn fold_keeps_a_state_for_each_key() {
        let bed = Bed::new();
        let by_rest = bed.numbers(100).key_by(|n| n % 3);
        bed.collect(by_rest.fold("sum", |sum: &mut u64, n| *sum += n, |key, sum| {
            format!("{}={sum}", String::from_utf8_lossy(key))
        }));
        bed.run().await;
        assert_eq!(bed.sorted(), ["\"0=1683\"", "\"1=1617\"", "\"2=1650\""]);
    }
}
