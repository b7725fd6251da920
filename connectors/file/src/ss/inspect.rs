//! Looking at stream files: what `millstream file info|verify|repair` do. Everything here blocks.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::{self, BufWriter},
    os::unix::fs::FileExt,
    path::Path,
};

use millstream_codec::ss::{
    self, BEACON_INTERVAL_DEFAULT, Header, ReadAt, Report, StreamEnd, Tail, find_end, read_header,
};
use millstream_core::{Error, ErrorKind, Result, Timestamp};

use super::view::of;
use crate::{error::failed, identity::FileId, published::Published};

/// What a stream file says of itself. Its beacons are believed: [`verify`] reads all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The name that the file had when it was made.
    pub file_name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Bytes between beacons.
    pub beacon_interval: u32,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// Where its last whole record ends.
    pub end: u64,
    /// It was ended with an end-of-stream message.
    pub end_of_stream: bool,
    /// What follows the last whole record.
    pub tail: Tail,
    /// Up to where it counts, if a writer with `exactly_once` says so.
    pub committed: Option<u64>,
    /// Its streams, in order of key and shard.
    pub streams: Vec<StreamInfo>,
}

/// What a file says of one stream and shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// The stream key.
    pub key: String,
    /// The shard.
    pub shard: u64,
    /// The newest sequence; also the number of records, if the file was begun by its writer and has no gaps.
    pub sequence: u64,
    /// The latest time.
    pub time: Timestamp,
}

/// What there is in a file, in milliseconds for any size.
///
/// # Errors
/// Whatever opening and reading met; `Corrupt` or `Version` if it is no `.ss` file that we know.
pub fn info(path: &Path) -> Result<Info> {
    let file = File::open(path).map_err(|error| failed("open", path, error))?;
    let metadata = file.metadata().map_err(|error| failed("read", path, error))?;
    let end = find_end(&file).map_err(|error| of(path, error))?;
    let published = Published::read(path).filter(|published| published.id == FileId::from(&metadata));
    let stream =
        |StreamEnd { key, shard, sequence, time_ms, .. }| StreamInfo { key, shard, sequence, time: time(time_ms) };
    Ok(Info {
        file_name: end.header.file_name().to_owned(),
        created_at: time(end.header.created_at_ms()),
        beacon_interval: end.header.beacon_interval(),
        bytes: end.file_bytes,
        end: end.offset,
        end_of_stream: end.end_of_stream.is_some(),
        tail: end.tail,
        committed: published.map(|published| published.length),
        streams: end.streams.into_iter().map(stream).collect(),
    })
}

/// Reads a whole file and reports every damaged place. `progress` is told bytes done and bytes in all.
///
/// # Errors
/// Whatever opening and reading met; `Corrupt` or `Version` if the header cannot be read.
pub fn verify(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    let file = File::open(path).map_err(|error| failed("open", path, error))?;
    ss::verify(&Told::new(&file, progress)).map_err(|error| of(path, error))
}

/// Writes all that is whole in `from` to the new file `to`, and reports what is not. `to` must not exist; it has no
/// such name before all of it is on the disk. If the header of `from` is lost, it was made with `beacon_interval`, or with
/// the default.
///
/// # Errors
/// `Exists` if `to` does; whatever reading and writing met.
pub fn repair(
    from: &Path,
    to: &Path,
    beacon_interval: Option<u32>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    if to.exists() {
        return Err(Error::new(ErrorKind::Exists, format!("`{}` exists", to.display())).hint("choose another name"));
    }
    let file = File::open(from).map_err(|error| failed("open", from, error))?;
    let header = match read_header(&file) {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let name = to.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let now = u64::try_from(Timestamp::now().as_millis()).unwrap_or(0);
            tracing::warn!(path = %from.display(), "the file header is lost; a new one is made");
            Header::with_any_interval(&name, now, beacon_interval.unwrap_or(BEACON_INTERVAL_DEFAULT))?
        }
        header => header.map_err(|error| of(from, error))?,
    };
    let mut part = to.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let problem = |error| failed("write", part, error);
    let mut out = BufWriter::new(File::create(part).map_err(problem)?);
    let report = ss::repair(&Told::new(&file, progress), &header, &mut out).map_err(|error| of(from, error))?;
    let out = out.into_inner().map_err(|error| problem(error.into_error()))?;
    out.sync_all().map_err(problem)?;
    // Unlike a rename this does not replace what may have come meanwhile.
    fs::hard_link(part, to).or_else(|_| fs::rename(part, to)).map_err(|error| failed("name", to, error))?;
    match fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("delete", part, error)),
        _ => Ok(report),
    }
}

fn time(ms: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Is told bytes done and bytes in all.
type Tell<'a> = &'a mut dyn FnMut(u64, u64);

/// A file that tells how far it has been read.
struct Told<'a> {
    file: &'a File,
    /// The furthest place read, and who is told.
    state: RefCell<(u64, Tell<'a>)>,
}

impl<'a> Told<'a> {
    fn new(file: &'a File, progress: Tell<'a>) -> Self {
        Told { file, state: RefCell::new((0, progress)) }
    }
}

impl ReadAt for Told<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let read = FileExt::read_at(self.file, buf, offset)?;
        let reached = offset.saturating_add(read as u64);
        // Beacons are read again and again; a callback that comes back here would find the state taken.
        if let Ok(mut state) = self.state.try_borrow_mut()
            && reached > state.0
        {
            state.0 = reached;
            let total = self.file.metadata()?.len();
            (state.1)(reached.min(total), total);
        }
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}
