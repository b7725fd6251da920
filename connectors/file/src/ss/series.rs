//! Files that are read one behind the other: those of a sink that rotates.
//!
//! A file is `NAME.part` while it is written, and `NAME` when all of it counts; the order is that of the numbers in the names.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_core::{ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::view::Opened;
use crate::{
    error::failed,
    glob::{OPEN, Pattern},
    identity::FileId,
    watch::Bell,
};

/// The final path of a file of a series; empty for a file that is in none. Numbers in it are compared as numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Name(Arc<str>);

impl Default for Name {
    fn default() -> Self {
        Name(Arc::from(""))
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Name(Arc::from(name))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Name {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        natural(&self.0, &other.0).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares texts with runs of digits as numbers.
fn natural(mut a: &str, mut b: &str) -> Ordering {
    loop {
        let (number_a, number_b) = (digits(a), digits(b));
        if number_a > 0 && number_b > 0 {
            let ((value_a, rest_a), (value_b, rest_b)) = (a.split_at(number_a), b.split_at(number_b));
            let (value_a, value_b) = (value_a.trim_start_matches('0'), value_b.trim_start_matches('0'));
            let order = value_a.len().cmp(&value_b.len()).then_with(|| value_a.cmp(value_b));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (rest_a, rest_b);
            continue;
        }
        let (Some(first_a), Some(first_b)) = (a.chars().next(), b.chars().next()) else { return a.len().cmp(&b.len()) };
        if first_a != first_b {
            return first_a.cmp(&first_b);
        }
        (a, b) = (&a[first_a.len_utf8()..], &b[first_b.len_utf8()..]);
    }
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// A file of a series, as it was seen.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: Name,
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    pub(super) bytes: u64,
    /// It has not got its final name yet.
    pub(super) open: bool,
}

impl PartialEq for Member {
    /// It may have grown.
    fn eq(&self, other: &Self) -> bool {
        (&self.path, self.id) == (&other.path, other.id)
    }
}

impl Member {
    /// Opens it under the name that it has by now; `None` if it is gone, or its header does not count yet.
    pub(super) fn open(&self) -> Result<Option<Opened>> {
        let paths = [Some(self.path.clone()), self.open.then(|| PathBuf::from(&*self.name.0))];
        for path in paths.iter().flatten() {
            match Opened::open(path, self.name.clone()) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                opened => return opened,
            }
        }
        Ok(None)
    }
}

/// How often names are looked at even if nobody said that they changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often folders are looked at until nothing is renamed meanwhile.
const LOOKS_MAX: usize = 5;

/// All files of a series.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pattern: Pattern,
    bell: Arc<Bell>,
    /// In order.
    members: Vec<Member>,
    folders: BTreeSet<PathBuf>,
    looked_at: Option<Instant>,
}

impl Series {
    /// Those that a pattern means; nothing is looked at yet.
    pub(super) fn new(pattern: Pattern, bell: Arc<Bell>) -> Self {
        Series { pattern, bell, members: Vec::new(), folders: BTreeSet::new(), looked_at: None }
    }

    /// Looks for files; `false`: they change so quickly that what was known stays. Renames that are under way show a file
    /// under two names or under none, so what counts is what two looks agree on.
    pub(super) fn look(&mut self) -> Result<bool> {
        self.bell.take_names();
        let mut members = self.look_once()?;
        for _ in 0..LOOKS_MAX {
            let again = self.look_once()?;
            if again == members {
                (self.members, self.looked_at) = (again, Some(Instant::now()));
                return Ok(true);
            }
            members = again;
        }
        self.looked_at = None;
        Ok(false)
    }

    /// Looks until two looks agree.
    pub(super) fn look_surely(&mut self) -> Result<()> {
        while !self.look()? {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// What is known is not so any more.
    pub(super) fn look_again(&mut self) {
        self.looked_at = None;
    }

    fn look_once(&mut self) -> Result<Vec<Member>> {
        let found = self.pattern.find_with_open();
        let found = found.map_err(|error| failed("list the files of", Path::new(self.pattern.text()), error))?;
        self.folders = found.folders;
        let mut members = Vec::new();
        for path in found.files {
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let text = path.to_string_lossy();
            let finished = text.strip_suffix(OPEN);
            let (name, open) = (Name::from(finished.unwrap_or(&text)), finished.is_some());
            members.push(Member { name, id: FileId::from(&metadata), bytes: metadata.len(), open, path });
        }
        members.sort_by(|a, b| a.name.cmp(&b.name).then(a.open.cmp(&b.open)));
        members.dedup_by(|later, first| later.name == first.name);
        Ok(members)
    }

    /// Whether names may have changed since the last look.
    pub(super) fn due(&self) -> bool {
        let late = self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        self.bell.take_names() || late
    }

    /// All files, in order.
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The file of this name.
    pub(super) fn find(&self, name: &Name) -> Option<&Member> {
        self.members.binary_search_by(|member| member.name.cmp(name)).ok().and_then(|at| self.members.get(at))
    }

    /// The files behind this name, or from it on.
    pub(super) fn behind(&self, name: &Name, and_of_it: bool) -> impl Iterator<Item = &Member> + use<'_> {
        let first = self.members.partition_point(|member| member.name < *name || (!and_of_it && member.name == *name));
        self.members.iter().skip(first)
    }

    /// Bytes of the files behind this name.
    pub(super) fn bytes_behind(&self, name: &Name) -> u64 {
        self.behind(name, false).map(|member| member.bytes).sum()
    }

    /// Folders in which something may change.
    pub(super) fn folders(&self) -> &BTreeSet<PathBuf> {
        &self.folders
    }

    /// What it is, for errors.
    pub(super) fn text(&self) -> &str {
        self.pattern.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_numbers() {
        let sorted = ["", "a-9.ss", "a-10.ss", "a-010x.ss", "a-20260102T030000Z-2.ss", "a-20260102T030000Z-11.ss", "b"];
        let mut names: Vec<Name> = sorted.iter().rev().map(|name| Name::from(*name)).collect();
        names.sort();
        assert_eq!(names.iter().map(|name| &*name.0).collect::<Vec<_>>(), sorted);
        assert_ne!(Name::from("a-1"), Name::from("a-01"));
        assert_ne!(Name::from("a-1").cmp(&Name::from("a-01")), Ordering::Equal);
    }
}
