//! The control socket: how `millstream top`, `status`, `tap` and `state` ask a running process.
//!
//! A process that runs pipelines of a state directory listens at `<state-dir>/.control/<pid>.sock`, a Unix socket of mode
//! 0600 in a folder of mode 0700; it also refuses whoever is another user and not root. Both are gone when the process
//! ends; what a `kill -9` leaves is swept by the next one.
//!
//! Requests and answers are lines of JSON. A connection is used for any number of requests, one after the other:
//!
//! ```text
//! -> {"v":1,"id":1,"ask":"status"}
//! <- {"v":1,"id":1,"ok":{"pid":4711,"version":"0.1.0","pipelines":[...]}}
//! -> {"v":1,"id":2,"ask":"drain","pipeline":"orders","deadline_seconds":30}
//! <- {"v":1,"id":2,"ok":null}
//! -> {"v":1,"id":3,"ask":"state","pipeline":"orderz"}
//! <- {"v":1,"id":3,"error":{"code":"E_NOT_FOUND","message":"...","hint":"did you mean `orders`?"}}
//! ```
//!
//! A `tap` has more than one answer before its `ok`:
//!
//! ```text
//! -> {"v":1,"id":4,"ask":"tap","pipeline":"orders","point":"charge.in","where":".total > 100","rate":100,"count":1}
//! <- {"v":1,"id":4,"left_out":{"records":0,"failed":0,"failure":null}}       it is open
//! <- {"v":1,"id":4,"left_out":{"records":12000,"failed":0,"failure":null}}   since it was opened
//! <- {"v":1,"id":4,"record":{"stream":"orders","shard":0,"sequence":7,...,"value":"..."}}
//! <- {"v":1,"id":4,"ok":null}
//! ```
//!
//! An `error` about a text that was sent, such as the expression of `where`, has a `span` in it: `[first byte, byte behind
//! the last]`.
//!
//! `v` is the version of the protocol, `id` any number, which the answer repeats. `pipeline` may be left out where the
//! process runs only one. What can be asked is [`Ask`]. A request is at most [`REQUEST_BYTES_MAX`] long, an answer
//! [`ANSWER_BYTES_MAX`]; a longer request ends the connection.

mod client;
mod protocol;
mod server;
mod socket;
mod tapping;

pub use client::{Client, Sight};
pub use protocol::{ANSWER_BYTES_MAX, Ask, LeftOut, REQUEST_BYTES_MAX, VERSION};
pub use socket::{ControlSocket, Process, processes};
