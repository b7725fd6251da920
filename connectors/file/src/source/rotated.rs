//! Finding files that have lost their name: by identity, and by names that rotation gives.

use std::{
    collections::HashSet,
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
};

use super::{
    log::{Log, modified},
    mark::LogMark,
};
use crate::{glob::folder_of, identity::FileId};

/// What became of a file of which a mark was saved.
pub(super) enum Located {
    /// It is here, as it was or longer.
    Found(Log),
    /// The name still leads to its inode, but the bytes are others.
    Overwritten(Log),
    /// It is not in its folder any more.
    Gone,
}

/// How often a file may be renamed while it is being looked for.
pub(super) const RENAMES_MAX: usize = 50;

/// Looks for the marked file: at `path`, then in its whole folder. `named`: it had the name when the mark was saved.
pub(super) fn locate(path: &Path, mark: &LogMark, named: bool) -> io::Result<Located> {
    let same_name = identify(path, mark)?;
    if let Some((log, true)) = same_name {
        return Ok(Located::Found(log));
    }
    for _ in 0..RENAMES_MAX {
        let mut renamed = false;
        let files = folder(path)?.into_iter();
        for (other, _) in files.filter(|(other, metadata)| other != path && FileId::from(metadata).ino == mark.id.ino) {
            match identify(&other, mark)? {
                Some((log, true)) => return Ok(Located::Found(log)),
                Some((_, false)) => {}
                None => renamed = true,
            }
        }
        if !renamed {
            break;
        }
    }
    Ok(match same_name {
        // One that had lost its name before was deleted, and a new file has got its inode.
        Some((mut log, _)) if named => {
            log.restart();
            Located::Overwritten(log)
        }
        _ => Located::Gone,
    })
}

/// The marked file if `path` leads to its inode, and whether its first bytes are the same.
fn identify(path: &Path, mark: &LogMark) -> io::Result<Option<(Log, bool)>> {
    // Asked first, because opening a pipe waits for its writer.
    let opened = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Ok(None),
        asked => asked.and_then(|_| File::open(path)),
    };
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    // Of what is open: the name may lead elsewhere by now.
    let metadata = file.metadata()?;
    let id = FileId::from(&metadata);
    if id.ino != mark.id.ino {
        return Ok(None);
    }
    let same = mark.fingerprint.matches(&file)?;
    // Devices are numbered anew when they are mounted; the bytes then have to tell.
    if id.dev != mark.id.dev && (!same || mark.offset == 0) {
        return Ok(None);
    }
    let mut log = Log::marked(path, LogMark { id, ended: false, ..mark.clone() });
    log.size = metadata.len();
    Ok(Some((log, same)))
}

/// Files that had the name `path` after `last` had it, oldest first: those with a rotated name and a younger change.
pub(super) fn between(path: &Path, last: &LogMark, known: &HashSet<FileId>) -> io::Result<Vec<Log>> {
    let mut younger: Vec<(i64, PathBuf, Metadata)> = Vec::new();
    for (other, metadata) in folder(path)? {
        let changed = modified(&metadata);
        if changed >= last.modified && !known.contains(&FileId::from(&metadata)) && rotated_name(path, &other) {
            younger.push((changed, other, metadata));
        }
    }
    // At the same instant the higher number is the older file (`.10` before `.9`).
    let number = |path: &Path| (path.as_os_str().len(), path.to_owned());
    younger.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| number(&b.1).cmp(&number(&a.1))));
    let mut seen = HashSet::new();
    younger.retain(|(_, _, metadata)| seen.insert(FileId::from(metadata)));
    Ok(younger.into_iter().map(|(_, path, metadata)| Log::new(&path, &metadata, 0)).collect())
}

/// The name that a file beside `path` has now.
pub(super) fn name_of(path: &Path, id: FileId) -> Option<PathBuf> {
    let mut files = folder(path).ok()?.into_iter();
    files.find(|(_, metadata)| FileId::from(metadata) == id).map(|(path, _)| path)
}

/// How often a folder is looked at until nothing is renamed meanwhile.
const LOOKS_MAX: usize = 20;

/// Regular files beside `path`. Renames that are under way show a file under two names or under none, so what counts is
/// what two looks agree on. Where none do, a file that only earlier looks have shown is there under the name that it had then.
fn folder(path: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let mut newest = look(path)?;
    let mut earlier = Vec::new();
    for _ in 0..LOOKS_MAX {
        let again = look(path)?;
        let names = |files: &[(PathBuf, Metadata)]| -> HashSet<(PathBuf, FileId)> {
            files.iter().map(|(path, metadata)| (path.clone(), metadata.into())).collect()
        };
        if names(&newest) == names(&again) {
            return Ok(again);
        }
        let shown: HashSet<FileId> = again.iter().map(|(_, metadata)| metadata.into()).collect();
        earlier.extend(std::mem::replace(&mut newest, again));
        earlier.retain(|(_, metadata)| !shown.contains(&FileId::from(metadata)));
    }
    newest.extend(earlier);
    Ok(newest)
}

/// Regular files beside `path`, without those that vanish while we look.
fn look(path: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let folder = folder_of(path);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let entries = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok().filter(Metadata::is_file)?;
        // Named as the path is, so that they compare.
        Some((path.with_file_name(entry.file_name()), metadata))
    });
    Ok(entries.collect())
}

/// Whether rotation may have made `other` out of `path`: digits behind the name (`app.log.1`, `app.log-20260102`) or
/// before its extension (`app-2026-01-02.log`).
fn rotated_name(path: &Path, other: &Path) -> bool {
    let (Some(name), Some(other)) = (path.file_name().and_then(|name| name.to_str()), other.file_name()) else {
        return false;
    };
    let Some(other) = other.to_str() else { return false };
    let (stem, extension) = name.rfind('.').filter(|at| *at > 0).map_or((name, ""), |at| name.split_at(at));
    let inner = [(name, ""), (stem, extension)].into_iter().find_map(|(before, behind)| {
        other.strip_prefix(before)?.strip_suffix(behind).filter(|inner| !inner.is_empty())
    });
    inner.is_some_and(|inner| {
        inner.starts_with(['.', '-', '_'])
            && inner.contains(|c: char| c.is_ascii_digit())
            && inner.chars().all(|c| c.is_ascii_digit() || ".-_:TZ".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_names_are_known() {
        let path = Path::new("/x/app.log");
        for name in ["app.log.1", "app.log-20260102", "app-2026-01-02.log", "app.log.2026-01-02T03:04:05Z", "app_7.log"]
        {
            assert!(rotated_name(path, &path.with_file_name(name)), "{name}");
        }
        for name in
            ["app.log", "app.log.gz", "app.log.1.gz", "app.log.bak", "app.log~", "apple.log", "b.log.1", "app.log."]
        {
            assert!(!rotated_name(path, &path.with_file_name(name)), "{name}");
        }
    }
}
