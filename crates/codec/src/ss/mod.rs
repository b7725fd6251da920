//! The `.ss` stream file: many streams in one file that can be searched, followed and repaired.
//!
//! ```
//! use millstream_codec::ss::{Asked, Block, Header, SsReader, SsWriter, Step, find_end, seek_sequence};
//!
//! # fn main() -> millstream_core::Result<()> {
//! // Write. `file` stands for what the caller writes to disk, in pieces as large as it likes.
//! let mut file = Vec::new();
//! let header = Header::new("clicks.ss", 1_700_000_000_000, 1024 * 1024)?;
//! let mut writer = SsWriter::new(&header, &mut file);
//! let clicks = writer.stream("clicks", 0)?;
//! assert_eq!(writer.append_to(clicks, 1_700_000_000_001, b"one", &mut file)?, 1);
//! assert_eq!(writer.append_to(clicks, 1_700_000_000_002, b"two", &mut file)?, 2);
//!
//! // Go on after a restart, or after a crash: truncate to `end.offset` and resume.
//! let end = find_end(&file[..])?;
//! file.truncate(end.offset as usize);
//! let mut writer = SsWriter::resume(&end, &mut file)?;
//! assert_eq!(writer.append("clicks", 0, None, 1_700_000_000_003, b"three", &mut file)?, 3);
//! writer.end(1_700_000_000_004, &mut file)?;
//!
//! // Find sequence 2 and read from there to the end. Nothing is copied: payloads are slices of the block.
//! let found = seek_sequence(&file[..], Asked::Keys(&["clicks"]), 2)?.map_or(0, |position| position.offset);
//! let mut reader = SsReader::at(&header, found);
//! let block = Block { bytes: &file, offset: 0, last: true };
//! let mut payloads = Vec::new();
//! loop {
//!     match reader.next(block) {
//!         Step::Message(message) => payloads.push(reader.payload(block, message.payload).to_owned()),
//!         Step::EndOfStream { .. } | Step::FileEnd | Step::Torn { .. } => break,
//!         Step::NeedMore { .. } => unreachable!("the block is the last"),
//!         Step::Damaged { offset, damage } => return Err(damage.error(offset)),
//!     }
//! }
//! assert_eq!(payloads, [&b"two"[..], b"three"]);
//! # Ok(())
//! # }
//! ```
//!
//! # The format
//!
//! Integers are big endian; `0D` is a soft line end, so that a file of text can be looked at in an editor.
//!
//! ```text
//!            0                   interval              2 x interval
//!            |                       |                       |
//!            v                       v                       v
//!    file    +--------+---------+----+--------+----+---------+--------+-----+-----
//!            | header | message | me | beacon | ss | message | beacon | ... | ...
//!            +--------+---------+----+--------+----+---------+--------+-----+-----
//!                               `---- one message, cut ----'
//!
//!            2 B    1 B       1 B    n B         8 B          4 B               1 B
//!    header  +------+---------+------+-----------+------------+----------+-...-+----+
//!    128 B   | S s  | 01      | n    | file name | created at | interval | 0 0 | 0D |
//!            +------+---------+------+-----------+------------+----------+-...-+----+
//!
//!            1 B    n B          8 B     8 B        8 B    4 B    size B    2 B        1 B
//!    message +------+------------+-------+----------+------+------+---------+----------+----+
//!            | n    | stream key | shard | sequence | time | size | payload | checksum | 0D |
//!            +------+------------+-------+----------+------+------+---------+----------+----+
//!            `------------- message header ----------------'
//!
//!            1 B  4 B         1 B     each: message header, 2 B              1 B
//!    beacon  +----+-----------+-------+--------------------------------------+----+
//!            | 0D | remaining | count | item: newest message, running sum    | 0D |
//!            +----+-----------+-------+--------------------------------------+----+
//! ```
//!
//! - A **message** ends with the [`crc`] of its payload.
//! - A **beacon** lies at every multiple of the interval, in the middle of a message where one is there. `remaining`
//!   says how many bytes of it follow, so reading can begin at any beacon. Its items tell how far each stream had come,
//!   the message being cut included. Where more streams are than [`beacon_items_max`], they take turns.
//! - The **end of stream** is a message with the key [`CONTROL_KEY`] and the payload [`END_OF_STREAM`]. Opening to append
//!   removes it.
//!
//! # The parts
//!
//! [`SsWriter`] and [`SsReader`] are state machines over bytes and do no I/O. [`find_end`], [`seek_sequence`],
//! [`seek_time`], [`verify`] and [`repair`] read at any place through [`ReadAt`]. None of them panics on any bytes, and
//! none trusts a size before a beacon has confirmed it.

mod beacon;
pub mod crc;
mod cut;
mod damage;
mod end;
mod header;
mod message;
mod reader;
mod seek;
mod state;
mod streams;
mod verify;
mod walk;
mod writer;

pub use self::{
    beacon::{BEACON_BYTES_MIN, Beacon, BeaconItem, Decoded, beacon_items_max},
    damage::Damage,
    end::{End, StreamEnd, Tail, find_end},
    header::{
        BEACON_INTERVAL_DEFAULT, BEACON_INTERVAL_MIN, BEACON_INTERVAL_STEP, FILE_NAME_BYTES_MAX, HEADER_BYTES, Header,
    },
    message::{CONTROL_KEY, END_OF_STREAM, LINE_END, PAYLOAD_BYTES_MAX, STREAM_KEY_BYTES_MAX, message_bytes},
    reader::{Block, Message, Payload, SsReader, Step},
    seek::{Asked, Position, seek_sequence, seek_time},
    streams::StreamId,
    verify::{PLACES_MAX, Place, Report, StreamReport, repair, verify},
    walk::{ReadAt, read_header},
    writer::{SsWriter, StreamHandle},
};
