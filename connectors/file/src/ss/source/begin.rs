//! Where to begin. Everything here blocks.

use std::{path::Path, sync::Arc};

use millstream_codec::ss::{HEADER_BYTES, find_end, read_header};
use millstream_core::{Error, ErrorKind, Result, Resume, ShardKey};

use super::{
    mark::{Gates, Mark},
    reading::{Reading, Until},
    scan::Scanner,
    seek::{Place, end_of, gate, stand},
};
use crate::{
    error::failed,
    glob::folder_of,
    ss::{
        series::{Name, Series},
        view::{Opened, View, of, proof},
    },
    watch::Bell,
};

/// A source that has begun.
pub(super) struct Begun {
    pub(super) scanner: Scanner,
    pub(super) mark: Mark,
    pub(super) shards: Vec<ShardKey>,
    pub(super) until: Option<Until>,
    /// Where the file ends, as far as it may be read.
    pub(super) end: u64,
}

/// Opens a file, and goes to where the saved position or `start` says.
pub(super) fn begin(reading: Arc<Reading>, resume: &Resume, bell: Arc<Bell>) -> Result<Begun> {
    let saved = match &resume.position {
        Some(position) => Mark::load(position, &reading.name)?,
        None => None,
    };
    let waits = reading.follow && !resume.until_end;
    let series = match reading.pattern.literal() {
        Some(_) => None,
        None => Some(look(&reading, bell, waits)?),
    };
    let opened = match &series {
        None => open(&reading, saved.as_ref(), waits)?,
        Some(series) => open_one_of(series, saved.as_ref())?,
    };
    let place = Place { reading: &reading, series: series.as_ref(), opened: opened.as_ref(), until: None };
    let until = until(&place, resume)?;
    let mark = match (saved, &opened) {
        (Some(mark), Some(opened)) if mark.offset > 0 => match recognise(&mark, opened) {
            // Nothing of it was read, so it may be another.
            Err(_) if series.is_some() && mark.offset <= HEADER_BYTES as u64 => {
                stand(opened, HEADER_BYTES as u64, (*mark.gates).clone())?
            }
            recognised => recognised.map(|()| mark)?,
        },
        // It was waited for; now that it is there, all of it is new.
        (Some(mark), Some(opened)) => stand(opened, HEADER_BYTES as u64, (*mark.gates).clone())?,
        (Some(mark), None) => mark,
        (None, _) => {
            let gates = Gates { rest: gate(&resume.start), ..Gates::default() };
            match place.start(&resume.start)? {
                Some((opened, offset)) => stand(&opened, offset, gates)?,
                None => Mark::nowhere(gates),
            }
        }
    };
    let opened = match (&series, opened) {
        (Some(series), None) => series.find(&mark.file).map_or(Ok(None), |member| member.open())?.map(Arc::new),
        (_, opened) => opened,
    };
    let end = opened.as_ref().map_or(Ok(0), |opened| end_of(opened, until.as_ref()))?;
    let shards = opened.as_ref().map_or(Ok(Vec::new()), |opened| shards(&reading, opened, end))?;
    let mut scanner = Scanner::new(reading, opened, series, &mark, until.clone());
    scanner.knows(shards.iter().cloned());
    Ok(Begun { scanner, mark, shards, until, end })
}

/// Looks for the files of a series.
fn look(reading: &Reading, bell: Arc<Bell>, waits: bool) -> Result<Series> {
    let mut series = Series::new(reading.pattern.clone(), bell);
    series.look_surely()?;
    if series.members().is_empty() {
        let pattern = &reading.name;
        if !waits {
            return Err(Error::new(ErrorKind::NotFound, format!("no file matches `{pattern}`"))
                .hint("`*` and `?` stay within a folder, `**` crosses folders, hidden files do not match"));
        }
        tracing::warn!(pattern, "no file matches yet; waiting for one");
    }
    Ok(series)
}

/// Where reading stops for good.
fn until(place: &Place<'_>, resume: &Resume) -> Result<Option<Until>> {
    let Some(series) = place.series else {
        let end = place.opened.map_or(Ok(0), |opened| end_of(opened, None))?;
        return Ok(resume.until_end.then_some(Until { file: Name::default(), offset: Some(end) }));
    };
    let Some(last) = series.members().last().filter(|_| resume.until_end || !place.reading.follow) else {
        return Ok(None);
    };
    let end = || last.open()?.map_or(Ok(0), |opened| end_of(&opened, None));
    let offset = if resume.until_end { Some(end()?) } else { None };
    Ok(Some(Until { file: last.name.clone(), offset }))
}

fn open(reading: &Reading, saved: Option<&Mark>, waits: bool) -> Result<Option<Arc<Opened>>> {
    let path = reading.path();
    let read = saved.map_or(0, |mark| mark.offset);
    match Opened::open(path, Name::default()) {
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
            Ok(Opened::open(path, Name::default())?.map(Arc::new))
        }
    }
}

/// Opens the file of a series that a saved position names; `None` if nothing is to be read in it.
fn open_one_of(series: &Series, saved: Option<&Mark>) -> Result<Option<Arc<Opened>>> {
    let Some(mark) = saved else { return Ok(None) };
    let member = match mark.offset {
        0 => series.members().first(),
        _ => series.find(&mark.file),
    };
    if let Some(opened) = member.map_or(Ok(None), |member| member.open())? {
        return Ok(Some(Arc::new(opened)));
    }
    if mark.offset <= HEADER_BYTES as u64 {
        return Ok(None);
    }
    let (file, bytes, pattern) = (&mark.file, mark.offset, series.text());
    if mark.over.is_some() {
        tracing::warn!(%file, "the file is not there any more; it had been read to its end");
        return Ok(None);
    }
    let text = format!("`{file}` is not there, and only {bytes} bytes of it are known to have been read");
    Err(Error::new(ErrorKind::StateMismatch, text).hint(format!(
        "bring the file back, or go on with the oldest of `{pattern}` by `millstream state seek PIPELINE --to beginning`; let \
         the writer keep more files"
    )))
}

const ELSEWHERE: &str = "bring the file back, or begin anew: `millstream state reset PIPELINE`";

/// Whether the file is the one that was read so far.
fn recognise(mark: &Mark, opened: &Opened) -> Result<()> {
    let path: &Path = &opened.path;
    let found = proof(&opened.file, mark.offset).map_err(|error| failed("read", path, error))?;
    let what = match found {
        None => format!("is shorter than the {} bytes that have been read of it", mark.offset),
        Some(proof) if proof == mark.proof && opened.header.created_at_ms() == mark.created_at => return Ok(()),
        Some(_) => "is another file than the one that was read".to_owned(),
    };
    Err(Error::new(ErrorKind::StateMismatch, format!("`{}` {what}", path.display())).hint(ELSEWHERE))
}

/// The shards of a file that are asked for.
fn shards(reading: &Reading, opened: &Opened, end: u64) -> Result<Vec<ShardKey>> {
    if end < HEADER_BYTES as u64 {
        return Ok(Vec::new());
    }
    let end = find_end(&View { file: &opened.file, len: end }).map_err(|error| of(&opened.path, error))?;
    let asked = end.streams.into_iter().filter(|stream| reading.has(&stream.key));
    Ok(asked.map(|stream| ShardKey::new(stream.key, stream.shard)).collect())
}
