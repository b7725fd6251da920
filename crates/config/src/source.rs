//! The text of a file, and where in it a byte stands.

use std::path::{Path, PathBuf};

use millstream_core::{Error, ErrorKind};

use crate::diagnostic::Diagnostic;

/// Largest pipeline file in bytes: a thousand times what people write, and small enough to hold several times over.
pub(crate) const FILE_BYTES_MAX: usize = 16 << 20;

/// Problems of one file that are told: nobody reads more, and a place in a very long line takes time to find.
pub(crate) const PROBLEMS_MAX: usize = 100;

/// A range of bytes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Span { start, end: end.max(start) }
    }
}

/// An error and the bytes that it is about.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) error: Error,
    pub(crate) span: Span,
    /// What to put in place of which bytes.
    pub(crate) fix: Option<(Span, String)>,
}

impl Problem {
    pub(crate) fn new(span: Span, error: Error) -> Self {
        Problem { error, span, fix: None }
    }

    pub(crate) fn option(span: Span, message: impl Into<String>) -> Self {
        Problem::new(span, Error::new(ErrorKind::Option, message))
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error = self.error.hint(hint);
        self
    }
}

/// A file as read.
#[derive(Debug)]
pub(crate) struct Source {
    /// As the user named it: messages show it.
    pub(crate) path: PathBuf,
    /// Without a byte order mark.
    pub(crate) text: String,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl Source {
    /// Refuses what is no text: then nothing of the file can be shown either.
    pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Self, Box<Diagnostic>> {
        let wrong = |message: String| Error::new(ErrorKind::Syntax, message);
        if bytes.len() > FILE_BYTES_MAX {
            let message = format!("`{}` is larger than {} MiB", path.display(), FILE_BYTES_MAX >> 20);
            return Err(Box::new(wrong(message).hint("is this a pipeline file?").into()));
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
            Err(cause) => {
                let line = 1 + bytes.iter().take(cause.valid_up_to()).filter(|byte| **byte == b'\n').count();
                let message = format!("`{}` is not UTF-8 (line {line})", path.display());
                return Err(Box::new(wrong(message).caused_by(cause).hint("is this a pipeline file?").into()));
            }
        };
        let source = Source { path: path.to_owned(), lines: line_starts(text), text: text.to_owned() };
        let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{85}');
        if let Some((at, c)) = source.text.char_indices().find(|(_, c)| control(*c)) {
            let message = format!("the file holds the control character {}", c.escape_unicode());
            let error = wrong(message).hint("write it as an escape in double quotes, such as \"\\e\" or \"\\x01\"");
            return Err(Box::new(Diagnostic::at(&source, Problem::new(Span::new(at, at + c.len_utf8()), error))));
        }
        Ok(source)
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(start..offset.min(self.text.len())).map_or(0, |before| before.chars().count());
        (line, column + 1)
    }

    /// `file:line:column` of a byte.
    pub(crate) fn location(&self, offset: usize) -> String {
        let (line, column) = self.position(offset);
        format!("{}:{line}:{column}", self.path.display())
    }

    /// Bytes of the line (from 1) without its line break.
    pub(crate) fn line(&self, line: usize) -> Span {
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let end = self.lines.get(line).copied().unwrap_or(self.text.len());
        let text = self.text.get(start..end).unwrap_or_default();
        Span::new(start, start + text.trim_end_matches(['\n', '\r']).len())
    }

    pub(crate) fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }
}

/// Lines end with LF, CR LF or a lone CR, as in YAML.
fn line_starts(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let breaks = bytes.iter().enumerate().filter(|(i, byte)| match byte {
        b'\n' => true,
        b'\r' => bytes.get(i + 1) != Some(&b'\n'),
        _ => false,
    });
    std::iter::once(0).chain(breaks.map(|(i, _)| i + 1)).collect()
}
