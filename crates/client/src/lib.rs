//! Read and write a stream without a pipeline: [`Streamer`], [`Consumer`], [`Producer`].
//!
//! The same code runs on every system; a URL chooses one at run time, a [`Backend`] at compile time. It works from any
//! async executor: what goes on in the background runs on one thread that the streamer starts and ends, or on a runtime of
//! tokio that it is given ([`Streamer::on_runtime`]).
//!
//! ```no_run
//! use millstream_client::{ConsumerOptions, ProducerOptions, Streamer};
//! use millstream_core::{Registry, Result};
//!
//! async fn shout(from: &Streamer, to: &Streamer) -> Result<()> {
//!     let mut consumer = from.create_consumer(&["words"], ConsumerOptions::resumable("shout"))?;
//!     let producer = to.create_producer("shouts", ProducerOptions::default())?;
//!     while let Some(record) = consumer.next().await? {
//!         let value = record.value.unwrap_or_default();
//!         let receipt = producer.send(value.to_ascii_uppercase()).await?;
//!         println!("written as {:?}", receipt.await?.sequence);
//!     }
//!     producer.end().await?;
//!     consumer.close().await
//! }
//!
//! # fn example(registry: Registry) -> Result<()> {
//! let words = Streamer::connect("file:///data/words.ss", registry.clone())?;
//! let shouts = Streamer::connect("redis://localhost", registry)?;
//! futures::executor::block_on(shout(&words, &shouts))
//! # }
//! ```
//!
//! # What is promised
//!
//! - Futures may be dropped at any time: nothing is lost, nothing comes twice.
//! - [`rewind`](Consumer::rewind) and [`seek`](Consumer::seek) are inclusive. One that fails changes nothing; after one that does not, no
//!   record that was read before is handed out.
//! - Every buffer is bounded in records and bytes, by an option that says why its default is what it is.
//! - A [`Receipt`] resolves when its record is durable, never when it is only accepted.
//! - Errors that can pass are waited out, and [`Consumer::state`] and [`Producer::state`] say so meanwhile.

mod backend;
mod consumer;
mod engine;
mod options;
mod positions;
mod producer;
mod retry;
mod streamer;

pub use backend::ByUrl;
pub use consumer::{Consumer, ConsumerState, RecordStream};
pub use millstream_core::{Backend, Partitioner};
pub use options::{Ack, ConsumerOptions, Durability, Mode, ProducerOptions, ShardBy};
pub use positions::{PositionFiles, Positions, Saved};
pub use producer::{Delivered, IntoBytes, IntoRecord, Producer, ProducerState, Receipt};
pub use retry::{Retry, Retrying};
pub use streamer::Streamer;
