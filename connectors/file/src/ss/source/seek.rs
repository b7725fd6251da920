//! Where to begin, and where a seek leads. Everything here blocks.

use std::{path::Path, sync::Arc};

use millstream_codec::ss::{Asked, HEADER_BYTES, find_end, read_header, seek_sequence, seek_time};
use millstream_core::{Error, ErrorKind, Result, Resume, SeekTo, ShardKey};

use super::{
    mark::{Gate, Gates, Mark},
    scan::{Reading, Scanner},
};
use crate::{
    error::failed,
    glob::folder_of,
    published::Published,
    ss::view::{Opened, View, of, proof},
};

/// A source that has begun.
pub(super) struct Begun {
    pub(super) scanner: Scanner,
    pub(super) mark: Mark,
    pub(super) opened: Option<Arc<Opened>>,
    pub(super) shards: Vec<ShardKey>,
    /// Where reading stops for good.
    pub(super) until: Option<u64>,
    /// Where the file ends, as far as it may be read.
    pub(super) end: u64,
}

/// Opens the file, and goes to where the saved position or `start` says.
pub(super) fn begin(reading: Arc<Reading>, resume: &Resume) -> Result<Begun> {
    let path = &reading.path;
    let saved = match &resume.position {
        Some(position) => Mark::load(position, &reading.name)?,
        None => None,
    };
    let opened = open(&reading, saved.as_ref(), resume.until_end)?;
    let end = opened.as_ref().map_or(Ok(0), |opened| end_of(opened, path))?;
    let until = resume.until_end.then_some(end);
    let mark = match (saved, &opened) {
        (Some(mark), Some(opened)) if mark.offset > 0 => {
            recognise(&mark, opened, path)?;
            mark
        }
        // It was waited for; now that it is there, all of it is new.
        (Some(mark), Some(opened)) => stand(opened, path, HEADER_BYTES as u64, (*mark.gates).clone())?,
        (Some(mark), None) => mark,
        (None, Some(opened)) => {
            let (offset, gate) = start(&reading, opened, end, &resume.start)?;
            stand(opened, path, offset, Gates { rest: gate, ..Gates::default() })?
        }
        (None, None) => Mark::nowhere(Gates { rest: gate(&resume.start), ..Gates::default() }),
    };
    let shards = opened.as_ref().map_or(Ok(Vec::new()), |opened| shards(&reading, opened, end))?;
    let mut scanner = Scanner::new(reading, opened.clone(), &mark, until);
    scanner.knows(shards.iter().cloned());
    Ok(Begun { scanner, mark, opened, shards, until, end })
}

fn open(reading: &Reading, saved: Option<&Mark>, until_end: bool) -> Result<Option<Arc<Opened>>> {
    let path = &reading.path;
    let waits = reading.follow && !until_end;
    let read = saved.map_or(0, |mark| mark.offset);
    match Opened::open(path) {
        Ok(Some(opened)) => Ok(Some(Arc::new(opened))),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        missing if read > 0 => {
            let text = format!("`{}` is not there, and {read} bytes of it have been read", path.display());
            let error = Error::new(ErrorKind::StateMismatch, text);
            Err(missing.err().into_iter().fold(error, Error::caused_by).hint(ELSEWHERE))
        }
        Err(_) if waits && folder_of(path).is_dir() => {
            tracing::warn!(path = %path.display(), "there is no such file yet; waiting for it");
            Ok(None)
        }
        Ok(None) if waits => Ok(None),
        Err(error) => Err(error),
        Ok(None) => {
            let file = std::fs::File::open(path).map_err(|error| failed("open", path, error))?;
            // Says what is missing; by now it may be there.
            read_header(&file).map_err(|error| of(path, error))?;
            Ok(Opened::open(path)?.map(Arc::new))
        }
    }
}

const ELSEWHERE: &str = "bring the file back, or begin anew: `millstream state reset PIPELINE`";

/// Whether the file is the one that was read so far.
fn recognise(mark: &Mark, opened: &Opened, path: &Path) -> Result<()> {
    let found = proof(&opened.file, mark.offset).map_err(|error| failed("read", path, error))?;
    let what = match found {
        None => format!("is shorter than the {} bytes that have been read of it", mark.offset),
        Some(proof) if proof == mark.proof && opened.header.created_at_ms() == mark.created_at => return Ok(()),
        Some(_) => "is another file than the one that was read".to_owned(),
    };
    Err(Error::new(ErrorKind::StateMismatch, format!("`{}` {what}", path.display())).hint(ELSEWHERE))
}

/// How far a file may be read now.
fn end_of(opened: &Opened, path: &Path) -> Result<u64> {
    let len = opened.file.metadata().map_err(|error| failed("read", path, error))?.len();
    Ok(len.min(Published::limit(path, opened.id)))
}

/// The shards of a file that are asked for.
fn shards(reading: &Reading, opened: &Opened, end: u64) -> Result<Vec<ShardKey>> {
    let end = find_end(&View { file: &opened.file, len: end }).map_err(|error| of(&reading.path, error))?;
    let asked = end.streams.into_iter().filter(|stream| reading.has(&stream.key));
    Ok(asked.map(|stream| ShardKey::new(stream.key, stream.shard)).collect())
}

/// The mark at a message boundary.
fn stand(opened: &Opened, path: &Path, offset: u64, gates: Gates) -> Result<Mark> {
    let proof = proof(&opened.file, offset).map_err(|error| failed("read", path, error))?;
    let proof = proof.ok_or_else(|| {
        Error::new(ErrorKind::StateMismatch, format!("`{}` was cut while it was opened", path.display()))
    })?;
    Ok(Mark { offset, proof, created_at: opened.header.created_at_ms(), gates: Arc::new(gates) })
}

/// What the first record of each shard must reach.
fn gate(to: &SeekTo) -> Gate {
    match to {
        SeekTo::Beginning | SeekTo::Committed | SeekTo::End => Gate::OPEN,
        SeekTo::At(sequence) => Gate { sequence: u64::try_from(*sequence).unwrap_or(u64::MAX), ..Gate::OPEN },
        // Rounded up, because the file counts in milliseconds: the first one that is not before.
        SeekTo::Time(time) => Gate { time_ms: time.0.max(0).unsigned_abs().div_ceil(1_000_000), ..Gate::OPEN },
    }
}

/// Where `start` lies. A record that is yet to come is waited for at the end.
fn start(reading: &Reading, opened: &Opened, end: u64, to: &SeekTo) -> Result<(u64, Gate)> {
    let keys: Option<Vec<&str>> = reading.streams.as_ref().map(|streams| streams.iter().map(String::as_str).collect());
    let asked = keys.as_deref().map_or(Asked::All, Asked::Keys);
    let offset = match find(reading, opened, end, asked, to)? {
        Some(offset) => offset,
        None => find(reading, opened, end, asked, &SeekTo::End)?.unwrap_or(HEADER_BYTES as u64),
    };
    Ok((offset, gate(to)))
}

/// Where the first record lies that `to` means.
fn find(reading: &Reading, opened: &Opened, end: u64, asked: Asked<'_>, to: &SeekTo) -> Result<Option<u64>> {
    let view = View { file: &opened.file, len: end };
    let Gate { sequence, time_ms, .. } = gate(to);
    let found = match to {
        SeekTo::Beginning | SeekTo::Committed => return Ok(Some(HEADER_BYTES as u64)),
        SeekTo::End => return Ok(Some(find_end(&view).map_err(|error| of(&reading.path, error))?.offset)),
        SeekTo::At(_) => seek_sequence(&view, asked, sequence),
        SeekTo::Time(_) => seek_time(&view, asked, time_ms),
    };
    Ok(found.map_err(|error| of(&reading.path, error))?.map(|position| position.offset))
}

/// Where a source stands, of which a seek begins.
pub(super) struct Standing {
    pub(super) reading: Arc<Reading>,
    pub(super) opened: Option<Arc<Opened>>,
    pub(super) mark: Mark,
    pub(super) known: Vec<ShardKey>,
    pub(super) until: Option<u64>,
}

impl Standing {
    /// A scanner and the mark where the asked shards, or all, stand elsewhere.
    pub(super) fn seek(self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<(Scanner, Mark)> {
        let mark = match &self.opened {
            Some(opened) => self.target(opened, to, shards)?,
            None if matches!(to, SeekTo::Beginning | SeekTo::End) => self.mark.clone(),
            None => return Err(self.nothing(to)),
        };
        let mut scanner = Scanner::new(self.reading, self.opened, &mark, self.until);
        scanner.knows(self.known);
        Ok((scanner, mark))
    }

    fn target(&self, opened: &Opened, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<Mark> {
        let path = &self.reading.path;
        let end = self.until.map_or_else(|| end_of(opened, path), Ok)?;
        let Some(shards) = shards else {
            let keys: Option<Vec<&str>> =
                self.reading.streams.as_ref().map(|all| all.iter().map(String::as_str).collect());
            let asked = keys.as_deref().map_or(Asked::All, Asked::Keys);
            let offset = find(&self.reading, opened, end, asked, to)?.ok_or_else(|| self.nothing(to))?;
            return stand(opened, path, offset, Gates { rest: gate(to), ..Gates::default() });
        };
        if let Some(foreign) = shards.iter().find(|shard| !self.known.contains(shard)) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("`{}` has no `{foreign}` that is read", path.display()),
            )
            .hint("name stream and shard as in the file: `millstream file info` lists them"));
        }
        let asked: Vec<(&str, u64)> = shards.iter().map(|shard| (&*shard.stream, shard.shard)).collect();
        let offset = find(&self.reading, opened, end, Asked::Shards(&asked), to)?.ok_or_else(|| self.nothing(to))?;
        let Mark { offset: here, gates, .. } = &self.mark;
        let here = (*here).max(HEADER_BYTES as u64);
        // The others go on where they stood, also if the reader goes back before that.
        let mut moved = Gates { rest: gates.rest.behind(here), ..Gates::default() };
        moved.shards.extend(gates.shards.iter().map(|(shard, gate)| (shard.clone(), gate.behind(here))));
        moved.shards.extend(shards.iter().map(|shard| (shard.clone(), Gate { offset, ..gate(to) })));
        stand(opened, path, offset.min(here), moved)
    }

    fn nothing(&self, to: &SeekTo) -> Error {
        let text = format!("`{}` has no record yet at or after {to} in what is read", self.reading.path.display());
        Error::new(ErrorKind::NotFound, text).hint("seek to `end` to go on with what comes next")
    }
}
