//! Reading blocks of a log that is being written, or that lies still.

use std::{fs::File, os::unix::fs::FileExt as _, sync::Arc};

use bytes::{Bytes, BytesMut};
use millstream_core::{Error, Result};

use crate::segment::Segment;

/// How much is read at once, unless one block is longer.
pub(crate) const READ_BYTES: usize = 1 << 20;

/// A segment that is open for reading. It can be read on when it has been deleted.
#[derive(Clone, Debug)]
pub(crate) struct OpenSegment {
    pub(crate) segment: Segment,
    file: Arc<File>,
}

impl OpenSegment {
    pub(crate) fn open(segment: Segment) -> Result<Self> {
        let file = segment.open().map_err(|error| cannot(&segment, error))?;
        Ok(OpenSegment { segment, file: Arc::new(file) })
    }

    /// Up to `most` bytes of the log from `offset` on; fewer at the segment's end, none behind it. Blocks.
    pub(crate) fn read(&self, offset: u64, most: usize) -> Result<Bytes> {
        let mut bytes = BytesMut::zeroed(most);
        let mut filled = 0;
        while filled < most {
            let place = self.segment.place(offset) + filled as u64;
            match self.file.read_at(&mut bytes[filled..], place) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cannot(&self.segment, error)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes.freeze())
    }
}

fn cannot(segment: &Segment, error: std::io::Error) -> Error {
    Error::io(format!("cannot read {}", segment.path.display()), error)
}
