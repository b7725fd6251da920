//! Names of rotated files: made, found again, and put in order.

use std::{collections::BTreeSet, fs, io, path::Path};

use chrono::DateTime;
use millstream_core::{Result, Timestamp};

use crate::{error::failed, glob::OPEN};

const START_FORMAT: &str = "%Y%m%dT%H%M%SZ";
/// `20260102T030000Z`
const START_BYTES: usize = 16;

/// How the rotated files of a path are called.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    parts: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Start,
    Number,
}

/// What tells rotated files of one path apart, oldest first.
pub(crate) type Order = (String, u64);

impl Template {
    /// The template `name` for the file `path`. Whatever stands in other braces is text.
    pub(crate) fn new(name: &str, path: &Path) -> Self {
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // `a.log.gz` has the extension `.log.gz`, so that the compression stays visible at the end.
        let packed =
            [".gz", ".zst"].iter().find(|end| file.len() > end.len() && file.ends_with(**end)).map_or("", |end| end);
        let plain = &file[..file.len() - packed.len()];
        let (stem, extension) = plain.rfind('.').filter(|at| *at > 0).map_or((plain, ""), |at| plain.split_at(at));
        let extension = format!("{extension}{packed}");
        let (mut parts, mut rest) = (Vec::new(), name);
        while !rest.is_empty() {
            let known = [("{stem}", stem), ("{ext}", &extension)].into_iter().find(|(key, _)| rest.starts_with(key));
            let (piece, used) = match known {
                Some((key, text)) => (Piece::Text(text.to_owned()), key.len()),
                None if rest.starts_with("{start}") => (Piece::Start, "{start}".len()),
                None if rest.starts_with("{n}") => (Piece::Number, "{n}".len()),
                None => {
                    let next = rest.char_indices().skip(1).find(|(_, c)| *c == '{').map_or(rest.len(), |(at, _)| at);
                    (Piece::Text(rest[..next].to_owned()), next)
                }
            };
            parts.push(piece);
            rest = &rest[used..];
        }
        Template { parts }
    }

    /// The name of the file that begins at `started_at`, behind all that there are in `folder`, and behind `newest`, which
    /// may have been taken away. A clock that was set back does not change the order.
    pub(super) fn next(&self, folder: &Path, started_at: Timestamp, newest: Option<&str>) -> Result<String> {
        let now = DateTime::from_timestamp_nanos(started_at.0).format(START_FORMAT).to_string();
        let now = if self.parts.contains(&Piece::Start) { now } else { String::new() };
        let there = self.list(folder)?.into_iter().map(|(order, _)| order);
        let last = there.chain(newest.and_then(|name| self.read(name))).max();
        let (start, number) = match last {
            Some((start, number)) if start >= now => (start, number + 1),
            _ => (now, 1),
        };
        let text = self.parts.iter().map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Start => start.clone(),
            Piece::Number => number.to_string(),
        });
        Ok(text.collect())
    }

    /// The rotated files in `folder`, those that are still written included, oldest first.
    pub(crate) fn list(&self, folder: &Path) -> Result<BTreeSet<(Order, String)>> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries.map_err(|error| failed("list", folder, error))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| Some((self.read(name.strip_suffix(OPEN).unwrap_or(&name))?, name))).collect())
    }

    /// Takes a name apart.
    fn read(&self, name: &str) -> Option<Order> {
        let (mut rest, mut order) = (name, (String::new(), 0));
        for piece in &self.parts {
            let used = match piece {
                Piece::Text(text) => rest.starts_with(text.as_str()).then_some(text.len())?,
                Piece::Start => {
                    let start = rest.get(..START_BYTES)?;
                    chrono::NaiveDateTime::parse_from_str(start, START_FORMAT).ok()?;
                    order.0 = start.to_owned();
                    START_BYTES
                }
                Piece::Number => {
                    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                    order.1 = rest[..digits].parse().ok()?;
                    digits
                }
            };
            rest = &rest[used..];
        }
        rest.is_empty().then_some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let template = Template::new("{stem}-{start}-{n}{ext}", Path::new("out/app.log.gz"));
        let start = Timestamp::parse("2026-01-02T03:00:00Z").unwrap();
        let first = template.next(dir.path(), start, None).unwrap();
        assert_eq!(first, "app-20260102T030000Z-1.log.gz");
        fs::write(dir.path().join(&first), "").unwrap();
        fs::write(dir.path().join("app-20260102T030000Z-9.log.gz.part"), "").unwrap();
        fs::write(dir.path().join("app-20260101T030000Z-12.log.gz"), "").unwrap();
        fs::write(dir.path().join("app-20260102T030000Z-x.log.gz"), "").unwrap();
        assert_eq!(template.next(dir.path(), start, None).unwrap(), "app-20260102T030000Z-10.log.gz");
        let names: Vec<String> = template.list(dir.path()).unwrap().into_iter().map(|(_, name)| name).collect();
        assert_eq!(
            names,
            ["app-20260101T030000Z-12.log.gz", "app-20260102T030000Z-1.log.gz", "app-20260102T030000Z-9.log.gz.part"]
        );
    }

    #[test]
    fn names_rise_when_files_are_taken_away_and_clocks_are_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let (early, late) = (Timestamp(0), Timestamp::parse("2026-01-02T03:00:00Z").unwrap());
        let next =
            |name: &str, at, newest| Template::new(name, Path::new("a.ss")).next(dir.path(), at, newest).unwrap();
        assert_eq!(next("{stem}.{n}{ext}", late, Some("a.7.ss")), "a.8.ss");
        let timed = "{stem}-{start}-{n}{ext}";
        assert_eq!(next(timed, early, Some("a-20260102T030000Z-3.ss")), "a-20260102T030000Z-4.ss");
        assert_eq!(next(timed, late, Some("a-20260102T020000Z-3.ss")), "a-20260102T030000Z-1.ss");
        assert_eq!(next(timed, late, Some("of another template")), "a-20260102T030000Z-1.ss");
    }

    #[test]
    fn odd_templates_do_no_harm() {
        for name in ["{n}", "{{n}}", "{x}{n}", "{", "é{n}{", "{n}{n}"] {
            let template = Template::new(name, Path::new("a"));
            let _ = template.next(Path::new("/nonexistent"), Timestamp(0), None).unwrap();
        }
    }
}
