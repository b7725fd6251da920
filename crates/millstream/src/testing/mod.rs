//! Tests of whole pipelines: the one of production, on the real engine, with stand-ins for the systems around it.
//!
//! A test takes the pipeline as the program builds it, swaps its sources and sinks by name, gives it records, and is told what
//! has become of each:
//!
//! ```
//! use millstream::{ErrorKind, Result, Stream, prelude::*, testing::Test};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
//! struct Order {
//!     id: u64,
//!     total: f64,
//! }
//!
//! /// What the program runs.
//! fn orders() -> Pipeline {
//!     let pipeline = Pipeline::new("orders");
//!     let orders = pipeline.source("kafka://broker/orders").name("orders").json::<Order>();
//!     let paid: Stream<Order> = orders
//!         .filter(|order| order.total > 0.0)
//!         .try_map(|order| if order.total < 1e6 { Ok(order.clone()) } else { Err("too much") })
//!         .name("charge");
//!     paid.to_json().sink("kafka://broker/charged").name("charged");
//!     pipeline
//! }
//!
//! #[tokio::main(flavor = "current_thread")] // in a test: #[tokio::test]
//! async fn main() -> Result<()> {
//!     let test = Test::of(&orders()).source("orders").sink("charged").start().await?;
//!     let order = Order { id: 1, total: 12.5 };
//!     test.record("orders", order.clone()).await?.expect_delivered("charged").equals(&[order.clone()]);
//!     test.record("orders", Order { id: 2, total: 0.0 }).await?.expect_filtered();
//!     test.record("orders", Order { id: 3, total: 2e6 }).await?.expect_dead("charge", ErrorKind::Data);
//!     test.record("orders", "no order").await?.expect_dead("json", ErrorKind::Decode);
//!     let books = test.finish().await?;
//!     books.delivered("charged").equals(&[order]);
//!     Ok(())
//! }
//! ```
//!
//! The module comes with the feature `testing`, which belongs into a program's dev-dependencies:
//! `millstream = { version = "..", features = ["testing"] }`.
//!
//! # What is real and what is not
//!
//! Steps, fusion, workers, dispatch, batches, error rules, epochs, checkpoints and restarts are the engine's, and the pipeline is
//! first planned as it is: what production would refuse, a test refuses. Not real are
//!
//! - sources that are [swapped](Setup::source): a log in memory. One that is neither swapped nor [kept](Setup::keep) is an
//!   error, so that no test reads from a real system by accident;
//! - sinks, unless they are kept: they keep what they are given, cut to their mark after a restart where the real one would be;
//! - the store (in memory, new) and the sink for dead letters;
//! - buffers on disk, which are left out;
//! - time, and with it when epochs are cut: when the test asks for one, and once an hour.
//!
//! # Virtual time
//!
//! Time stands still while there is something to do, and jumps to the next timer when there is not: a test of a retry after an
//! hour takes no time. A record that waits for its retry, for the rest of its batch or for its turn is
//! [waiting](Outcome::is_waiting), and [`Test::advance`] lets time pass:
//!
//! ```
//! use std::time::Duration;
//!
//! use millstream::{Batching, prelude::*, testing::Test};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> millstream::Result<()> {
//! let pipeline = Pipeline::new("sums");
//! let numbers = pipeline.source("file:numbers.ndjson").name("numbers").json::<u64>();
//! let batches = numbers.batch(Batching::count(100).linger(Duration::from_secs(30)));
//! let sums = batches.handle(|numbers: BatchOf<u64>| async move {
//!     let sum = numbers.iter().sum::<u64>();
//!     numbers.iter().map(|_| Ok::<_, millstream::Error>(sum)).collect::<Vec<_>>()
//! });
//! sums.to_json().sink("file:sums.ndjson").name("sums");
//!
//! let test = Test::of(&pipeline).source("numbers").start().await?;
//! let outcomes = test.batch("numbers", [1u64, 2, 3]).await?;
//! outcomes[0].expect_waiting();
//! test.advance(Duration::from_secs(30)).await?;
//! test.latest(&outcomes[0]).await?.expect_delivered("sums").equals(&[6u64]);
//! # test.finish().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Time is as fine as tokio's timers: a millisecond for each wait. That holds for `tokio::time` and for the engine's wall clock ([`Timestamp::now`](millstream_core::Timestamp::now)), on a runtime
//! of one thread, as `#[tokio::test]` makes it. A step that waits for something outside of the runtime (a socket) makes the clock
//! jump: such tests use [`Setup::real_time`]. Time stays virtual for the rest of the test function: `tokio::time::resume()`
//! ends that.
//!
//! # Trouble
//!
//! [`Test::fails_next`] makes a source or sink fail, [`Test::slow`] and [`Test::stalls`] hold it up, [`Test::rejects`] makes a
//! sink refuse records; a [`Script`] tells a source when to give what, and when to fail. The pipeline's own rules decide what
//! follows:
//!
//! ```
//! use millstream::{ErrorKind, prelude::*, testing::Test};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> millstream::Result<()> {
//! let pipeline = Pipeline::new("copy");
//! pipeline.source("file:in.txt").name("in").sink("file:out.txt").name("out");
//!
//! let test = Test::of(&pipeline).source("in").start().await?;
//! test.fails_next("out", ErrorKind::Unavailable, 3)?;
//! test.rejects("out", |record| record.value.as_deref() == Some(b"bad"))?;
//! test.record("in", "good").await?.expect_delivered("out").equals_texts(&["good"]);
//! let bad = test.record("in", "bad").await?;
//! assert_eq!(bad.expect_dead("out", ErrorKind::Rejected).attempts, 1);
//! let books = test.finish().await?;
//! assert_eq!((books.stage("out").records_out, books.stage("out").dead), (1, 1));
//! # Ok(())
//! # }
//! ```
//!
//! # What tests say when they fail
//!
//! Assertions panic at the line of the test with what was expected, what has come, and the books of every stage:
//!
//! ```text
//! record 2 of `orders` was expected to be delivered to `charged`, but:
//!   became a dead letter at `charge` (try 1): E_DATA too much
//!   failed at `charge` (try 1): E_DATA too much
//!
//! stage        in  out  filtered  dead  failures
//! orders        3    3         0     0         0
//! json          3    3         0     0         0
//! filter        3    2         1     0         0
//! charge        2    1         0     1         1
//! to_json       1    1         0     0         0
//! charged       1    1         0     0         0
//! dead_letter   1    1         0     0         0
//! ```
//!
//! A pipeline that stops, that does not come to an end, or whose books do not balance is an error of the method that has seen
//! it, with the same table. Nothing hangs: see [`Setup::give_up_after`].

mod books;
mod clock;
mod given;
mod outcome;
mod records;
mod setup;
mod sink;
mod source;
mod test;

use millstream_core::{Error, ErrorKind};

pub use self::{
    books::{Books, Table},
    given::Given,
    outcome::{Failed, Outcome},
    records::Records,
    setup::Setup,
    source::Script,
    test::Test,
};

pub(crate) use self::given::Typing;

/// The first of a plan's errors.
fn first(errors: Vec<Error>) -> Error {
    errors.into_iter().next().unwrap_or_else(|| Error::new(ErrorKind::Bug, "a plan failed without a reason"))
}
