//! `exactly_once`: what is written lies staged until its epoch counts.
//!
//! ```text
//!   write ──► RPUSH {tag}:millstream:STORE:SINK:staged:OWNER:N     one list for each slot and epoch
//!
//!   two-phase   checkpoint names the lists ──► MOVE, one script for each slot: appends, deletes the list, sets the marker
//!   hosting     one script: checks, appends, acknowledges, writes the checkpoint       (one node, or one slot of a cluster)
//! ```

mod host;
mod names;
mod pack;
mod script;
mod two_phase;

pub(crate) use host::{Ack, Acks, RedisHost, Shared};
pub(crate) use names::{SinkKeys, Staging};
pub(crate) use pack::Packed;
pub(crate) use two_phase::{Part, Prepared, abort, commit, sweep};
