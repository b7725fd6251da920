//! A panic in user code costs only its record.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use millstream::{
    Batching, Error, ErrorKind, ErrorRule, Result, Then, Timestamp,
    core::{Batch, DeadLetter, Form, Outcomes, RecordRef, Sink, SinkCapabilities, SinkPlan, Step, StepPlan, WriteId},
    runtime::Match,
};
use millstream_testkit::{FakeSource, budget};
use serde::{Deserialize, Serialize, Serializer};

use super::bed::{Bed, dead, on_several_threads, retry, rule, texts};

/// Panics at 2.
fn not_two(n: &u64) {
    assert!(*n != 2, "two");
}

/// Records 0 to 4 went through something that panics at 2.
async fn only_two_is_dead(bed: &Bed) {
    bed.run().await;
    assert_eq!((bed.sorted(), bed.dead()), (texts([0, 1, 3, 4]), vec![dead("2", "E_PANIC")]));
}

/// Cannot be written down if it is even and not 0.
#[derive(Clone, Deserialize)]
struct Odd(u64);

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert!(self.0 % 2 == 1 || self.0 == 0, "even");
        serializer.serialize_u64(self.0)
    }
}

/// Whether the digit that a record holds is even.
fn parity(record: RecordRef<'_>) -> Option<&[u8]> {
    Some(if record.value()?[0] % 2 == 0 { b"even" } else { b"odd" })
}

/// Records 0 to 4 were added up, even and odd ones, by something that panics at 2 when it has added it.
async fn only_sums_without_two(bed: &Bed) {
    bed.run().await;
    assert_eq!((bed.sorted(), bed.dead()), (texts([4, 4]), vec![dead("2", "E_PANIC")]));
}

/// No record is at fault, so that none is lost or dead, and no other try can help.
async fn cannot_emit(step: &str, bed: &Bed) {
    let mut running = bed.start();
    let error = running.wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panic, "{}", error.chain());
    let told = error.chain();
    assert!([step, "cannot emit the state of a key", "mute"].iter().all(|part| told.contains(part)), "{told}");
    assert_eq!((bed.delivered(), bed.dead().len(), running.handle().status().restarts), (texts::<u64>([]), 0, 0));
}

/// Cannot be written if it is 2.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
struct Shy(u64);

impl Serialize for Shy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl std::fmt::Display for Shy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        not_two(&self.0);
        self.0.fmt(f)
    }
}

/// Dies the first time that it is used: what no catch around a record can contain.
#[derive(Clone, Debug, Default)]
struct Dies(Arc<AtomicBool>);

impl Dies {
    fn once(&self) {
        assert!(self.0.swap(true, Ordering::SeqCst), "the stage itself");
    }
}

impl StepPlan for Dies {
    fn form(&self) -> Form {
        Form::Text
    }

    fn create(&self) -> Result<Step> {
        struct Dying(Dies);
        impl millstream::core::Transform for Dying {
            fn apply(&mut self, batch: Batch, out: &mut millstream::core::Output) {
                self.0.once();
                out.emit(0, batch);
            }
        }
        Ok(Step::Transform(Box::new(Dying(self.clone()))))
    }
}

impl SinkPlan for Dies {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities::WHOLE
    }

    fn describe(&self) -> String {
        "dies".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        struct Dying(Dies);
        #[async_trait]
        impl Sink for Dying {
            async fn open(&mut self, _: &[(millstream::core::Epoch, millstream::core::Token)]) -> Result<()> {
                Ok(())
            }

            async fn write(&mut self, _: Batch) -> Result<WriteId> {
                self.0.once();
                Ok(0)
            }

            async fn flush(&mut self) -> Result<Outcomes> {
                Ok(Outcomes::default())
            }
        }
        Ok(Box::new(Dying(self.clone())))
    }
}

behaviours! {
    async fn of_a_filter() {
        let bed = Bed::new();
        bed.collect(bed.numbers(5).filter(|n| {
            not_two(n);
            true
        }));
        only_two_is_dead(&bed).await;
    }

    async fn of_a_look() {
        let bed = Bed::new();
        bed.collect(bed.numbers(5).inspect(not_two));
        only_two_is_dead(&bed).await;
    }

    async fn of_a_branch() {
        let bed = Bed::new();
        let (even, odd) = bed.numbers(5).branch(|n| {
            not_two(n);
            n % 2 == 0
        });
        bed.collect(even.merge(odd));
        only_two_is_dead(&bed).await;
    }

    async fn of_a_route() {
        let bed = Bed::new();
        let [a, b] = bed.numbers(5).route(["a", "b"], |n| {
            not_two(n);
            if *n < 3 { "a" } else { "b" }
        });
        bed.collect(a.merge(b));
        only_two_is_dead(&bed).await;
    }

    async fn of_a_time_or_a_header() {
        let bed = Bed::new();
        let timed = bed.numbers(5).time_by(|n| {
            assert!(*n != 1, "one");
            Timestamp::from_millis(*n as i64)
        });
        bed.collect(timed.header("h", |n| {
            not_two(n);
            *n
        }));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([0, 3, 4]), vec![dead("1", "E_PANIC"), dead("2", "E_PANIC")]));
    }

    async fn of_a_decoder() {
        let bed = Bed::new();
        bed.collect(bed.pipeline.source_of(FakeSource::of(texts(0..5))).decode(|bytes| {
            assert!(bytes != b"2", "two");
            std::str::from_utf8(bytes).unwrap().parse::<u64>().map_err(|_| "no number")
        }));
        only_two_is_dead(&bed).await;
    }

    async fn of_an_encoder() {
        let bed = Bed::new();
        bed.numbers(5).map(|n| Shy(*n)).to_text().sink_of(bed.sink.clone());
        only_two_is_dead(&bed).await;
    }

    async fn of_a_step_on_bytes() {
        let bed = Bed::new();
        let source = bed.pipeline.source_of(FakeSource::of(texts(0..5)));
        source.map(|record, value| {
            let bytes = record.value().unwrap_or_default();
            assert!(bytes != b"2", "two");
            value.extend_from_slice(bytes);
            Ok(())
        }).sink_of(bed.sink.clone());
        only_two_is_dead(&bed).await;
    }

    async fn of_a_fold_and_what_it_had_changed_by_then() {
        let bed = Bed::new();
        bed.collect(bed.numbers(5).key_by(|n| n % 2).fold("sum", |sum: &mut u64, n| {
            *sum += n;
            not_two(n);
        }, |_, sum| *sum));
        only_sums_without_two(&bed).await;
    }

    async fn of_a_fold_into_a_large_state() {
        let bed = Bed::new();
        bed.collect(bed.numbers(5).key_by(|n| n % 2).fold("sum", |seen: &mut Vec<u64>, n| {
            seen.push(*n);
            not_two(n);
        }, |_, seen| seen.iter().sum::<u64>()));
        only_sums_without_two(&bed).await;
    }

    async fn of_a_fold_on_bytes() {
        let bed = Bed::new();
        let source = bed.pipeline.source_of(FakeSource::of(texts(0..5)));
        let sums = source.fold("sums", parity, |sum: &mut u64, record| {
            let n = u64::from(record.value().unwrap_or_default()[0] - b'0');
            *sum += n;
            not_two(&n);
        }, |_, sum, value| value.extend_from_slice(sum.to_string().as_bytes()));
        sums.sink_of(bed.sink.clone());
        only_sums_without_two(&bed).await;
    }

    async fn of_a_fold_of_a_new_key_leaves_no_such_key() {
        let bed = Bed::new();
        bed.collect(bed.numbers(3).key_by(|n| *n).fold("sum", |sum: &mut u64, n| {
            not_two(n);
            *sum += n;
        }, |_, sum| *sum));
        bed.run().await;
        assert_eq!((bed.sorted(), bed.dead()), (texts([0, 1]), vec![dead("2", "E_PANIC")]));
    }

    async fn of_what_emits_a_fold_stops_the_pipeline_and_tells_why() {
        let bed = Bed::new();
        bed.collect(bed.numbers(5).key_by(|n| n % 2).fold("typed", |_: &mut u64, _| (), |_, _| -> u64 { panic!("mute") }));
        cannot_emit("typed", &bed).await;
    }

    async fn of_what_emits_a_fold_on_bytes_stops_the_pipeline_and_tells_why() {
        let bed = Bed::new();
        let source = bed.pipeline.source_of(FakeSource::of(texts(0..5)));
        let mute = source.fold("raw", parity, |_: &mut u64, _| (), |_, _, value| {
            value.push(b'x');
            panic!("mute")
        });
        mute.sink_of(bed.sink.clone());
        cannot_emit("raw", &bed).await;
    }

    async fn of_a_splitter_or_a_flush_mark() {
        let bed = Bed::new();
        let batching = Batching::open().split(|| |n: &u64| {
            assert!(*n != 1, "one");
            *n == 3
        }).flush_on(|n| {
            not_two(n);
            false
        });
        bed.collect(bed.numbers(5).batch(batching).handle(|batch| async move {
            batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()
        }));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([0, 3, 4]), vec![dead("1", "E_PANIC"), dead("2", "E_PANIC")]));
    }

    async fn of_what_is_prepared() {
        let bed = Bed::new();
        let lookup = |_: Vec<u64>| async { Ok::<_, Error>(()) };
        bed.collect(bed.numbers(5).prepare(lookup).map(|n, ()| {
            not_two(n);
            Ok::<_, Error>(*n)
        }));
        only_two_is_dead(&bed).await;
    }

    async fn of_a_look_up_costs_its_set() {
        let bed = Bed::new();
        let lookup = |numbers: Vec<u64>| async move {
            numbers.iter().for_each(not_two);
            Ok::<_, Error>(())
        };
        bed.collect(bed.numbers(6).prepare(lookup).at_most(2).map(|n, ()| Ok::<_, Error>(*n)));
        bed.run().await;
        assert_eq!((bed.sorted(), bed.dead()), (texts([0, 1, 4, 5]), vec![dead("2", "E_PANIC"), dead("3", "E_PANIC")]));
    }

    async fn has_rules_like_any_error() {
        let bed = Bed::new();
        let panics = Match { code: Some("E_PANIC".to_owned()), ..Match::default() };
        let dropped = ErrorRule { matches: panics, retry: None, then: Some(Then::Drop) };
        bed.collect(bed.numbers(5).inspect(not_two).name("look").on_error(dropped));
        let summary = bed.run().await;
        assert_eq!((summary.stages["look"].dropped, summary.dead(), bed.delivered().len()), (1, 0, 4));
    }

    async fn can_be_tried_again() {
        let (bed, dies) = (Bed::new(), Dies::default());
        let again = rule(retry(1, Duration::ZERO), None);
        bed.collect(bed.numbers(1).inspect(move |_| dies.once()).on_error(again));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead().len()), (texts([0]), 0));
    }

    async fn of_what_cannot_be_written_down_behind_a_parked_record_costs_only_that() {
        let (bed, dies) = (Bed::new(), Dies::default());
        let source = bed.pipeline.source_of(FakeSource::of(texts(0..9)).in_batches_of(3)).text();
        let odd = source.map(|text| Odd(text.parse().unwrap())).key_by(|_| 0);
        let again = rule(retry(3, Duration::from_millis(50)), None);
        bed.collect(odd.inspect(move |odd| if odd.0 == 1 { dies.once() }).on_error(again).name("look").map(|odd| odd.0));
        let summary = bed.run().await;
        assert_eq!(bed.delivered(), texts([0, 1, 3, 5, 7]));
        let original = |letter: &DeadLetter| letter.record.original.clone().map(|bytes| bytes.to_vec());
        let dead: Vec<_> = bed.dead_letters().iter().map(|letter| (original(letter), letter.code.clone())).collect();
        assert_eq!(dead, ["2", "4", "6", "8"].map(|n| (Some(n.into()), "E_DATA".to_owned())));
        assert_eq!((summary.parked(), summary.stages["look"].in_flight()), (0, 0));
    }

    async fn of_a_stage_itself_restarts_the_pipeline_from_its_checkpoint() {
        let bed = Bed::new();
        let source = bed.pipeline.source_of(FakeSource::of(texts(0..100)));
        source.step_of(Dies::default()).sink_of(bed.sink.clone());
        let mut running = bed.start();
        let handle = running.handle();
        running.wait().await.unwrap();
        assert_eq!((bed.delivered(), handle.status().restarts, bed.dead().len()), (texts(0..100), 1, 0));
    }

    async fn of_a_sink_restarts_the_pipeline_from_its_checkpoint() {
        let bed = Bed::new();
        let numbers = bed.pipeline.source_of(FakeSource::of(texts(0..10)));
        numbers.sink_of(Dies::default()).name("end");
        let mut running = bed.start();
        let summary = running.wait().await.unwrap();
        assert_eq!((summary.stages["end"].records_out, running.handle().status().restarts), (10, 1));
    }
}

/// One of a thousand records panics: exactly those are the dead letters.
#[test]
fn of_one_record_in_a_thousand_costs_exactly_those() {
    let records: u64 = budget(100_000, 10_000_000);
    on_several_threads(async move {
        let bed = Bed::new();
        let fine = bed.numbers(records).map(|n| {
            assert!(n % 1000 != 777, "one of a thousand");
            n + 1
        });
        fine.drop().name("end");
        let began = Instant::now();
        let summary = bed.run().await;
        let rate = records as f64 / began.elapsed().as_secs_f64();
        println!("{rate:.0} records a second with a panic in each thousand of {records}");
        assert_eq!(summary.stages["end"].records_in, records / 1000 * 999);
        let mut dead: Vec<u64> = bed.letters().into_iter().map(|(value, ..)| value.parse().unwrap()).collect();
        dead.sort_unstable();
        assert!(dead.into_iter().eq((777..records).step_by(1000)));
        assert!(bed.letters().iter().all(|(_, code, _)| code == "E_PANIC"));
    });
}
