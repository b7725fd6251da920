//! An error as people and tools see it: with its place, the line of the file, and what to do.

use std::fmt;

use millstream_core::Error;
use serde_json::{Value, json};

use crate::source::{Problem, Source};

/// Characters of a line that are shown: more than a terminal has, and not megabytes of a JSON file on one line.
const EXCERPT_CHARS_MAX: usize = 240;
/// Bytes around a place in which secrets are looked for.
const SECRET_BYTES_MAX: usize = 4096;

/// An error with its place in a pipeline file, ready to be shown. [`fmt::Display`] is [`Diagnostic::render`] without colour.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    error: Error,
    excerpt: Option<Excerpt>,
    fix: Option<Fix>,
}

/// What to write instead: bytes `start..end` of the file become `replacement`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// First byte that goes; counted without a byte order mark.
    pub start: usize,
    /// The byte after the last one that goes.
    pub end: usize,
    /// What comes in their place.
    pub replacement: String,
}

#[derive(Clone, Debug)]
struct Excerpt {
    file: String,
    line: usize,
    column: usize,
    /// Characters of the text before the underline.
    before: usize,
    /// Characters to underline, at least 1.
    width: usize,
    /// The line of the file, or a part of a long one; secrets hidden.
    text: String,
}

impl Diagnostic {
    /// A problem of a file that is there to be shown.
    pub(crate) fn at(source: &Source, problem: Problem) -> Self {
        let (line, column) = source.position(problem.span.start);
        let span = source.line(line);
        let (text, before) = excerpt(source.slice(span), problem.span.start.saturating_sub(span.start));
        let marked = source.text.get(problem.span.start..problem.span.end.min(span.end)).unwrap_or_default();
        let width = marked.trim_end().chars().take(EXCERPT_CHARS_MAX).count();
        let width = width.min(text.chars().count().saturating_sub(before)).max(1);
        let file = source.path.display().to_string();
        let excerpt = Excerpt { file, line, column, before, width, text };
        let error = problem.error.located(source.location(problem.span.start));
        let fix = problem.fix.map(|(span, replacement)| Fix { start: span.start, end: span.end, replacement });
        Diagnostic { error, excerpt: Some(excerpt), fix }
    }

    /// The error, with `file:line:column` in its place where that is known.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The error alone.
    pub fn into_error(self) -> Error {
        self.error
    }

    /// File, line and column, the latter two from 1; columns count characters.
    pub fn position(&self) -> Option<(&str, usize, usize)> {
        match &self.excerpt {
            Some(excerpt) => Some((&excerpt.file, excerpt.line, excerpt.column)),
            None => self.error.place()?.location.as_deref().and_then(split_location),
        }
    }

    /// The mended text, where it is certain; `check --fix` writes it.
    pub fn fix(&self) -> Option<&Fix> {
        self.fix.as_ref()
    }

    /// Several lines for people, without a line feed at the end; `colour` adds ANSI escapes.
    ///
    /// ```text
    /// error[E_OPTION]: there is no step `fliter`
    ///   --> words.yaml:6:5
    ///    |
    ///  6 |   - fliter: '. != ""'
    ///    |     ^^^^^^
    ///    = hint: did you mean `filter`?
    /// ```
    pub fn render(&self, colour: bool) -> String {
        let paint = |code: &str, text: &str| match colour {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        };
        let (red, blue, bold) = ("1;31", "1;34", "1");
        let head = format!("error[{}]", self.error.facts().code);
        let mut lines =
            vec![format!("{}{}", paint(red, &head), paint(bold, &format!(": {}", printable(self.error.message()))))];
        let mut gutter = 1;
        if let Some((file, line, column)) = self.position() {
            let number = line.to_string();
            gutter = number.len();
            let pad = " ".repeat(gutter);
            lines.push(format!("{pad} {} {}", paint(blue, "-->"), printable(&format!("{file}:{line}:{column}"))));
            if let Some(excerpt) = &self.excerpt {
                let (bar, number) = (paint(blue, "|"), paint(blue, &number));
                let before = " ".repeat(excerpt.before);
                let under = paint(red, &"^".repeat(excerpt.width));
                lines.push(format!("{pad}  {bar}"));
                lines.push(format!(" {number} {bar} {}", printable(&excerpt.text)));
                lines.push(format!("{pad}  {bar} {before}{under}"));
            }
        }
        let pad = " ".repeat(gutter);
        let sign = paint(blue, "=");
        for cause in causes(&self.error) {
            lines.push(format!("{pad}  {sign} cause: {}", printable(&cause).replace('\n', &format!("\n{pad}    "))));
        }
        if let Some(hint) = self.error.hint_text() {
            lines.push(format!("{pad}  {sign} hint: {}", printable(hint)));
        }
        lines.join("\n")
    }

    /// For tools: `code`, `message`, `file`, `line`, `column`, `hint`, `causes`; what is not known is null.
    pub fn to_json(&self) -> Value {
        let position = self.position();
        json!({
            "code": self.error.facts().code,
            "message": self.error.message(),
            "file": position.map(|(file, ..)| file),
            "line": position.map(|(_, line, _)| line),
            "column": position.map(|(.., column)| column),
            "hint": self.error.hint_text(),
            "causes": causes(&self.error),
        })
    }
}

/// An error of something else than a file, or one that is located already.
impl From<Error> for Diagnostic {
    fn from(error: Error) -> Self {
        Diagnostic { error, excerpt: None, fix: None }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// The text of one file with every fix of its own diagnostics; of fixes that overlap the first is taken. Where YAML cannot read
/// on after a mistake there may be more behind it: read and mend again until no fix is left.
pub fn apply_fixes(text: &str, diagnostics: &[Diagnostic]) -> String {
    let (mark, text) = match text.strip_prefix('\u{feff}') {
        Some(rest) => ("\u{feff}", rest),
        None => ("", text),
    };
    let mut fixes: Vec<&Fix> = diagnostics.iter().filter_map(Diagnostic::fix).collect();
    fixes.sort_by_key(|fix| (fix.start, fix.end));
    let mut mended = mark.to_owned();
    let mut at = 0;
    for fix in fixes {
        if let Some(before) = text.get(at..fix.start) {
            mended.push_str(before);
            mended.push_str(&fix.replacement);
            at = fix.end;
        }
    }
    mended.push_str(text.get(at..).unwrap_or_default());
    mended
}

/// The line around its byte `at`, and how many characters stand before that byte.
fn excerpt(line: &str, at: usize) -> (String, usize) {
    let floor = |at: usize| (0..=at.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    // Secrets are looked for in more than is shown, because half of one is not recognised.
    let (from, to) = (floor(at.saturating_sub(SECRET_BYTES_MAX)), floor(at + SECRET_BYTES_MAX));
    let hidden = hide_secrets(line.get(from..to).unwrap_or_default());
    let before = line.get(from..floor(at)).map_or(0, |before| before.chars().count());
    if from == 0 && to == line.len() && before + hidden.chars().skip(before).count() <= EXCERPT_CHARS_MAX {
        return (hidden, before);
    }
    let skipped = before.saturating_sub(EXCERPT_CHARS_MAX / 2);
    (hidden.chars().skip(skipped).take(EXCERPT_CHARS_MAX).collect(), before - skipped)
}

fn causes(error: &Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes
}

fn split_location(location: &str) -> Option<(&str, usize, usize)> {
    let (rest, column) = location.rsplit_once(':')?;
    let (file, line) = rest.rsplit_once(':')?;
    Some((file, line.parse().ok()?, column.parse().ok()?))
}

/// One character for one, so that the underline stays where it belongs; control characters could drive a terminal.
fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\t' => ' ',
        '\n' => '\n',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// Passwords that stand in the file itself: in URLs, and as values of keys that say what they are.
fn hide_secrets(line: &str) -> String {
    let mut hidden: Vec<char> = line.chars().collect();
    let mut hide = |from: usize, to: usize| {
        let skip = line.get(..from).map_or(0, |before| before.chars().count());
        let count = line.get(from..to).map_or(0, |text| text.chars().count());
        hidden.iter_mut().skip(skip).take(count).for_each(|c| *c = '*');
    };
    for (at, _) in line.match_indices("://") {
        let start = at + 3;
        let rest = line.get(start..).unwrap_or_default();
        let authority = rest.get(..rest.find(['/', '?', '"', '\'', ' ']).unwrap_or(rest.len())).unwrap_or_default();
        if let Some((colon, end)) = authority.find(':').zip(authority.rfind('@')).filter(|(colon, end)| colon < end) {
            hide(start + colon + 1, start + end);
        }
    }
    let lower = line.to_ascii_lowercase();
    for word in ["password", "secret", "token"] {
        for (at, _) in lower.match_indices(word) {
            let after = line.get(at..).and_then(|rest| rest.find([':', '=']).map(|colon| at + colon + 1));
            let name = |from: usize, to: usize| {
                line.get(from..to).is_some_and(|gap| gap.chars().all(|c| c.is_alphanumeric() || "_-\"' ".contains(c)))
            };
            let Some(from) = after.filter(|from| name(at, from - 1)) else { continue };
            let rest = line.get(from..).unwrap_or_default();
            let gap = rest.len() - rest.trim_start().len();
            let value = rest.trim_start();
            // `secret: true` says that a variable is one; `${NAME}` shows nothing.
            let harmless = ["true", "false", "${", "\"${", "'${", "{"].iter().any(|start| value.starts_with(start));
            let end = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => {
                    value.get(1..).and_then(|inner| inner.find(quote)).map_or(value.len(), |at| at + 2)
                }
                _ => value.find([',', '}', '&']).unwrap_or(value.len()),
            };
            if !harmless {
                hide(from + gap, from + gap + end);
            }
        }
    }
    hidden.into_iter().collect()
}
