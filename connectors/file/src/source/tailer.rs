//! All paths of a source: which there are, in which order they are read, and what becomes of renamed files.
//!
//! Everything here blocks; [`FileSource`](super::FileSource) calls it off the async threads.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::{self, Metadata},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_core::{Error, ErrorKind, Position, Result, SeekTo, ShardKey};

use super::{
    assembler::{Assembler, Item},
    log::Log,
    mark::TailMark,
    rotated::{Located, between, locate, name_of},
    start,
    tail::{Reading, Tail},
};
use crate::{
    error::failed,
    glob::{Pattern, folder_of},
    identity::FileId,
    watch::Bell,
};

/// How often names are compared even if nobody said that they changed: a rename is found within this time.
const SCAN_EVERY: Duration = Duration::from_secs(1);
/// Files kept open while they are quiet; with more of them each is opened again when it has grown.
const OPEN_MAX: usize = 256;

/// All paths of a source.
pub(super) struct Tailer {
    pattern: Pattern,
    reading: Arc<Reading>,
    bell: Arc<Bell>,
    /// In order of their paths.
    tails: Vec<Tail>,
    cursor: usize,
    scanned_at: Instant,
    /// Names have changed while they were compared.
    scan_now: bool,
    folders: BTreeSet<PathBuf>,
}

/// Where to begin.
pub(super) struct Begin<'a> {
    pub(super) position: Option<&'a Position>,
    pub(super) start: &'a SeekTo,
    /// Shards that begin at `start` although others have a position.
    pub(super) moved: &'a [ShardKey],
    pub(super) until_end: bool,
}

/// What a turn of reading came to.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) items: Vec<Item>,
    pub(super) then: Result<Then>,
    /// Bytes not yet read.
    pub(super) left: u64,
    /// Folders to watch.
    pub(super) folders: BTreeSet<PathBuf>,
}

/// What to do behind a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// There is more.
    More,
    /// Wait until something changes, at most this long.
    Wait(Option<Duration>),
    /// All is read.
    End,
}

impl Tailer {
    /// Finds the files and where to begin in each.
    pub(super) fn open(pattern: &Pattern, reading: Arc<Reading>, bell: Arc<Bell>, begin: &Begin<'_>) -> Result<Self> {
        if let SeekTo::Time(_) = begin.start {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a file cannot be read from a time on: its records have none",
            )
            .hint("start at `beginning`, `end` or a record number, and filter by a time in the record"));
        }
        let mut tailer = Tailer {
            pattern: pattern.clone(),
            reading,
            bell,
            tails: Vec::new(),
            cursor: 0,
            scanned_at: Instant::now(),
            scan_now: false,
            folders: BTreeSet::new(),
        };
        let found = tailer.find()?;
        tailer.check(&found)?;
        tailer.adopt(begin, &found)?;
        // With a saved position all that it does not name is new since then.
        let fresh = begin.position.is_none();
        for (path, metadata) in &found {
            let shard = ShardKey::new(path.to_string_lossy(), 0);
            if tailer.tail(path).is_none() && (fresh || begin.moved.contains(&shard)) {
                let tail = start::begin(path, metadata, &tailer.reading, begin.start)?;
                tailer.insert(tail);
            }
        }
        tailer.settle(&found, &mut Assembler::default())?;
        if begin.until_end {
            for log in tailer.tails.iter_mut().flat_map(|tail| &mut tail.logs) {
                log.limit = fs::metadata(&log.path).map_or(0, |metadata| metadata.len());
            }
        }
        Ok(tailer)
    }

    /// Where all paths stand.
    pub(super) fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        for tail in &self.tails {
            if let Some(mark) = tail.mark() {
                position.set(tail.shard.clone(), &mark)?;
            }
        }
        Ok(position)
    }

    /// The shards that are read.
    pub(super) fn shards(&self) -> Vec<ShardKey> {
        self.tails.iter().map(|tail| tail.shard.clone()).collect()
    }

    /// Folders in which something may change.
    pub(super) fn folders(&self) -> BTreeSet<PathBuf> {
        self.folders.clone()
    }

    /// Bytes not yet read.
    pub(super) fn left(&self) -> u64 {
        self.tails.iter().flat_map(|tail| &tail.logs).map(Log::left).sum()
    }

    /// Bytes of all files.
    pub(super) fn size(&self) -> u64 {
        self.tails.iter().flat_map(|tail| &tail.logs).map(|log| log.size).sum()
    }

    /// Reads about a batch.
    pub(super) fn turn(&mut self) -> Turn {
        let mut out = Assembler::default();
        let then = self.read(&mut out);
        let folders = if self.reading.follow { self.folders() } else { BTreeSet::new() };
        Turn { items: out.finish(), then, left: self.left(), folders }
    }

    fn read(&mut self, out: &mut Assembler) -> Result<Then> {
        let mut progress = false;
        let due = self.bell.take_names() || self.scan_now || self.scanned_at.elapsed() >= SCAN_EVERY;
        if self.reading.follow && due {
            self.scan_now = false;
            let found = self.find()?;
            self.settle(&found, out)?;
        }
        for _ in 0..self.tails.len() {
            self.cursor = if self.cursor < self.tails.len() { self.cursor } else { 0 };
            let tail = &mut self.tails[self.cursor];
            // A file that ends is read to its end before the next; of those that grow each gets its turn.
            loop {
                let some = tail.visit(&self.reading, out)?;
                progress |= some;
                if out.is_full() {
                    self.cursor += usize::from(self.reading.follow || !some);
                    return Ok(Then::More);
                }
                if !some || self.reading.follow {
                    break;
                }
            }
            self.cursor += 1;
        }
        if progress {
            return Ok(Then::More);
        }
        if !self.reading.follow && self.tails.iter().all(Tail::ended) {
            return Ok(Then::End);
        }
        if self.scan_now {
            return Ok(Then::More);
        }
        self.close_quiet();
        Ok(Then::Wait(self.tails.iter().filter_map(|tail| tail.wake(&self.reading)).min()))
    }

    fn close_quiet(&mut self) {
        let open = self.tails.iter().flat_map(|tail| &tail.logs).filter(|log| log.open()).count();
        // Only those that have their name are found again by it.
        let logs = self.tails.iter_mut().filter_map(|tail| tail.logs.back_mut()).filter(|log| log.open());
        logs.take(open.saturating_sub(OPEN_MAX)).for_each(Log::close);
    }

    fn find(&mut self) -> Result<Vec<(PathBuf, Metadata)>> {
        let found =
            self.pattern.find().map_err(|error| failed("list the files of", Path::new(self.pattern.text()), error))?;
        (self.folders, self.scanned_at) = (found.folders, Instant::now());
        let files = found.files.into_iter().filter_map(|path| {
            let metadata = fs::metadata(&path).ok()?;
            Some((path, metadata))
        });
        Ok(files.collect())
    }

    /// A path that is not there is an error where it cannot come any more, or its folder is missing too.
    fn check(&mut self, found: &[(PathBuf, Metadata)]) -> Result<()> {
        let text = self.pattern.text();
        if let Some(path) = self.pattern.literal() {
            match fs::metadata(path) {
                Ok(_) => {
                    // Says early what is no file, or may not be read.
                    super::reader::Reader::open(path, &self.reading.format, 0)?;
                }
                Err(error)
                    if self.reading.follow
                        && error.kind() == std::io::ErrorKind::NotFound
                        && folder_of(path).is_dir() =>
                {
                    tracing::warn!(path = text, "there is no such file yet; waiting for it");
                }
                Err(error) => return Err(failed("open", path, error)),
            }
        } else if found.is_empty() {
            if !self.reading.follow {
                return Err(Error::new(ErrorKind::NotFound, format!("no file matches `{text}`"))
                    .hint("`*` and `?` stay within a folder, `**` crosses folders, hidden files do not match"));
            }
            tracing::warn!(pattern = text, "no file matches yet; waiting for one");
        }
        Ok(())
    }

    /// Goes back to where a saved position says that each path stood.
    fn adopt(&mut self, begin: &Begin<'_>, found: &[(PathBuf, Metadata)]) -> Result<()> {
        let Some(position) = begin.position else { return Ok(()) };
        for shard in position.0.keys().filter(|shard| !begin.moved.contains(shard)) {
            let Some(mark) = position.shard::<TailMark>(shard)? else { continue };
            let path = PathBuf::from(&*shard.stream);
            let mut tail = Tail::new(path.clone());
            tail.records = mark.records;
            for saved in mark.logs() {
                let named = saved == &mark.newest;
                match locate(&path, saved, named).map_err(|error| failed("look for what was read as", &path, error))? {
                    Located::Found(log) => tail.logs.push_back(log),
                    Located::Overwritten(log) => {
                        tracing::warn!(
                            path = %path.display(),
                            "the file was truncated or overwritten while we were away: reading it from its beginning"
                        );
                        tail.logs.push_back(log);
                    }
                    Located::Gone if saved.ended => {}
                    Located::Gone => self.gone(&path, named, found)?,
                }
            }
            if tail.logs.back().is_none_or(|log| log.mark.id != mark.newest.id) {
                // Not there any more, but files that were rotated after it are to be found.
                tail.logs.push_back(Log::marked(&path, super::mark::LogMark { ended: true, ..mark.newest }));
            }
            self.insert(tail);
        }
        Ok(())
    }

    fn gone(&self, path: &Path, newest: bool, found: &[(PathBuf, Metadata)]) -> Result<()> {
        let replaced = found.iter().any(|(other, _)| other == path);
        if newest && replaced && !self.reading.follow {
            return Err(Error::new(
                ErrorKind::StateMismatch,
                format!("`{}` is not the file that was read before, and that one is not in its folder", path.display()),
            )
            .hint("bring it back, or begin anew: `millstream state reset PIPELINE`"));
        }
        tracing::warn!(
            path = %path.display(),
            "a file that was being read is no longer in its folder; what was not read of it is lost"
        );
        Ok(())
    }

    /// Compares the names with the files that are read.
    fn settle(&mut self, found: &[(PathBuf, Metadata)], out: &mut Assembler) -> Result<()> {
        let names: HashMap<FileId, &Path> = found.iter().map(|(path, metadata)| (metadata.into(), &**path)).collect();
        let ids: HashMap<&Path, FileId> = found.iter().map(|(path, metadata)| (&**path, metadata.into())).collect();
        let mut again = false;
        let mut moved = self.take_moved(&names, &ids, out);
        let mut known: HashSet<FileId> = names.keys().copied().collect();
        known.extend(self.tails.iter().flat_map(|tail| &tail.logs).map(|log| log.mark.id));
        for (path, metadata) in found {
            let id = FileId::from(metadata);
            if self.tail(path).is_none() {
                out.added(ShardKey::new(path.to_string_lossy(), 0));
                self.insert(Tail::new(path.clone()));
            }
            let reading = self.reading.clone();
            let Some(tail) = self.tail(path) else { continue };
            // The inode of a file that is deleted may have been given to this one.
            if tail.logs.iter().any(|log| log.mark.id == id && !(log.mark.ended && reading.follow)) {
                continue;
            }
            if let Some(last) = tail.logs.back_mut().filter(|last| last.path == *path) {
                last.path = name_of(path, last.mark.id).unwrap_or_else(|| path.clone());
            }
            if let Some((log, records)) = moved.remove(&id) {
                tail.records = tail.records.max(records);
                tail.logs.push_back(log);
            } else {
                let mut here = true;
                if let Some(last) = tail.logs.back().filter(|_| !reading.format.packed()) {
                    let look = |known: &HashSet<FileId>| {
                        between(path, &last.mark, known).map_err(|error| failed("look beside", path, error))
                    };
                    let mut more = look(&known)?;
                    here = !reading.follow || fs::metadata(path).is_ok_and(|metadata| FileId::from(&metadata) == id);
                    if !here {
                        // Rotated again while we looked: it is older than some of `more`, and among them at another look.
                        known.remove(&id);
                        more = look(&known)?;
                        again = true;
                    }
                    known.extend(more.iter().map(|log| log.mark.id));
                    tail.logs.extend(more);
                }
                if here {
                    tail.logs.push_back(Log::new(path, metadata, 0));
                }
            }
            out.mark(tail.shard.clone(), tail.mark());
        }
        self.drop_vanished(&ids, out);
        if again {
            self.scan_now = true;
        }
        Ok(())
    }

    /// Files that have got another name that is read too: they go on under that.
    fn take_moved(
        &mut self,
        names: &HashMap<FileId, &Path>,
        ids: &HashMap<&Path, FileId>,
        out: &mut Assembler,
    ) -> HashMap<FileId, (Log, u64)> {
        let mut moved = HashMap::new();
        for tail in &mut self.tails {
            let here = ids.get(&*tail.path).copied();
            for at in (0..tail.logs.len()).rev() {
                let id = tail.logs[at].mark.id;
                if Some(id) != here
                    && let Some(name) = names.get(&id)
                    && let Some(mut log) = tail.logs.remove(at)
                {
                    log.path = name.to_path_buf();
                    moved.insert(id, (log, tail.records));
                    out.mark(tail.shard.clone(), tail.mark());
                }
            }
        }
        moved
    }

    /// Paths whose files are deleted and read to their ends.
    fn drop_vanished(&mut self, ids: &HashMap<&Path, FileId>, out: &mut Assembler) {
        let wild = self.pattern.wild();
        self.tails.retain_mut(|tail| {
            if ids.contains_key(&*tail.path) {
                return true;
            }
            let over = |log: &Log| log.mark.ended || (log.deleted() && log.quiet_since.is_some());
            for log in tail.logs.iter_mut().filter(|log| !log.mark.ended) {
                if log.deleted() && log.quiet_since.is_some() {
                    tracing::warn!(path = %log.path.display(), "the file was deleted; it had been read to its end");
                    log.end();
                }
            }
            let vanished = wild && tail.logs.iter().all(over);
            if vanished {
                out.mark(tail.shard.clone(), None);
            }
            !vanished
        });
    }

    fn tail(&mut self, path: &Path) -> Option<&mut Tail> {
        let at = self.tails.binary_search_by(|tail| (*tail.path).cmp(path)).ok()?;
        self.tails.get_mut(at)
    }

    fn insert(&mut self, tail: Tail) {
        if let Err(at) = self.tails.binary_search_by(|other| other.path.cmp(&tail.path)) {
            self.tails.insert(at, tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{formats::Format, watch::Watch};

    fn lines(tailer: &mut Tailer) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let turn = tailer.turn();
            for read in turn.items.into_iter().filter_map(|item| item.read) {
                let values = read.batch.iter().filter_map(|record| record.to_record().value);
                lines.extend(values.map(|value| String::from_utf8_lossy(&value).into_owned()));
            }
            if turn.then.unwrap() != Then::More {
                return lines;
            }
        }
    }

    #[test]
    fn files_that_are_rotated_twice_while_names_are_compared_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.txt");
        let log = |line: &str| fs::write(&path, line).unwrap();
        let rotate = || {
            for n in [2, 1] {
                let _ =
                    fs::rename(path.with_extension(format!("txt.{n}")), path.with_extension(format!("txt.{}", n + 1)));
            }
            fs::rename(&path, path.with_extension("txt.1")).unwrap();
        };
        log("a\n");
        let format = Format::plan(None, None, &path).unwrap();
        let reading = Arc::new(Reading { format, follow: true, complete_after: None });
        let begin = Begin { position: None, start: &SeekTo::Beginning, moved: &[], until_end: false };
        let pattern = Pattern::new(path.to_str().unwrap());
        let mut tailer = Tailer::open(&pattern, reading, Watch::new(None).bell(), &begin).unwrap();
        assert_eq!(lines(&mut tailer), ["a"]);
        rotate();
        log("b\n");
        let found = tailer.find().unwrap();
        rotate();
        log("c\n");
        rotate();
        tailer.settle(&found, &mut Assembler::default()).unwrap();
        assert_eq!(lines(&mut tailer), ["b", "c"]);
        log("d\n");
        tailer.scan_now = true;
        assert_eq!(lines(&mut tailer), ["d"]);
    }
}
