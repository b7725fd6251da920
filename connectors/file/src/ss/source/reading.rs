//! What a source reads, and what a turn of reading comes to.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use millstream_codec::MessageCodec;
use millstream_core::{Read, Result, ShardKey};

use super::mark::Mark;
use crate::{
    glob::Pattern,
    ss::{series::Name, view::Opened},
};

/// How a source reads.
#[derive(Debug)]
pub(super) struct Reading {
    /// A file, or those of a series.
    pub(super) pattern: Pattern,
    /// The path as written: it names the position.
    pub(super) name: String,
    /// All, if none are named.
    pub(super) streams: Option<Vec<String>>,
    pub(super) follow: bool,
    pub(super) value: MessageCodec,
    /// Values are looked at whether they are what they should be.
    pub(super) checks: bool,
}

impl Reading {
    /// The path of the one file, if it is one.
    pub(super) fn path(&self) -> &Path {
        Path::new(&self.name)
    }

    /// Whether a stream is asked for.
    pub(super) fn has(&self, stream: &str) -> bool {
        self.streams.as_ref().is_none_or(|streams| streams.iter().any(|name| name == stream))
    }
}

/// What the source says next, and where it then stands.
pub(super) struct Item {
    pub(super) added: Vec<ShardKey>,
    pub(super) read: Option<Read>,
    pub(super) mark: Mark,
}

/// What to do behind a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// There is more.
    More,
    /// Wait until something changes.
    Wait,
    /// All is read.
    End,
}

/// What a turn of reading came to.
pub(super) struct Turn {
    pub(super) items: Vec<Item>,
    pub(super) then: Result<Then>,
    /// Where the file ends, as far as it may be read.
    pub(super) end: u64,
    /// Bytes of later files.
    pub(super) later: u64,
    /// Folders to watch, if they were looked at.
    pub(super) folders: BTreeSet<PathBuf>,
    pub(super) opened: Option<Arc<Opened>>,
    pub(super) damaged: u64,
}

/// Where reading stops for good, if it does not go on with what comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Until {
    /// The last file.
    pub(super) file: Name,
    /// How far in it; to its end, whatever that will be, if it is not said.
    pub(super) offset: Option<u64>,
}
