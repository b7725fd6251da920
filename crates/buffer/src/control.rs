//! The file `control`: who the buffer is, how far blocks count, how far they are delivered. Everything here blocks.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use millstream_core::{Error, ErrorKind, Result};

use crate::{
    format::{CONTROL_MAGIC, Id, Mark, VERSION, check_head, read_slot, slot},
    segment::sync_folder,
};

const FILE: &str = "control";
const SECTOR_BYTES: usize = 512;
const FILE_BYTES: usize = 5 * SECTOR_BYTES;
/// A runner that was dropped inside this process may still be in its last write.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Who writes a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Writer = 0,
    Reader = 1,
}

/// The control file, locked.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) id: Id,
    path: PathBuf,
    file: File,
    generations: [u64; 2],
}

/// What the control file says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) id: Id,
    /// Blocks count up to here.
    pub(crate) published: Mark,
    /// They are delivered up to here.
    pub(crate) delivered: Mark,
    /// Records dropped unread.
    pub(crate) dropped: u64,
    generations: [u64; 2],
}

impl Control {
    /// Opens the control file of the buffer in `folder`, or makes one, and takes the lock.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Told)> {
        let path = folder.join(FILE);
        if !path.exists() {
            create(folder, &path)?;
        }
        let cannot = |error| Error::io(format!("cannot open {}", path.display()), error);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(cannot)?;
        lock(&file, folder)?;
        let told = read(&file, &path)?;
        Ok((Control { id: told.id, path, file, generations: told.generations }, told))
    }

    /// Blocks count up to `published`, durably.
    pub(crate) fn publish(&mut self, published: Mark) -> Result<()> {
        self.write(Side::Writer, published, 0)?;
        self.file.sync_data().map_err(|error| Error::io(format!("cannot sync {}", self.path.display()), error))
    }

    /// Blocks are delivered up to `delivered`. Not durable by itself: the reader's checkpoint is the truth.
    pub(crate) fn deliver(&mut self, delivered: Mark, dropped: u64) -> Result<()> {
        self.write(Side::Reader, delivered, dropped)
    }

    fn write(&mut self, side: Side, mark: Mark, dropped: u64) -> Result<()> {
        let generation = self.generations[side as usize] + 1;
        let at = place(side, generation);
        let bytes = slot(self.id, generation, mark, dropped);
        let written = self.file.write_all_at(&bytes, at as u64);
        written.map_err(|error| Error::io(format!("cannot write {}", self.path.display()), error))?;
        self.generations[side as usize] = generation;
        Ok(())
    }
}

/// What the control file of the buffer in `folder` says; `None` if there is none. Takes no lock.
pub(crate) fn look(folder: &Path) -> Result<Option<Told>> {
    let path = folder.join(FILE);
    match File::open(&path) {
        Ok(file) => read(&file, &path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("cannot open {}", path.display()), error)),
    }
}

fn place(side: Side, generation: u64) -> usize {
    SECTOR_BYTES * (1 + 2 * side as usize + usize::from(generation % 2 == 1))
}

fn create(folder: &Path, path: &Path) -> Result<()> {
    let new = folder.join("control.new");
    let mut bytes = vec![0; FILE_BYTES];
    bytes[..8].copy_from_slice(&CONTROL_MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let id = Id::random();
    bytes[16..32].copy_from_slice(&id.0);
    let check = xxhash_rust::xxh3::xxh3_64(&bytes[..32]);
    bytes[32..40].copy_from_slice(&check.to_le_bytes());
    for side in [Side::Writer, Side::Reader] {
        let at = place(side, 0);
        bytes[at..at + 40].copy_from_slice(&slot(id, 0, Mark::default(), 0));
    }
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()
    });
    written
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| Error::io(format!("cannot create {}", path.display()), error))?;
    sync_folder(folder)
}

fn read(file: &File, path: &Path) -> Result<Told> {
    let mut bytes = [0; FILE_BYTES];
    let damaged = |error: Error| {
        error
            .context(format!("cannot read {}", path.display()))
            .hint("restore the file from a backup; what the buffer holds cannot be told from what was cut without it")
    };
    file.read_exact_at(&mut bytes, 0)
        .map_err(|error| damaged(Error::io("it is cut short", error).with_kind(ErrorKind::Corrupt)))?;
    check_head(&bytes, CONTROL_MAGIC, 32).map_err(damaged)?;
    let mut id = Id([0; 16]);
    id.0.copy_from_slice(&bytes[16..32]);
    let newest = |side: Side| {
        let slots = [0, 1].into_iter().filter_map(|generation| {
            let at = place(side, generation);
            read_slot(id, bytes[at..at + 40].try_into().ok()?)
        });
        slots.max_by_key(|(generation, ..)| *generation)
    };
    let lost = || damaged(Error::new(ErrorKind::Corrupt, "both copies of a mark are damaged"));
    let (writer, published, _) = newest(Side::Writer).ok_or_else(lost)?;
    // The reader's checkpoint knows better anyway.
    let (reader, delivered, dropped) = newest(Side::Reader).unwrap_or_default();
    Ok(Told { id, published, delivered, dropped, generations: [writer, reader] })
}

fn lock(file: &File, folder: &Path) -> Result<()> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                let message = format!("cannot lock the buffer {}: somebody else runs it", folder.display());
                return Err(
                    Error::new(ErrorKind::Locked, message).hint("stop the other one, or use another state directory")
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(Error::io(format!("cannot lock the buffer {}", folder.display()), error));
            }
        }
    }
}
