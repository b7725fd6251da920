//! The thread that writes. Writing to a pipe blocks when its reader is slow; here that holds up nobody else.
//!
//! What has been queued while a write was going on is written in one piece with the next, so that there is a system
//! call for a block, not for a record; a lone record is written at once, because nothing is waited for.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use millstream_core::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};

/// Buffers that may wait for the writer. Each is what one batch became, about 1 MiB at most.
const BUFFERS_MAX: usize = 8;

/// Waiting buffers are joined up to this size: copying more costs more than the system calls that it saves.
const JOIN_BYTES: usize = 64 << 10;

/// Capacity above which a buffer is not used again: what a batch becomes as a rule, with room to spare.
const SPARE_BYTES_MAX: usize = 2 << 20;

/// The writing thread's handle; it ends when the last one is dropped, and everything is written.
#[derive(Debug)]
pub(crate) struct Output {
    jobs: mpsc::Sender<Job>,
    broken: Arc<Broken>,
    spare: Arc<Spare>,
}

/// Buffers that were written, to be used again. Memory that is new each time costs more than filling it.
#[derive(Debug, Default)]
struct Spare(Mutex<Vec<Vec<u8>>>);

impl Spare {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn keep(&self, mut buffer: Vec<u8>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < BUFFERS_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            all.push(buffer);
        }
    }
}

#[derive(Debug)]
enum Job {
    Write(Vec<u8>),
    Flush(oneshot::Sender<()>),
}

/// Why nothing more is written.
#[derive(Debug, Default)]
struct Broken {
    set: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Broken {
    fn get(&self) -> Option<Error> {
        if !self.set.load(Ordering::Acquire) {
            return None;
        }
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, error: Option<Error>) {
        let mut slot = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        self.set.store(error.is_some(), Ordering::Release);
        *slot = error;
    }
}

impl Output {
    /// Starts the thread.
    pub(crate) fn start(writer: Box<dyn io::Write + Send>) -> Result<Self> {
        let (jobs, queue) = mpsc::channel(BUFFERS_MAX);
        let broken = Arc::new(Broken::default());
        let spare = Arc::new(Spare::default());
        let (seen, written) = (broken.clone(), spare.clone());
        let thread = std::thread::Builder::new().name("millstream-out".to_owned());
        thread
            .spawn(move || write_all(writer, queue, &seen, &written))
            .map_err(|error| Error::io("cannot start the thread that writes", error))?;
        Ok(Output { jobs, broken, spare })
    }

    /// Tries again after an error, unless the reader has gone away.
    pub(crate) fn open(&self) -> Result<()> {
        match self.broken.get() {
            Some(error) if error.kind() == ErrorKind::Closed => Err(error),
            _ => {
                self.broken.set(None);
                Ok(())
            }
        }
    }

    /// An empty buffer for [`Output::write`].
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.spare.take()
    }

    /// Queues bytes; waits for room.
    pub(crate) async fn write(&self, bytes: Vec<u8>) -> Result<()> {
        if let Some(error) = self.broken.get() {
            return Err(error);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.jobs.send(Job::Write(bytes)).await.map_err(|_| gone())
    }

    /// Waits until everything queued is written, and says whether it was.
    pub(crate) async fn flush(&self) -> Result<()> {
        let (done, written) = oneshot::channel();
        self.jobs.send(Job::Flush(done)).await.map_err(|_| gone())?;
        written.await.map_err(|_| gone())?;
        match self.broken.get() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Bug, "the thread that writes is gone")
}

fn write_all(mut writer: Box<dyn io::Write + Send>, mut queue: mpsc::Receiver<Job>, broken: &Broken, spare: &Spare) {
    let mut next = None;
    while let Some(job) = next.take().or_else(|| queue.blocking_recv()) {
        match job {
            Job::Flush(done) => {
                let _ = done.send(()); // Whoever asked may have given up.
            }
            Job::Write(mut bytes) => {
                while bytes.len() < JOIN_BYTES && next.is_none() {
                    match queue.try_recv() {
                        Ok(Job::Write(more)) if bytes.len() + more.len() <= JOIN_BYTES => {
                            bytes.extend_from_slice(&more);
                            spare.keep(more);
                        }
                        Ok(other) => next = Some(other),
                        Err(_) => break,
                    }
                }
                if broken.set.load(Ordering::Acquire) {
                    continue; // Thrown away: the batches are given again, or their reader has gone.
                }
                if let Err(error) = writer.write_all(&bytes).and_then(|()| writer.flush()) {
                    broken.set(Some(failed(error)));
                }
                spare.keep(bytes);
            }
        }
    }
}

fn failed(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::new(ErrorKind::Closed, "the reader of the output has gone away").caused_by(error);
    }
    Error::io("cannot write the output", error)
}
