//! One buffer as its writer, its reader and those who watch it share it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use millstream_core::{Error, ErrorKind, Form, Result, Timestamp};
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    disk::Disk,
    format::{Id, Mark},
    options::BufferSpec,
};

/// A buffer on disk: hands out its writing end as a sink plan and its reading end as a source plan, and tells its figures.
/// Cheap to clone; nothing is touched before one of the ends is opened.
///
/// One process at a time has it, from the first `open` until [`Buffer::release`] or the last clone is dropped.
#[derive(Clone)]
pub struct Buffer(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) spec: BufferSpec,
    pub(crate) form: Form,
    pub(crate) bounded: bool,
    /// Raised by each `open` of the writing end, under the lock of `disk`: what an earlier one left in the background has no
    /// effect any more.
    pub(crate) opened: AtomicU64,
    /// Used on threads that may block, never across an await.
    disk: Mutex<Option<Disk>>,
    /// How things stand, for everybody who waits.
    pub(crate) view: watch::Sender<View>,
}

/// How a buffer stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct View {
    /// Offset behind everything that was accepted.
    pub(crate) end: u64,
    /// Blocks count up to here.
    pub(crate) published: Mark,
    /// The reader has handed out what is before.
    pub(crate) handed: Mark,
    /// The reader's epochs have delivered what is before.
    pub(crate) delivered: Mark,
    /// Where the oldest segment starts.
    pub(crate) floor: Mark,
    /// Records dropped unread to make room.
    pub(crate) dropped: u64,
    /// When the oldest block that is not delivered was written.
    pub(crate) oldest_at: Option<Timestamp>,
    /// The writer has been waiting for room since then.
    pub(crate) waiting_since: Option<Timestamp>,
    /// Nothing will come any more.
    pub(crate) finished: bool,
}

impl View {
    /// Offset behind which nothing is kept: what counts as used lies between it and the end.
    fn oldest(&self) -> u64 {
        self.delivered.offset.max(self.floor.offset)
    }

    /// Whether nothing that counts waits for its delivery.
    pub(crate) fn is_delivered(&self) -> bool {
        self.oldest() >= self.published.offset
    }
}

/// Figures of a buffer at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BufferFigures {
    /// Bytes that are not delivered, of the log's blocks.
    pub bytes: u64,
    /// Bytes on the disk: also what is delivered and not deleted yet.
    pub disk_bytes: u64,
    /// Bytes that it may hold.
    pub disk_bytes_max: u64,
    /// Records that count for the pipeline and are not delivered.
    pub records: u64,
    /// How long the oldest of them has been waiting.
    pub oldest_age: Option<Duration>,
    /// Records dropped unread to make room (`drop_oldest`), or lost to damage that was cut out, since the buffer was made.
    pub dropped: u64,
    /// How long the pipeline has been waiting for room.
    pub waiting: Option<Duration>,
}

impl Buffer {
    /// The buffer of the sink `name` in `folder`. `form`: what the values are; `bounded`: the pipeline ends by itself.
    pub fn new(
        name: impl Into<String>,
        folder: impl Into<PathBuf>,
        spec: BufferSpec,
        form: Form,
        bounded: bool,
    ) -> Self {
        Buffer(Arc::new(Inner {
            name: name.into(),
            folder: folder.into(),
            spec,
            form,
            bounded,
            opened: AtomicU64::new(0),
            disk: Mutex::new(None),
            view: watch::Sender::new(View::default()),
        }))
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Figures at this moment; all zero before it is opened.
    pub fn figures(&self) -> BufferFigures {
        let view = *self.0.view.borrow();
        let age = |since: Timestamp| Duration::from_nanos(u64::try_from(Timestamp::now().0 - since.0).unwrap_or(0));
        let oldest = view.delivered.records.max(view.floor.records);
        BufferFigures {
            bytes: view.end.saturating_sub(view.oldest()),
            disk_bytes: view.end.saturating_sub(view.floor.offset),
            disk_bytes_max: self.0.spec.disk.0,
            records: view.published.records.saturating_sub(oldest),
            oldest_age: view.oldest_at.filter(|_| !view.is_delivered()).map(age),
            dropped: view.dropped,
            waiting: view.waiting_since.map(age),
        }
    }

    /// Nothing will be written any more: the reading end ends when all is delivered.
    pub fn finish(&self) {
        self.0.view.send_modify(|view| view.finished = true);
    }

    /// Waits until the reading end has handed out everything that counts. Cancel-safe.
    pub async fn handed_out(&self) {
        let mut view = self.0.view.subscribe();
        // The sender lives as long as we do.
        let _ = view.wait_for(|view| view.handed.offset >= view.published.offset).await;
    }

    /// Lets go of the folder: another process may have it. Both ends must be closed. Blocks for an instant.
    pub fn release(&self) {
        *self.0.lock() = None;
    }
}

/// Shows where it lies.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("name", &self.0.name).field("folder", &self.0.folder).finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Disk>> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works with the log, which is opened if it is not. Blocks.
    pub(crate) fn with_disk<T>(&self, work: impl FnOnce(&mut Disk) -> Result<T>) -> Result<T> {
        let mut guard = self.lock();
        let disk = match &mut *guard {
            Some(disk) => disk,
            None => {
                let disk = Disk::open(&self.folder)?;
                let oldest_at = disk.written_at(disk.delivered.offset.max(disk.floor().offset));
                self.view.send_modify(|view| {
                    (view.published, view.delivered, view.floor) = (disk.published, disk.delivered, disk.floor());
                    (view.end, view.handed) = (disk.end(), disk.delivered.max(disk.floor()));
                    (view.dropped, view.oldest_at) = (disk.dropped, oldest_at);
                });
                guard.insert(disk)
            }
        };
        work(disk)
    }

    /// The same on a thread where blocking is allowed. When the caller goes away, the work is still done.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Inner, &mut Disk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.clone();
        let done = tokio::task::spawn_blocking(move || inner.with_disk(|disk| work(&inner, disk))).await;
        done.unwrap_or_else(|_| Err(Error::new(ErrorKind::Bug, "cannot use the buffer: its thread was stopped")))
    }

    /// Checks that a saved identity is that of this log.
    pub(crate) fn same(&self, saved: &str, id: Id) -> Result<()> {
        if saved == id.to_string() {
            return Ok(());
        }
        Err(crate::disk::mismatch(&self.folder, "it is another buffer than the checkpoint's"))
    }
}
