//! Blocks of a file, read into memory that is used again when the batches before have gone.

use std::{collections::VecDeque, fs::File, io};

use bytes::Bytes;
use rustix::{buffer::spare_capacity, io::Errno};

/// Bytes read at once: some thousand small records, and it fits a second-level cache.
pub(super) const BLOCK_BYTES: usize = 256 << 10;
/// Room behind a block for the values that beacons cut.
const ROOM_BYTES: usize = 16 << 10;
/// Blocks remembered, to be used again: about what a pipeline has on its way, and 2 MiB at most.
const REMEMBERED: usize = 4;

/// Blocks that were handed out.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    given: VecDeque<Bytes>,
}

impl Blocks {
    /// Reads `want` bytes from `offset`; fewer only where the file ends.
    pub(super) fn read(&mut self, file: &File, offset: u64, want: usize) -> io::Result<Vec<u8>> {
        let mut block = self.empty(want);
        while block.len() < want {
            let at = offset.saturating_add(block.len() as u64);
            match rustix::io::pread(file, spare_capacity(&mut block), at) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The room behind is not for the file.
        block.truncate(want);
        Ok(block)
    }

    /// Freezes a block that has been read and filled up.
    pub(super) fn freeze(&mut self, block: Vec<u8>) -> Bytes {
        let whole = block.capacity() == BLOCK_BYTES + ROOM_BYTES;
        let block = Bytes::from(block);
        if whole {
            if self.given.len() == REMEMBERED {
                self.given.pop_front();
            }
            self.given.push_back(block.clone());
        }
        block
    }

    fn empty(&mut self, want: usize) -> Vec<u8> {
        if want != BLOCK_BYTES {
            // Small ones would waste the rest, and large ones are rare.
            return Vec::with_capacity(want + ROOM_BYTES.min(want));
        }
        while let Some(oldest) = self.given.pop_front() {
            if !oldest.is_unique() {
                // Batches go in order, so the others are not free either.
                self.given.push_front(oldest);
                break;
            }
            if let Ok(free) = oldest.try_into_mut() {
                let mut block = Vec::from(free);
                block.clear();
                if block.capacity() == BLOCK_BYTES + ROOM_BYTES {
                    return block;
                }
            }
        }
        Vec::with_capacity(BLOCK_BYTES + ROOM_BYTES)
    }
}
