//! What can be wrong with stored bytes.

use std::fmt;

use millstream_core::{Error, ErrorKind};

/// What is wrong at some place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// The payload of a message is not what was written.
    Checksum {
        /// What the file says.
        stored: u16,
        /// What the payload gives.
        computed: u16,
    },
    /// A message does not end with a line end, so its size or its key length is wrong.
    LineEnd,
    /// The stream key of a message is not UTF-8.
    StreamKey,
    /// What is wrong with a beacon.
    Beacon(&'static str),
}

impl Damage {
    /// The error for this damage at `offset` of a file.
    pub fn error(self, offset: u64) -> Error {
        Error::new(ErrorKind::Corrupt, format!("cannot read the .ss file at offset {offset}: {self}"))
            .hint("`verify` lists every damaged place, `repair` writes a new file with all that is whole")
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Checksum { stored, computed } => {
                write!(f, "the checksum is {stored:04x} and the payload gives {computed:04x}")
            }
            Damage::LineEnd => f.write_str("no line end after a message"),
            Damage::StreamKey => f.write_str("a stream key is not UTF-8"),
            Damage::Beacon(what) => f.write_str(what),
        }
    }
}
