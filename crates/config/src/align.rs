//! Where in the file a byte of a parsed text stands: escapes, folded lines and indentation undone.

use crate::{
    source::Source,
    tree::{Node, Style},
};

/// The byte of the file that the byte `at` of a node's text comes from; `None` if text and file do not run together.
pub(crate) fn offset(source: &Source, node: &Node, at: usize) -> Option<usize> {
    let text = node.text()?;
    let mut walk = Walk { raw: source.slice(node.span), at: 0, style: node.style, indent: 0 };
    match node.style {
        Style::Single | Style::Double => walk.at = 1,
        Style::Literal | Style::Folded => walk.indent = indent(source, node),
        _ => {}
    }
    let mut decoded = text.char_indices().peekable();
    if walk.indent > 0 {
        // Empty lines at the top of a block stand before the node.
        while decoded.next_if(|(i, c)| *c == '\n' && *i < at).is_some() {}
    }
    while let Some((i, c)) = decoded.next() {
        walk.continuation();
        if at < i + c.len_utf8() {
            return Some(node.span.start + walk.at);
        }
        let breaks = if matches!(c, '\n' | ' ') { walk.fold() } else { 0 };
        if breaks == 0 {
            walk.character(c)?;
            continue;
        }
        // One break became a space, each further one a line feed; in a folded block it depends on what is around.
        let mut more = if node.style == Style::Folded { usize::MAX } else { breaks.saturating_sub(2) };
        while c == '\n' && more > 0 && decoded.next_if(|(i, c)| *c == '\n' && *i < at).is_some() {
            more -= 1;
        }
    }
    Some(node.span.start + walk.at)
}

/// Spaces that each line of a block text loses: the node begins behind those of its first line.
fn indent(source: &Source, node: &Node) -> usize {
    node.span.start - source.line(source.position(node.span.start).0).start
}

struct Walk<'a> {
    raw: &'a str,
    at: usize,
    style: Style,
    indent: usize,
}

impl Walk<'_> {
    fn rest(&self) -> &str {
        self.raw.get(self.at..).unwrap_or_default()
    }

    /// Steps over line breaks that became spaces or line feeds, with the space around them; how many there were.
    fn fold(&mut self) -> usize {
        let block = matches!(self.style, Style::Literal | Style::Folded);
        let gap = if block { 0 } else { self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len() };
        if !self.rest().get(gap..).is_some_and(|rest| rest.starts_with(['\n', '\r'])) {
            return 0;
        }
        self.at += gap;
        let mut breaks = 0;
        while let Some(length) = line_break(self.rest()) {
            self.at += length;
            breaks += 1;
            let rest = self.rest();
            let spaces = rest.len() - rest.trim_start_matches(' ').len();
            if block {
                self.at += spaces.min(self.indent);
                if self.style == Style::Literal {
                    break;
                }
            } else {
                self.at += rest.len() - rest.trim_start_matches([' ', '\t']).len();
            }
        }
        breaks
    }

    /// Steps over line breaks behind a backslash, which stand for nothing, with the space after them.
    fn continuation(&mut self) {
        while self.style == Style::Double
            && let Some(rest) = self.rest().strip_prefix('\\')
            && let Some(length) = line_break(rest)
        {
            let rest = rest.get(length..).unwrap_or_default();
            self.at += 1 + length + rest.len() - rest.trim_start_matches([' ', '\t']).len();
        }
    }

    /// Steps over what became the character `c`.
    fn character(&mut self, c: char) -> Option<()> {
        if self.style == Style::Double
            && let Some(rest) = self.rest().strip_prefix('\\')
        {
            self.at += escape(rest, c)?;
            return Some(());
        }
        if self.style == Style::Single && c == '\'' {
            self.at += 2;
            return Some(());
        }
        if !self.rest().starts_with(c) {
            return None;
        }
        self.at += c.len_utf8();
        Some(())
    }
}

/// Bytes of an escape with its backslash; `rest` begins behind it.
fn escape(rest: &str, c: char) -> Option<usize> {
    Some(match rest.chars().next()? {
        'x' => 4,
        // Characters beyond the first plane may be written as in JSON, in two halves.
        'u' if c > '\u{ffff}' => 12,
        'u' => 6,
        'U' => 10,
        other => 1 + other.len_utf8(),
    })
}

fn line_break(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [b'\r', b'\n', ..] => Some(2),
        [b'\r' | b'\n', ..] => Some(1),
        _ => None,
    }
}
