//! The log on the disk: what is appended, made durable, published, cut and deleted. Everything here blocks.

use std::{
    collections::VecDeque,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use millstream_core::{Error, ErrorKind, Result, Timestamp};

use crate::{
    control::{Control, Told},
    format::{BLOCK_HEADER_BYTES, BlockHeader, Id, Mark},
    segment::{Segment, list, sync_folder},
};

/// What is to be done with the log, in order.
#[derive(Debug)]
pub(crate) enum Op {
    /// Append these blocks.
    Blocks(Vec<u8>),
    /// Go on in another segment, which starts here.
    Segment(Mark),
}

/// The log, and the right to write it.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    control: Control,
    /// Never empty; the last one is written.
    segments: VecDeque<Segment>,
    /// The last segment's file.
    file: File,
    /// Not written yet; what could not be written stays.
    pub(crate) queue: VecDeque<Op>,
    /// Begun by a process that died before they had a header.
    stubs: Vec<PathBuf>,
    /// Closed and not synced.
    unsynced: Vec<File>,
    dirty: bool,
    names_dirty: bool,
    /// A sync has failed: what is on the disk is not known until the log is opened again.
    broken: Option<Error>,
    pub(crate) published: Mark,
    pub(crate) delivered: Mark,
    pub(crate) dropped: u64,
}

impl Disk {
    /// Opens the log in `folder`, or makes an empty one. What lies behind the published length stays until [`Disk::cut`].
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|error| Error::io(format!("cannot create {}", folder.display()), error))?;
        folder.parent().map_or(Ok(()), sync_folder)?;
        let (control, Told { id, published, delivered, dropped, .. }) = Control::open(folder)?;
        let (segments, mut stubs) = list(folder, id, published.offset)?;
        let mut segments: VecDeque<Segment> = segments.into();
        // What was deleted in order may be gone out of order after a power failure.
        while let Some(at) = (1..segments.len()).find(|&at| segments[at - 1].end() != segments[at].start.offset) {
            if segments[at - 1].end() > delivered.offset {
                let message = format!("{} does not go on where {} ends", show(&segments[at]), show(&segments[at - 1]));
                return Err(mismatch(folder, &message));
            }
            for gone in segments.drain(..at) {
                remove(&gone.path)?;
            }
        }
        let file = match segments.back() {
            Some(last) => fs::OpenOptions::new().read(true).write(true).open(&last.path),
            None if published.offset > 0 => return Err(mismatch(folder, "it has no segments")),
            None => {
                let (first, file) = Segment::create(folder, id, Mark::default())?;
                // It may be in the place of one that was only begun.
                stubs.retain(|stub| *stub != first.path);
                segments.push_back(first);
                Ok(file)
            }
        };
        let file = file.map_err(|error| Error::io(format!("cannot open {}", folder.display()), error))?;
        let mut disk = Disk {
            folder: folder.to_owned(),
            control,
            segments,
            file,
            queue: VecDeque::new(),
            stubs,
            unsynced: Vec::new(),
            dirty: true,
            names_dirty: true,
            broken: None,
            published,
            delivered,
            dropped,
        };
        if disk.end() < published.offset {
            let message = format!("it ends at {}, and {} bytes counted", disk.end(), published.offset);
            return Err(mismatch(folder, &message));
        }
        disk.delete_delivered()?;
        Ok(disk)
    }

    /// Brings the log to `mark`, or without one to what was published; what lies behind is cut.
    pub(crate) fn cut(&mut self, mark: Option<Mark>) -> Result<()> {
        let to = mark.unwrap_or(self.published);
        if to.offset > self.end() || to < self.published {
            let message = match to < self.published {
                true => format!("the checkpoint says {} bytes, and {} counted", to.offset, self.published.offset),
                false => format!("it ends at {}, and the checkpoint says {} bytes", self.end(), to.offset),
            };
            return Err(mismatch(&self.folder, &message));
        }
        self.queue.clear();
        self.unsynced.clear();
        self.stubs.drain(..).try_for_each(|stub| remove(&stub))?;
        while self.segments.len() > 1 && self.segments.back().is_some_and(|last| last.start.offset > to.offset) {
            self.segments.pop_back().map_or(Ok(()), |last| remove(&last.path))?;
        }
        let cannot = |error| Error::io(format!("cannot cut {}", self.folder.display()), error);
        let Some(last) = self.segments.back_mut() else { return Err(empty()) };
        let Some(length) = to.offset.checked_sub(last.start.offset) else {
            let message = format!("{} begins behind the {} bytes that count", show(last), to.offset);
            return Err(mismatch(&self.folder, &message));
        };
        last.length = length;
        self.file = fs::OpenOptions::new().read(true).write(true).open(&last.path).map_err(cannot)?;
        self.file.set_len(last.place(to.offset)).map_err(cannot)?;
        (self.dirty, self.names_dirty, self.broken) = (true, true, None);
        self.sync()?;
        self.publish(to)
    }

    /// Writes what is queued; what cannot be written stays queued, and the log is as it was before that.
    pub(crate) fn drain(&mut self) -> Result<()> {
        self.check()?;
        while let Some(op) = self.queue.front() {
            match op {
                Op::Blocks(blocks) => {
                    let Some(last) = self.segments.back_mut() else { return Err(empty()) };
                    let place = last.place(last.end());
                    if let Err(error) = self.file.write_all_at(blocks, place) {
                        let error = Error::io(format!("cannot append to {}", last.path.display()), error);
                        // What was written in part lies behind the end, and is written over.
                        let _ = self.file.set_len(place);
                        return Err(error);
                    }
                    last.length += blocks.len() as u64;
                    self.dirty = true;
                }
                Op::Segment(start) => {
                    let (next, file) = Segment::create(&self.folder, self.control.id, *start)?;
                    self.unsynced.push(std::mem::replace(&mut self.file, file));
                    self.segments.push_back(next);
                    (self.dirty, self.names_dirty) = (true, true);
                }
            }
            self.queue.pop_front();
        }
        Ok(())
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.check()?;
        let cannot = |error| Error::io(format!("cannot sync {}", self.folder.display()), error);
        let mut synced = self.unsynced.drain(..).try_for_each(|file| file.sync_data()).map_err(cannot);
        if synced.is_ok() && self.dirty {
            synced = self.file.sync_data().map_err(cannot);
        }
        if synced.is_ok() && self.names_dirty {
            synced = sync_folder(&self.folder);
        }
        if let Err(error) = synced {
            // The kernel reports a lost page once; a second sync would succeed without it.
            self.broken = Some(error.clone());
            return Err(error);
        }
        (self.dirty, self.names_dirty) = (false, false);
        Ok(())
    }

    /// Blocks count up to `to`: from now on they can be read. Never goes back.
    pub(crate) fn publish(&mut self, to: Mark) -> Result<()> {
        if to > self.published {
            self.control.publish(to)?;
            self.published = to;
        }
        Ok(())
    }

    /// Blocks are delivered up to `to`: segments before it are deleted. Says when the oldest block that is left was written.
    pub(crate) fn deliver(&mut self, to: Mark, dropped: u64) -> Result<Option<Timestamp>> {
        if to > self.delivered || dropped > self.dropped {
            (self.delivered, self.dropped) = (self.delivered.max(to), dropped.max(self.dropped));
            self.control.deliver(self.delivered, self.dropped)?;
            self.delete_delivered()?;
        }
        Ok(self.written_at(self.delivered.offset.max(self.floor().offset)))
    }

    /// When the block at an offset was written; `None` where none counts.
    pub(crate) fn written_at(&self, offset: u64) -> Option<Timestamp> {
        if offset >= self.published.offset {
            return None;
        }
        let segment = self.segments.iter().find(|segment| segment.end() > offset)?;
        let mut header = [0; BLOCK_HEADER_BYTES];
        segment.open().and_then(|file| file.read_exact_at(&mut header, segment.place(offset))).ok()?;
        BlockHeader::decode(&header).map(|header| Timestamp(header.written_at))
    }

    /// Deletes the oldest segments, delivered or not, until there is `room` within `most` bytes; those that are published and
    /// not written any more. Says whether there is room now.
    pub(crate) fn drop_oldest(&mut self, end: u64, room: u64, most: u64) -> Result<bool> {
        while end + room - self.floor().offset > most {
            let whole = self.segments.len() > 1 && self.segments[0].end() <= self.published.offset;
            let Some(oldest) = self.segments.front().filter(|_| whole) else { return Ok(false) };
            remove(&oldest.path)?;
            self.segments.pop_front();
        }
        Ok(true)
    }

    fn delete_delivered(&mut self) -> Result<()> {
        while self.segments.len() > 1 && self.segments[0].end() <= self.delivered.offset {
            remove(&self.segments[0].path)?;
            self.segments.pop_front();
        }
        Ok(())
    }

    /// Where the oldest segment starts.
    pub(crate) fn floor(&self) -> Mark {
        self.segments.front().map(|segment| segment.start).unwrap_or_default()
    }

    /// Offset behind everything that is written.
    pub(crate) fn end(&self) -> u64 {
        self.segments.back().map_or(0, Segment::end)
    }

    /// Where the segment that is written starts.
    pub(crate) fn newest(&self) -> Mark {
        self.segments.back().map(|segment| segment.start).unwrap_or_default()
    }

    /// The segment in which the block at `offset` lies, up to where blocks count: what lies behind may be cut, and written
    /// anew with other blocks, while a reader has the file open.
    pub(crate) fn find(&self, offset: u64) -> Option<Segment> {
        let segment = self.segments.iter().find(|segment| (segment.start.offset..segment.end()).contains(&offset))?;
        let counted = self.published.offset.saturating_sub(segment.start.offset);
        Some(Segment { length: segment.length.min(counted), ..segment.clone() })
    }

    pub(crate) fn id(&self) -> Id {
        self.control.id
    }

    fn check(&self) -> Result<()> {
        match &self.broken {
            Some(error) => Err(error.clone().context("a sync has failed; the buffer must be opened again")),
            None => Ok(()),
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot delete {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

fn show(segment: &Segment) -> String {
    segment.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn empty() -> Error {
    Error::new(ErrorKind::Bug, "a buffer has no segment")
}

pub(crate) fn mismatch(folder: &Path, what: &str) -> Error {
    Error::new(ErrorKind::StateMismatch, format!("cannot resume with the buffer {}: {what}", folder.display()))
        .hint("restore it as it was; or begin anew with `millstream state reset`, and delete it if its records are not needed")
}
