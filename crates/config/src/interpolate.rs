//! `${NAME}`, `${NAME:-default}`, `${NAME:?message}`, `${file:/path}`; `$${` is a plain `${`.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
};

use millstream_core::{Error, ErrorKind, Result, suggest};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::variables::{Variables, is_name};

/// Largest file that `${file:...}` takes: it is for secrets and certificates.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Defaults in defaults.
const NESTING_MAX: usize = 8;

/// All but what RFC 3986 calls unreserved.
const IN_URL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Between nodes and before ports nothing is decoded, and a list of them may be one value.
const IN_NODES: &AsciiSet = &IN_URL.remove(b':').remove(b',').remove(b'[').remove(b']');
/// The folder of the file is a path.
const IN_PATH: &AsciiSet = &IN_URL.remove(b'/');

/// A variable as the file's `vars` declares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared {
    pub(crate) default: Option<String>,
    pub(crate) secret: bool,
}

/// All that can be put into a text.
pub(crate) struct Scope<'a> {
    pub(crate) variables: &'a Variables,
    pub(crate) declared: BTreeMap<String, Declared>,
    /// What `${dir}` is.
    pub(crate) dir: PathBuf,
    /// What must never be printed.
    pub(crate) secrets: RefCell<BTreeSet<String>>,
    /// Names of the variables that the file asks for.
    pub(crate) used: RefCell<BTreeSet<String>>,
}

/// What could not be put in, and which bytes of the text are at fault.
pub(crate) struct Fault(pub(crate) Range<usize>, pub(crate) Error);

type Put<T> = std::result::Result<T, Fault>;

enum Part<'t> {
    /// As it stands; `$${` is one of its own.
    Plain(&'t str),
    Value {
        body: &'t str,
        at: Range<usize>,
    },
}

impl Scope<'_> {
    /// A variable's value, without regard to defaults in the text.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        self.used.borrow_mut().insert(name.to_owned());
        let declared = self.declared.get(name);
        let value = self.variables.get(name).or_else(|| declared?.default.as_deref())?.to_owned();
        let upper = name.to_ascii_uppercase();
        let telling = ["PASSWORD", "PASSWD", "SECRET", "TOKEN"].iter().any(|word| upper.contains(word));
        if declared.map_or(telling, |declared| declared.secret || telling) {
            self.hide(&value);
        }
        Some(value)
    }

    /// The text with all values put in; `None` if there is nothing to put in.
    pub(crate) fn text(&self, text: &str, url: bool) -> Put<Option<String>> {
        if !text.contains("${") {
            return Ok(None);
        }
        self.expand(text, url, 0).map(Some)
    }

    fn expand(&self, text: &str, url: bool, depth: usize) -> Put<String> {
        let parts = parts(text)?;
        let mut out = String::new();
        for part in &parts {
            match part {
                Part::Plain(plain) => out.push_str(plain),
                Part::Value { body, at } => {
                    let value = self.body(body, at, depth)?;
                    let set = url.then(|| encoding(&out, text.get(at.end..).unwrap_or_default(), body)).flatten();
                    match set {
                        Some(set) => {
                            let encoded = utf8_percent_encode(&value, set).to_string();
                            if self.secrets.borrow().contains(&value) {
                                self.hide(&encoded);
                            }
                            out.push_str(&encoded);
                        }
                        None => out.push_str(&value),
                    }
                }
            }
        }
        Ok(out)
    }

    /// What stands between `${` and `}`.
    fn body(&self, body: &str, at: &Range<usize>, depth: usize) -> Put<String> {
        let fault = |error: Error| Fault(at.clone(), error);
        if let Some(path) = body.strip_prefix("file:") {
            let text = read_secret(Path::new(path)).map_err(fault)?;
            self.hide(&text);
            return Ok(text);
        }
        let end = body.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(body.len());
        let (name, rest) = body.split_at(end);
        if name == "dir" && rest.is_empty() {
            return Ok(self.dir.display().to_string());
        }
        if !is_name(name) || !(rest.is_empty() || rest.starts_with(":-") || rest.starts_with(":?")) {
            let error = Error::new(ErrorKind::Syntax, format!("cannot read `${{{body}}}`"));
            return Err(fault(error.hint(
                "write `${NAME}`, `${NAME:-default}`, `${NAME:?message}` or `${file:/path}`; a plain `${` is `$${`",
            )));
        }
        let value = self.value(name);
        if let Some(default) = rest.strip_prefix(":-") {
            // As in shells: an empty value counts as none.
            return match value.filter(|value| !value.is_empty()) {
                Some(value) => Ok(value),
                None if depth < NESTING_MAX => {
                    self.expand(default, false, depth + 1).map_err(|Fault(_, error)| fault(error))
                }
                None => Err(fault(Error::new(ErrorKind::Syntax, "defaults are nested too deeply"))),
            };
        }
        if let Some(message) = rest.strip_prefix(":?") {
            let missing = || {
                let message = if message.is_empty() { "is not set" } else { message };
                fault(Error::new(ErrorKind::Option, format!("variable `{name}`: {message}")).hint(how_to_set(name)))
            };
            return value.filter(|value| !value.is_empty()).ok_or_else(missing);
        }
        value.ok_or_else(|| fault(self.missing(name)))
    }

    /// A variable that nothing gives a value.
    pub(crate) fn missing(&self, name: &str) -> Error {
        let known: Vec<&String> = self.variables.names().chain(self.declared.keys()).collect();
        let near = suggest(name, &known).filter(|hint| hint.starts_with("did you mean"));
        let hint = near.map_or_else(|| how_to_set(name), |near| format!("{near} {}", how_to_set(name)));
        Error::new(ErrorKind::Option, format!("variable `{name}` is not set")).hint(hint)
    }

    fn hide(&self, secret: &str) {
        if !secret.is_empty() {
            self.secrets.borrow_mut().insert(secret.to_owned());
        }
    }
}

fn how_to_set(name: &str) -> String {
    format!("set it with `--set {name}=...` or in the environment, or give it a default: `${{{name}:-...}}`")
}

/// Which characters of a value are encoded at this place of a URL; `None`: it is the URL, or its beginning, itself.
fn encoding(before: &str, after: &str, body: &str) -> Option<&'static AsciiSet> {
    if before.is_empty() {
        return None;
    }
    if body == "dir" {
        return Some(IN_PATH);
    }
    let authority = before.split_once("://").map(|(_, authority)| authority);
    let in_authority = authority.is_some_and(|authority| !authority.contains(['/', '?']));
    let login_follows = after.split(['/', '?']).next().is_some_and(|rest| rest.contains('@'));
    Some(if in_authority && !login_follows { IN_NODES } else { IN_URL })
}

fn parts(text: &str) -> Put<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(found) = rest.find("${") else {
            parts.push(Part::Plain(rest));
            break;
        };
        let escaped = found > 0 && rest.as_bytes().get(found - 1) == Some(&b'$');
        let plain = if escaped { found - 1 } else { found };
        parts.push(Part::Plain(rest.get(..plain).unwrap_or_default()));
        if escaped {
            parts.push(Part::Plain("${"));
            at += found + 2;
            continue;
        }
        let start = at + found;
        let Some(length) = closing(rest.get(found + 2..).unwrap_or_default()) else {
            let error = Error::new(ErrorKind::Syntax, "`${` has no closing `}`").hint("a plain `${` is written `$${`");
            return Err(Fault(start..text.len(), error));
        };
        let end = start + 2 + length + 1;
        parts.push(Part::Value { body: text.get(start + 2..end - 1).unwrap_or_default(), at: start..end });
        at = end;
    }
    Ok(parts)
}

/// The `}` that closes: a default may hold values of its own.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut before = '\0';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

/// A file's text without the line feed at its end, which editors and secret stores add.
fn read_secret(path: &Path) -> Result<String> {
    let wrong = |cause| Error::io(format!("cannot read `{}`", path.display()), cause);
    let file = std::fs::File::open(path).map_err(wrong)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(wrong)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let message = format!("cannot take the text of `{}`: it is larger than 1 MiB", path.display());
        return Err(Error::new(ErrorKind::TooLarge, message).with_kind(ErrorKind::Option));
    }
    let length = text.strip_suffix('\n').map_or(text.len(), |rest| rest.strip_suffix('\r').unwrap_or(rest).len());
    text.truncate(length);
    Ok(text)
}

/// Variables that an expression reads as `%vars.NAME`, each with its bytes.
pub(crate) fn in_expression(text: &str) -> Vec<(&str, Range<usize>)> {
    const MARK: &str = "%vars.";
    let found = text.match_indices(MARK).filter_map(|(at, _)| {
        let start = at + MARK.len();
        let rest = text.get(start..)?;
        let name = rest.get(..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len()))?;
        is_name(name).then_some((name, at..start + name.len()))
    });
    found.collect()
}
