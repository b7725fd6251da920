//! Bytes to records and back: one file per codec, and compression.
//!
//! | what | for |
//! |---|---|
//! | [`CodecOptions`] | the option `codec` of sources and sinks; [`CodecOptions::plan`] gives the [`Codec`](millstream_core::Codec) |
//! | [`CodecOptions::message`] | the same for systems whose records are single values: Redis, Kafka |
//! | [`Compression`], [`Decompressor`], [`Compressor`] | gzip and zstd, pushed block by block |
//! | [`log`] | the stdio line protocol: `[time | stream | sequence | shard] payload` |
//! | [`mod@print`] | records for people and pipes: `--format log`, `ndjson`, `raw` |
//! | [`ss`] | SeaStreamer's file format |
//!
//! # Calling a decoder
//!
//! After each [`decode`](millstream_core::Decoder::decode) take the frames before the next call, with the part of the block that is done:
//!
//! ```
//! use bytes::Bytes;
//! use millstream_core::Frames;
//! # fn main() -> millstream_core::Result<()> {
//! let codec = millstream_codec::by_name("lines")?;
//! let (mut decoder, mut frames) = (codec.decoder(), Frames::default());
//! let mut block = Bytes::from_static(b"one\ntwo\nthr");
//! loop {
//!     let done = decoder.decode(&block, false, &mut frames);
//!     if done == 0 && frames.is_empty() {
//!         break; // `block` is the beginning of a record: put what comes next behind it, and try again.
//!     }
//!     let (body, failed) = frames.take(&block.slice(..done), codec.form());
//!     assert_eq!((body.len(), failed.len()), (2, 0));
//!     block = block.slice(done..);
//! }
//! assert_eq!(&block[..], b"thr");
//! # Ok(()) }
//! ```

pub mod base64;
mod compression;
mod csv;
mod json;
mod line;
mod lines;
mod message;
mod ndjson;
mod options;
mod whole;

pub mod log;
pub mod print;
pub mod ss;

pub use compression::{Compression, Compressor, Decompressor, Fed};
pub use csv::CsvOptions;
pub use line::{RECORD_BYTES_MAX, TOO_LARGE_BYTES_KEPT};
pub use lines::{Invalid, LinesOptions, Newline};
pub use message::MessageCodec;
pub use ndjson::NdjsonOptions;
pub use options::{CodecOptions, by_name, default_for_path};
pub use whole::{BytesOptions, JsonOptions, TextOptions};
