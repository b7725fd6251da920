//! VRL's diagnostics as our errors: with their place in the expression, and with what to write instead.

use millstream_core::{Error, ErrorKind};
use vrl::diagnostic::{Diagnostic, DiagnosticList, Note};

use crate::inspect::Facts;

/// Codes of diagnostics that say only that an error must be handled: a fallible expression, a fallible assignment, an
/// argument that may be of a wrong type, a fallible argument.
const FALLIBLE: [usize; 5] = [100, 103, 110, 630, 631];

/// Whether the diagnostic only says that an error is not handled.
pub(crate) fn fallible(diagnostic: &Diagnostic) -> bool {
    FALLIBLE.contains(&diagnostic.code)
}

/// Whether the diagnostic says that what is above an assigned path takes no fields.
pub(crate) fn rejects_path(diagnostic: &Diagnostic) -> bool {
    diagnostic.code == 642
}

/// The errors among diagnostics.
pub(crate) fn errors(list: &DiagnosticList) -> Vec<&Diagnostic> {
    list.iter().filter(|diagnostic| diagnostic.is_error() || diagnostic.is_bug()).collect()
}

/// The error for the first of the diagnostics. `compiles` says how many errors a mended source has left.
pub(crate) fn error(source: &str, list: &DiagnosticList, facts: &Facts, left: impl Fn(&str) -> usize) -> Error {
    let errors = errors(list);
    let Some(first) = errors.first() else {
        return Error::new(ErrorKind::Syntax, "the expression cannot be compiled");
    };
    let label = first.labels.iter().find(|label| label.primary).or(first.labels.first());
    let message = match label {
        Some(label) if !label.message.is_empty() && !first.message.contains(&label.message) => {
            format!("{}: {}", first.message, label.message)
        }
        _ => first.message.clone(),
    };
    let mut error = Error::new(ErrorKind::Syntax, message);
    let mended = fallible(first).then(|| mended_line(source, first, facts, errors.len(), left)).flatten();
    if let Some(hint) = mended.map(|line| format!("write `{line}`")).or_else(|| notes(first)) {
        error = error.hint(hint);
    }
    match label {
        Some(label) => {
            let end = label.span.end().min(source.len());
            error.span(label.span.start().min(end), end)
        }
        None => error,
    }
}

/// The line at fault with its error handled, if that can be found by trying.
fn mended_line(
    source: &str,
    diagnostic: &Diagnostic,
    facts: &Facts,
    errors: usize,
    left: impl Fn(&str) -> usize,
) -> Option<String> {
    let touches = |start: usize, end: usize| {
        diagnostic.labels.iter().any(|label| label.span.start() <= end && start <= label.span.end())
    };
    // Innermost first: a call that is an argument of another one.
    let calls = facts.calls.iter().rev().filter(|call| !call.aborts && touches(call.span.start(), call.span.end()));
    let with_mark = calls.map(|call| (call.name_end, call.name_end, "!".to_owned()));
    let operations = facts.operations.iter().filter(|operation| touches(operation.span.start(), operation.span.end()));
    let with_default = operations.filter_map(|operation| {
        let (start, end) = (operation.span.start(), operation.span.end());
        Some((start, end, format!("({}) ?? null", source.get(start..end)?)))
    });
    for (start, end, new) in with_mark.chain(with_default) {
        let (Some(before), Some(after)) = (source.get(..start), source.get(end..)) else { continue };
        let mended = format!("{before}{new}{after}");
        if left(&mended) < errors {
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            let line_end = mended[start..].find('\n').map_or(mended.len(), |at| start + at);
            return Some(mended[line_start..line_end].trim().to_owned());
        }
    }
    None
}

/// What VRL advises.
fn notes(diagnostic: &Diagnostic) -> Option<String> {
    let mut lines = Vec::new();
    for note in &diagnostic.notes {
        match note {
            Note::Hint(text) | Note::Example(text) | Note::Basic(text) if !text.trim().is_empty() => {
                lines.push(text.trim().to_owned());
            }
            _ => {}
        }
    }
    let context = diagnostic.labels.iter().filter(|label| !label.primary && !label.message.is_empty());
    lines.extend(context.map(|label| label.message.clone()));
    (!lines.is_empty()).then(|| lines.join("; "))
}
