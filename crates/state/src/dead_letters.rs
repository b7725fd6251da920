//! The sink of records that failed for good: a log beside the checkpoints.
//!
//! Each entry's body is the value of one record that the sink was given: a [`DeadLetter`] as MessagePack with names. The
//! mark of the log (see `log/format.rs`) is the committed length: readers stop there, so nobody sees a letter of an epoch
//! that may never count. A run that starts anew keeps the letters of the runs before it; what lies behind the mark belongs
//! to nobody and is cut.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use millstream_core::{
    Batch, DeadLetter, Epoch, Error, ErrorKind, Last, Outcomes, Result, Sink, SinkCapabilities, Token, Way, WriteId,
};
use serde::{Deserialize, Serialize};

use crate::{
    files,
    id::Id,
    lock,
    log::{HEADER_BYTES, Log, Purpose, Scanned, Scanner, corrupt},
};

const FILE: &str = "dead-letters.log";
const LETTER: u8 = 1;

/// What [`DeadLetterLog`] can do.
pub const DEAD_LETTER_CAPABILITIES: SinkCapabilities = SinkCapabilities {
    way: Way::Truncating,
    per_record: true,
    sequences: false,
    // All that a letter keeps stands inside its value.
    keys: false,
    headers: false,
    tombstones: false,
    times: false,
    record_bytes_max: Some(u32::MAX as u64),
};

/// Writes dead letters to `<dir>/dead-letters.log`. The value of each record is a [`DeadLetter`] as MessagePack with names
/// ([`encode_dead_letter`]).
///
/// * **Way**: truncating. The token is the log's identity and length; `open` cuts to it, `prepare` syncs, `commit` publishes.
/// * **Nothing is made before the first letter**: a pipeline without dead letters has no file and no descriptor.
/// * **Errors**: a missing, replaced or shorter file than the token says is `StateMismatch`; damage is `Corrupt`; a full disk is
///   `Unavailable`, with none of the batch written; a second writer is `Locked`.
/// * **Cancel safety**: a call that is dropped goes on in the background and has its effect; call `open` again.
#[derive(Debug)]
pub struct DeadLetterLog {
    writer: Arc<Mutex<Writer>>,
    writes: WriteId,
    rejected: Vec<(WriteId, u32, Error)>,
}

/// What the checkpoint keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// Identity of the log.
    log: String,
    /// The length that counts, in bytes.
    length: u64,
}

#[derive(Debug)]
struct Writer {
    dir: PathBuf,
    log: Option<Log>,
    /// Length of the last sync.
    synced: u64,
}

impl DeadLetterLog {
    /// The dead letters of the pipeline in `dir`, its state directory `<state-dir>/<pipeline>`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let writer = Writer { dir: dir.into(), log: None, synced: 0 };
        DeadLetterLog { writer: Arc::new(Mutex::new(writer)), writes: 0, rejected: Vec::new() }
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Writer) -> Result<T> + Send + 'static) -> Result<T> {
        let gone = || Error::new(ErrorKind::Bug, "cannot use the dead letters: their thread was stopped");
        let writer = self.writer.clone();
        let work = move || work(&mut *writer.lock().map_err(|_| gone())?);
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(gone()))
    }
}

#[async_trait]
impl Sink for DeadLetterLog {
    async fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        self.rejected.clear();
        let mark: Option<Mark> = resume.last().map(|(_, token)| token.read()).transpose()?;
        self.run(move |writer| writer.open(mark)).await
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        let batch = batch.into_bytes();
        let id = self.writes;
        let missing = batch.iter().enumerate().filter(|(_, record)| record.value().is_none());
        let missing: Vec<u32> = missing.map(|(row, _)| row as u32).collect();
        self.run(move |writer| writer.write(&batch)).await?;
        self.writes += 1;
        self.rejected.extend(
            missing
                .into_iter()
                .map(|row| (id, row, Error::new(ErrorKind::Rejected, "cannot keep a dead letter that has no value"))),
        );
        Ok(id)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        Ok(Outcomes { rejected: std::mem::take(&mut self.rejected), ..Outcomes::default() })
    }

    async fn prepare(&mut self, _epoch: Epoch, _last: Last) -> Result<Option<Token>> {
        let mark = self.run(Writer::prepare).await?;
        mark.as_ref().map(Token::new).transpose()
    }

    async fn commit(&mut self, token: &Token) -> Result<()> {
        let mark: Mark = token.read()?;
        self.run(move |writer| writer.commit(&mark)).await
    }

    async fn close(&mut self) -> Result<()> {
        self.run(|writer| {
            writer.log = None;
            Ok(())
        })
        .await
    }
}

impl Writer {
    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Brings the log to the mark; without one, to what was committed before.
    fn open(&mut self, mark: Option<Mark>) -> Result<()> {
        self.log = None;
        let path = self.path();
        let Some(log) = Log::open(&path, Purpose::DeadLetters)? else {
            return match mark {
                Some(_) => Err(mismatch(&path, "is missing")),
                None => Ok(()),
            };
        };
        lock(&log)?;
        let length = match mark {
            // A damaged mark must not cost letters that count.
            None => log.mark().ok_or_else(|| corrupt(&path, HEADER_BYTES, "the committed length is damaged"))?,
            Some(mark) if mark.log != log.id().to_string() => {
                return Err(mismatch(&path, "has been replaced by another"));
            }
            Some(mark) => mark.length,
        };
        self.cut(log, length)
    }

    fn cut(&mut self, mut log: Log, length: u64) -> Result<()> {
        let path = self.path();
        if log.length() < length {
            return Err(mismatch(&path, &format!("has {} bytes, and {length} were committed", log.length())));
        }
        // The mark first: a reader must not run into the cut.
        log.publish(length)?;
        log.truncate(length)?;
        let cannot = |error| Error::io(format!("cannot read {}", path.display()), error);
        let mut scanner = Scanner::new(log.file().try_clone().map_err(cannot)?, &path, log.id(), length)?;
        loop {
            match scanner.next()? {
                Scanned::Entry(_) => {}
                Scanned::End => break,
                Scanned::Bad { offset, why } => return Err(corrupt(&path, offset, why)),
            }
        }
        log.sync()?;
        self.synced = length;
        self.log = Some(log);
        Ok(())
    }

    /// Appends all letters of the batch or none.
    fn write(&mut self, batch: &Batch) -> Result<()> {
        let log = match &mut self.log {
            Some(log) => log,
            None => {
                files::create_dir(&self.dir)?;
                let path = self.dir.join(FILE);
                if path.exists() {
                    return Err(Error::new(
                        ErrorKind::Bug,
                        format!("cannot write to {} before `open`", path.display()),
                    ));
                }
                let log = Log::create(&path, Purpose::DeadLetters, Id::random(), [])?;
                lock(&log)?;
                self.synced = log.length();
                self.log.insert(log)
            }
        };
        let before = log.length();
        for value in batch.iter().filter_map(|record| record.value()) {
            if let Err(error) = log.append(LETTER, value) {
                log.truncate(before)?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Syncs, and says what counts then. Without a file there is nothing to say: resuming from nothing is the same.
    fn prepare(&mut self) -> Result<Option<Mark>> {
        let Some(log) = &mut self.log else { return Ok(None) };
        if self.synced != log.length() {
            log.sync()?;
            self.synced = log.length();
        }
        Ok(Some(Mark { log: log.id().to_string(), length: log.length() }))
    }

    /// Publishes the length; durably, because a finished run has no later epoch that would say it again.
    fn commit(&mut self, mark: &Mark) -> Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        // An older token that comes again must not take anything back.
        let ours = mark.log == log.id().to_string() && mark.length <= log.length();
        if ours && log.mark().is_none_or(|committed| committed < mark.length) {
            log.publish(mark.length)?;
            log.sync()?;
            self.synced = log.length();
        }
        Ok(())
    }
}

fn lock(log: &Log) -> Result<()> {
    match lock::wait_for(log.file(), |_| lock::OWN_WAIT) {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(Error::new(ErrorKind::Locked, format!("cannot lock {}: another writer has it", log.path().display()))
                .hint("stop the other pipeline of this name"))
        }
        Err(error) => Err(Error::io(format!("cannot lock {}", log.path().display()), error)),
    }
}

fn mismatch(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::StateMismatch, format!("cannot resume: {} {what}", path.display()))
        .hint("restore the file as it was, or begin anew with `millstream state reset`")
}

/// The value of the record that carries a letter to [`DeadLetterLog`].
pub fn encode_dead_letter(letter: &DeadLetter) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(letter)
        .map_err(|error| Error::new(ErrorKind::Bug, "cannot write a dead letter").caused_by(error))
}

/// Up to `limit` committed dead letters of the pipeline in `dir`, from number `from` on; the first has number 1. Blocks.
///
/// Safe while a writer is running: what is not committed is not read. Without a file there are none.
pub fn read_dead_letters(dir: &Path, from: u64, limit: usize) -> Result<Vec<(u64, DeadLetter)>> {
    let path = dir.join(FILE);
    let committed = |header: &crate::log::Header, length: u64| header.mark.unwrap_or(HEADER_BYTES).min(length);
    let Some((mut scanner, header)) = Scanner::open(&path, Purpose::DeadLetters, committed)? else {
        return Ok(Vec::new());
    };
    if header.mark.is_none() {
        return Err(corrupt(&path, HEADER_BYTES, "the committed length is damaged"));
    }
    let mut letters = Vec::new();
    let mut number = 1;
    while number < from {
        if !scanner.skip()? {
            return Ok(letters);
        }
        number += 1;
    }
    while letters.len() < limit {
        let entry = match scanner.next()? {
            Scanned::Entry(entry) => entry,
            Scanned::End => break,
            // A recovering writer may have cut the file since; then what is gone did not count.
            Scanned::Bad { .. } if scanner.was_cut()? => break,
            Scanned::Bad { offset, why } => return Err(corrupt(&path, offset, why)),
        };
        let letter = rmp_serde::from_slice(&entry.body).map_err(|error| {
            corrupt(&path, entry.offset, &format!("letter {number} cannot be decoded")).caused_by(error)
        })?;
        letters.push((number, letter));
        number += 1;
    }
    Ok(letters)
}

#[cfg(test)]
mod tests;
