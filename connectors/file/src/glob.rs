//! Paths with `*`, `?` and `**`.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// A path or a pattern of paths.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    /// A name as it is; also the root.
    Literal(String),
    /// A name with `*` or `?`.
    Wild(Vec<char>),
    /// `**`: any number of folders.
    Folders,
}

/// What a pattern finds: files in order, and the folders in which more could appear.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) files: BTreeSet<PathBuf>,
    pub(crate) folders: BTreeSet<PathBuf>,
    /// Files that will match when they are finished are found too.
    open: bool,
}

/// Ending of a file that is still written and gets its final name later.
pub(crate) const OPEN: &str = ".part";

impl Pattern {
    /// Reads a pattern; every text is one.
    pub(crate) fn new(text: &str) -> Self {
        let mut parts = Vec::new();
        if text.starts_with('/') {
            parts.push(Part::Literal("/".into()));
        }
        for name in text.split('/').filter(|name| !name.is_empty()) {
            parts.push(match name {
                "**" => Part::Folders,
                _ if name.contains(['*', '?']) => Part::Wild(name.chars().collect()),
                _ => Part::Literal(name.into()),
            });
        }
        Pattern { text: text.into(), parts }
    }

    /// The path, if it names just one file: it has no wildcard, or there is a file of exactly this name.
    pub(crate) fn literal(&self) -> Option<&Path> {
        let plain = self.parts.iter().all(|part| matches!(part, Part::Literal(_)));
        let path = Path::new(&self.text);
        (plain || path.is_file()).then_some(path)
    }

    /// Whether it has a wildcard.
    pub(crate) fn wild(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Literal(_)))
    }

    /// What the names of all files that match begin with.
    pub(crate) fn prefix(&self) -> String {
        match self.parts.last() {
            Some(Part::Literal(name)) => name.clone(),
            Some(Part::Wild(pattern)) => pattern.iter().take_while(|c| !matches!(c, '*' | '?')).collect(),
            Some(Part::Folders) | None => String::new(),
        }
    }

    /// The pattern as written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// All files that match now. Folders that do not exist have none; those that cannot be read are an error.
    pub(crate) fn find(&self) -> io::Result<Found> {
        self.find_into(Found::default())
    }

    /// The same, and files that are still written and will match when they have got their final names.
    pub(crate) fn find_with_open(&self) -> io::Result<Found> {
        self.find_into(Found { open: true, ..Found::default() })
    }

    fn find_into(&self, mut found: Found) -> io::Result<Found> {
        if let Some(path) = self.literal() {
            found.files.insert(path.to_owned());
            found.folders.insert(folder_of(path).to_owned());
        } else {
            walk(&PathBuf::new(), &self.parts, &mut found)?;
        }
        Ok(found)
    }
}

/// The folder that a path lies in; `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn walk(folder: &Path, parts: &[Part], found: &mut Found) -> io::Result<()> {
    let Some((part, rest)) = parts.split_first() else { return Ok(()) };
    match part {
        Part::Literal(name) => step(folder.join(name), rest, found),
        Part::Wild(pattern) => {
            for name in names(folder, found)? {
                // A leading dot must be written, so that hidden files (our own marks among them) are not swept in.
                let hidden = name.starts_with('.') && pattern.first() != Some(&'.');
                let wanted = pattern.ends_with(&['.', 'p', 'a', 'r', 't']);
                let finished = match name.strip_suffix(OPEN).filter(|_| !wanted) {
                    None => name.as_str(),
                    Some(finished) if found.open && rest.is_empty() => finished,
                    Some(_) => continue,
                };
                if !hidden && matches(pattern, &finished.chars().collect::<Vec<_>>()) {
                    step(folder.join(name), rest, found)?;
                }
            }
            Ok(())
        }
        Part::Folders => {
            walk(folder, rest, found)?;
            for name in names(folder, found)? {
                let path = folder.join(&name);
                // A link to a folder is not followed: it could lead back to where we are.
                if !name.starts_with('.') && fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                    walk(&path, parts, found)?;
                }
            }
            Ok(())
        }
    }
}

fn step(path: PathBuf, rest: &[Part], found: &mut Found) -> io::Result<()> {
    if rest.is_empty() {
        if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            found.folders.insert(folder_of(&path).to_owned());
            found.files.insert(path);
        }
        return Ok(());
    }
    walk(&path, rest, found)
}

fn names(folder: &Path, found: &mut Found) -> io::Result<Vec<String>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    found.folders.insert(folder.to_owned());
    // Names that are no UTF-8 cannot be the name of a stream.
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Whether a name fits a pattern of `*` and `?`; linear but for backtracking to the newest star.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some('?') => (p, n) = (p + 1, n + 1),
            Some(c) if *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        matches(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
    }

    #[test]
    fn stars_and_question_marks_match() {
        for (pattern, name) in [("*", "a"), ("*.log", "a.log"), ("a*b*c", "axxbyybzc"), ("?.t", "ä.t"), ("*a", "aaa")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.log", "a.logs"), ("?", ""), ("?", "ab"), ("a*b", "ac")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn files_are_found_in_order_and_hidden_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.log", "a.log", ".a.log.committed", "c.log.part", "x/d.log", "x/y/e.log", "x/y/f.txt"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let find = |pattern: &str| {
            let found = Pattern::new(&format!("{}/{pattern}", dir.path().display())).find().unwrap();
            let names =
                found.files.iter().map(|path| path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        let with_open = Pattern::new(&format!("{}/?.log", dir.path().display())).find_with_open().unwrap();
        assert_eq!(with_open.files.last(), Some(&dir.path().join("c.log.part")));
        assert_eq!(find("*"), ["a.log", "b.log"]);
        assert_eq!(find("**/*.log"), ["a.log", "b.log", "x/d.log", "x/y/e.log"]);
        assert_eq!(find("x/**/?.txt"), ["x/y/f.txt"]);
        assert_eq!(find("nothing/*"), Vec::<String>::new());
        assert_eq!(find("*/y/*"), ["x/y/e.log", "x/y/f.txt"]);
    }
}
