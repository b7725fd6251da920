//! Errors of other types: what they are, and so what becomes of their records.

use std::{fmt, io, time::Duration};

use millstream::{BatchOf, Batching, Class, Error, ErrorKind, ErrorRule, Outcomes, Retry, Stream, Worker};
use serde::{Deserialize, Serialize};

use super::bed::{Bed, Seen, dead, retry, rule, texts};

const SOON: Duration = Duration::from_millis(1);

/// What a bank's client library fails with.
#[derive(Debug)]
enum BankError {
    Busy,
    NoCard,
    Wire(io::Error),
}

impl fmt::Display for BankError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BankError::Busy => "the bank is busy",
            BankError::NoCard => "no such card",
            BankError::Wire(_) => "cannot reach the bank",
        })
    }
}

impl std::error::Error for BankError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BankError::Wire(cause) => Some(cause),
            BankError::Busy | BankError::NoCard => None,
        }
    }
}

/// An error of the program's own around one of the library.
#[derive(Debug)]
struct ChargeError(BankError);

impl fmt::Display for ChargeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot charge the order")
    }
}

impl std::error::Error for ChargeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl From<BankError> for ChargeError {
    fn from(cause: BankError) -> Self {
        ChargeError(cause)
    }
}

impl From<ChargeError> for Error {
    fn from(error: ChargeError) -> Self {
        let kind = if matches!(error.0, BankError::Busy) { ErrorKind::Throttled } else { ErrorKind::Rejected };
        Error::of(kind, error)
    }
}

/// Charges anything but 1, whose bank is busy the first `busy` times, and 2, which has no card.
fn charge(tries: &Seen<u64>, n: u64, busy: usize) -> Result<u64, BankError> {
    tries.add(n);
    match n {
        1 if tries_of(tries, 1) <= busy => Err(BankError::Busy),
        2 => Err(BankError::NoCard),
        n => Ok(n),
    }
}

fn tries_of(tries: &Seen<u64>, n: u64) -> usize {
    tries.all().into_iter().filter(|of| *of == n).count()
}

fn kind_of(error: &BankError) -> Option<ErrorKind> {
    match error {
        BankError::Busy => Some(ErrorKind::Throttled),
        BankError::NoCard => Some(ErrorKind::Rejected),
        BankError::Wire(_) => None,
    }
}

/// A bed whose pipeline knows the errors of banks, and tries soon again.
fn banking() -> Bed {
    Bed::new().with(|pipeline| {
        let again = ErrorRule::of(Class::Throttled).retry(Retry::forever().delay(SOON));
        pipeline.classify(kind_of).on_error(again)
    })
}

/// A worker whose errors are its own, in the first of its lives also at the start.
struct Charges {
    lives: Seen<u64>,
    tries: Seen<u64>,
}

impl Worker<u64> for Charges {
    type Output = u64;
    type Error = ChargeError;

    async fn init(&mut self) -> Result<(), ChargeError> {
        self.lives.add(0);
        if self.lives.len() == 1 {
            Err(BankError::Wire(io::ErrorKind::ConnectionRefused.into()))?
        }
        Ok(())
    }

    async fn handle(&mut self, n: u64) -> Result<u64, ChargeError> {
        Ok(charge(&self.tries, n, 1)?)
    }
}

behaviours! {
    async fn a_worker_fails_with_errors_of_its_own_and_what_may_pass_is_tried_again_at_its_start_too() {
        let (bed, lives, tries) = (banking(), Seen::new(), Seen::new());
        let (log, times) = (lives.clone(), tries.clone());
        bed.collect(bed.numbers(4).step(move || Charges { lives: log.clone(), tries: times.clone() }));
        bed.run().await;
        assert_eq!((bed.sorted(), bed.dead()), (texts([0, 1, 3]), vec![dead("2", "E_REJECTED")]));
        assert_eq!((lives.len(), tries_of(&tries, 1)), (2, 2));
    }

    async fn an_error_of_another_type_is_of_the_kind_that_the_pipeline_was_told() {
        let (bed, tries) = (banking(), Seen::new());
        let log = tries.clone();
        bed.collect(bed.numbers(4).try_map(move |n| charge(&log, *n, 2)));
        bed.run().await;
        assert_eq!((bed.sorted(), bed.dead()), (texts([0, 1, 3]), vec![dead("2", "E_REJECTED")]));
        assert_eq!(bed.dead_letters()[0].causes, ["no such card"]);
    }

    async fn it_is_known_as_a_cause_of_an_error_of_the_programs_own_and_the_question_mark_works() {
        let (bed, tries) = (banking(), Seen::new());
        let log = tries.clone();
        bed.collect(bed.numbers(4).map_async(move |n| {
            let log = log.clone();
            async move { Ok::<u64, ChargeError>(charge(&log, n, 2)?) }
        }));
        bed.run().await;
        assert_eq!((bed.sorted(), bed.dead()), (texts([0, 1, 3]), vec![dead("2", "E_REJECTED")]));
        assert_eq!(bed.dead_letters()[0].causes, ["cannot charge the order", "no such card"]);
    }

    async fn it_is_known_in_outcomes_of_batches_and_on_threads() {
        let (bed, kinds) = (banking(), Seen::new());
        let (log, tries) = (kinds.clone(), Seen::new());
        let threads = bed.numbers(4).map_blocking(move |n| charge(&tries, *n, 0));
        let log = threads.on_failed(move |_, error, _| log.add(error.kind())).batch(Batching::count(2));
        let batches = log.handle(|batch: BatchOf<u64>| async move {
            let mut outcomes = Outcomes::new();
            for (i, n) in batch.iter().enumerate() {
                if *n == 3 { outcomes.fail(i, ChargeError(BankError::NoCard)) } else { outcomes.ok(i, *n) }
            }
            outcomes
        });
        bed.collect(batches);
        bed.run().await;
        assert_eq!((bed.sorted(), kinds.all()), (texts([0, 1]), vec![ErrorKind::Rejected]));
        assert_eq!(bed.dead(), [dead("2", "E_REJECTED"), dead("3", "E_REJECTED")]);
    }

    async fn what_a_decoder_of_yours_fails_with_is_known_too() {
        let bed = banking();
        let bytes = bed.numbers(3).to_json();
        bed.collect(bytes.decode(|bytes| match bytes {
            b"1" => Err(ChargeError(BankError::NoCard)),
            b"2" => Err(ChargeError(BankError::Wire(io::Error::other("?")))),
            _ => Ok(0u64),
        }));
        bed.run().await;
        assert_eq!(bed.dead(), [dead("1", "E_REJECTED"), dead("2", "E_DECODE")]);
    }

    async fn a_type_of_yours_can_say_itself_what_it_is() {
        let (bed, kinds) = (Bed::new(), Seen::new());
        let log = kinds.clone();
        let charge = |n: &u64| -> Result<u64, ChargeError> {
            if *n == 1 { Err(ChargeError(BankError::NoCard)) } else { Ok(*n) }
        };
        let charged: Stream<u64> = bed.numbers(2).try_map(move |n| Ok::<u64, Error>(charge(n)?));
        bed.collect(charged.on_failed(move |_, error, _| log.add((error.kind(), error.find::<BankError>().is_some()))));
        bed.run().await;
        assert_eq!((kinds.all(), bed.dead()), (vec![(ErrorKind::Rejected, true)], vec![dead("1", "E_REJECTED")]));
    }

    async fn an_error_whose_kind_was_chosen_keeps_it() {
        let bed = banking();
        bed.collect(bed.numbers(1).try_map(|_| Err::<u64, _>(Error::of(ErrorKind::TooLarge, BankError::Busy))));
        bed.run().await;
        assert_eq!(bed.dead(), [dead("0", "E_TOO_LARGE")]);
    }

    async fn an_io_error_that_may_pass_is_tried_again_also_as_a_cause() {
        let (bed, tries) = (Bed::new(), Seen::new());
        let log = tries.clone();
        let failing = bed.numbers(3).try_map(move |n| {
            log.add(*n);
            match (n, log.len()) {
                (1, ..5) => Err(BankError::Wire(io::ErrorKind::ConnectionReset.into())),
                _ => Ok(*n),
            }
        });
        bed.collect(failing.on_error(ErrorRule::of(Class::Unavailable).retry(retry(None, SOON))));
        bed.run().await;
        assert_eq!((bed.sorted(), bed.dead()), (texts([0, 1, 2]), vec![]));
    }

    async fn an_io_error_that_lasts_costs_its_record_and_does_not_stop_the_pipeline() {
        let bed = Bed::new();
        bed.collect(bed.numbers(4).try_map(|n| match n {
            1 => Err(io::Error::from(io::ErrorKind::NotFound)),
            2 => Err(io::Error::other("who knows")),
            n => Ok(*n),
        }));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([0, 3]), vec![dead("1", "E_DATA"), dead("2", "E_DATA")]));
    }

    async fn a_text_is_told_once() {
        let bed = Bed::new();
        bed.collect(bed.numbers(1).try_map(|_| Err::<u64, _>("no")).on_error(rule(None, None)));
        let summary = bed.run().await;
        assert_eq!((&bed.dead_letters()[0].causes[..], &summary.causes[0].message[..]), (&["no".to_owned()][..], "no"));
    }

    async fn json_in_texts_and_bytes_is_read_like_json_of_a_source() {
        #[derive(Clone, Serialize, Deserialize)]
        struct Order {
            total: u64,
        }

        let bed = Bed::new();
        let lines = bed.pipeline.values([r#"{"total":7}"#, "{"].map(str::to_owned));
        bed.collect(lines.json::<Order>().map(|order| order.total));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()[0].1.as_str()), (texts([7]), "E_DECODE"));
    }
}
