//! Expressions without their quotes: what YAML makes of them, and how they should be written.

use granit_parser::{ErrorKind as Yaml, ScanError};
use millstream_core::{Error, ErrorKind};

use crate::{
    source::{Problem, Source, Span},
    tree::{Node, Pair, Style, Value},
};

/// The text in single quotes.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.trim().replace('\'', "''"))
}

/// `quote this expression`, shown with its key.
pub(crate) fn hint(key: Option<&str>, text: &str) -> String {
    match key {
        Some(key) => format!("quote this expression: `{key}: {}`", quoted(text)),
        None => format!("quote this expression: `{}`", quoted(text)),
    }
}

fn problem(source: &Source, key: Option<&str>, span: Span, message: impl Into<String>) -> Problem {
    let text = source.slice(span);
    let mut problem = Problem::new(span, Error::new(ErrorKind::Syntax, message)).hint(hint(key, text));
    // A line break inside would need more than quotes.
    problem.fix = (!text.contains(['\n', '\r'])).then(|| (span, quoted(text)));
    problem
}

/// A `!` at the start of a value.
pub(crate) fn tag(source: &Source, key: Option<&str>, span: Span) -> Problem {
    let word = source.slice(span).split_whitespace().next().unwrap_or("!");
    problem(source, key, span, format!("`{word}` is a YAML tag, and tags mean nothing here"))
}

/// An expression that YAML has cut at a comma: `{ key: merge(.a, .b) }` has the key `.b)` without a value. The pairs become
/// what was meant, so that the rest of the file is read as if it were quoted.
pub(crate) fn split_expression(source: &Source, pairs: &mut Vec<Pair>) -> Option<Problem> {
    let cut = |pair: &Pair| pair.value.null() && source.slice(pair.value.span).is_empty();
    let (at, last) = pairs.iter().enumerate().find(|(_, pair)| {
        pair.key.ends_with([')', '}', ']']) && cut(pair) && source.slice(pair.key_span) == pair.key
    })?;
    let message = format!("key `{}` has no value", last.key);
    let last = last.key_span;
    let Some(first) = pairs.get(..at)?.iter().rposition(|pair| !cut(pair)) else {
        return Some(problem(source, None, last, message));
    };
    pairs.drain(first + 1..=at);
    let meant = pairs.get_mut(first)?;
    let whole = Span::new(meant.value.span.start, last.end);
    meant.value = Node { value: Value::Text(source.slice(whole).to_owned()), span: whole, style: Style::Plain };
    let problem = problem(source, Some(&meant.key), whole, message);
    Some(Problem { span: last, ..problem })
}

/// An unknown key that is an expression, or a part of one.
pub(crate) fn unknown_key(key: &str) -> Option<String> {
    key.ends_with([')', '}']).then(|| hint(None, key))
}

/// An expression that is no text: nothing, or `[.a, .b]` and `{.a}`, which are a list and a map to YAML. `only`: nothing but
/// a text may stand here.
pub(crate) fn no_text(source: &Source, key: Option<&str>, key_span: Span, node: &Node, only: bool) -> Option<Problem> {
    match &node.value {
        Value::List(_) | Value::Map(_) if only && node.style == Style::Flow => {
            Some(problem(source, key, node.span, format!("an expression must be a text, not {}", node.kind())))
        }
        Value::Map(pairs) if !pairs.is_empty() && pairs.iter().all(|pair| pair.value.null()) => {
            Some(problem(source, key, node.span, "an expression in braces is a map"))
        }
        Value::Null => {
            let mut written = node.span;
            if source.slice(written).is_empty() {
                // What follows the key on its line can only be a comment.
                let line = source.line(source.position(key_span.end).0);
                let rest = source.slice(Span::new(key_span.end, line.end));
                let comment = rest.find('#').filter(|at| rest.get(..*at).is_some_and(|gap| gap.trim() == ":"));
                match comment {
                    Some(at) => written = Span::new(key_span.end + at, line.end),
                    None => {
                        let name = key.unwrap_or("expression");
                        let error = Error::new(ErrorKind::Option, format!("`{name}` has no expression"));
                        let hint = format!("write and quote this expression: `{name}: '...'`");
                        return Some(Problem::new(key_span, error.hint(hint)));
                    }
                }
            }
            Some(problem(source, key, written, "an expression is missing: YAML reads this as nothing"))
        }
        _ => None,
    }
}

/// What the parser cannot read at all. If it stumbled over an unquoted text, the hint is that text with quotes.
pub(crate) fn unreadable(source: &Source, cause: &ScanError) -> Problem {
    let offset = cause.marker().byte_offset().unwrap_or(0).min(source.text.len());
    let error = Error::new(ErrorKind::Syntax, format!("the file cannot be read: {}", cause.info()));
    let at = Span::new(
        offset,
        offset + source.text.get(offset..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8),
    );
    let own =
        matches!(cause.kind(), Yaml::UnclosedQuotedScalar | Yaml::UnclosedFlowCollection { .. } | Yaml::UnknownAnchor);
    match unquoted(source, offset).filter(|_| !own) {
        Some((key, span, exact)) => {
            let mut problem = Problem::new(at, error).hint(hint(Some(key), source.slice(span)));
            problem.fix = exact.then(|| (span, quoted(source.slice(span))));
            problem
        }
        None => match cause.kind() {
            Yaml::UnclosedQuotedScalar => Problem::new(at, error).hint("the closing quote is missing"),
            Yaml::UnclosedFlowCollection { .. } => Problem::new(at, error).hint("the closing bracket is missing"),
            Yaml::UnknownAnchor => Problem::new(at, error).hint("put `&NAME` before the value that `*NAME` repeats"),
            _ => Problem::new(at, error).hint("is it indented with spaces like its neighbours?"),
        },
    }
}

/// The value that stands at a byte of a line `key: value`, with its key, and whether its end is certain.
fn unquoted(source: &Source, offset: usize) -> Option<(&str, Span, bool)> {
    let line = source.line(source.position(offset).0);
    let text = source.slice(line);
    let within = offset.checked_sub(line.start)?.min(text.len());
    let start = text.len() - text.trim_start_matches([' ', '\t', '-']).len();
    let (key, value) = key_and_value(text, start)?;
    match text.get(value..)?.chars().next()? {
        '|' | '>' => None,
        '{' | '[' => {
            flow_value(text, within).map(|(key, from, to)| (key, Span::new(line.start + from, line.start + to), false))
        }
        _ => (within >= value).then(|| (key, Span::new(line.start + value, line.end), true)),
    }
}

/// `word: ` at a byte of a line: the word, and where its value begins.
fn key_and_value(text: &str, start: usize) -> Option<(&str, usize)> {
    let rest = text.get(start..)?;
    let colon = rest.find(':')?;
    let key = rest.get(..colon)?;
    let word = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    let after = rest.get(colon + 1..)?;
    let gap = after.len() - after.trim_start().len();
    (word && gap > 0 && gap < after.len()).then_some((key, start + colon + 1 + gap))
}

/// Inside `{ a: x, b: y }` the innermost value before a byte, up to the next comma or bracket after it.
fn flow_value(text: &str, within: usize) -> Option<(&str, usize, usize)> {
    let starts =
        text.char_indices().filter(|(at, c)| *at < within && matches!(c, '{' | ',' | '[')).map(|(at, _)| at + 1);
    let mut candidates = starts.filter_map(|at| {
        let gap = text.get(at..)?.len() - text.get(at..)?.trim_start().len();
        key_and_value(text, at + gap)
    });
    let plain = |at: usize| text.get(at..).is_some_and(|rest| !rest.starts_with(['{', '[']));
    let (key, from) = candidates.rfind(|(_, value)| *value <= within && plain(*value))?;
    let tail = text.get(within..)?;
    let to = within + tail.find([',', '}', ']']).unwrap_or(tail.len());
    Some((key, from, to))
}
