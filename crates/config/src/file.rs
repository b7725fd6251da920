//! A pipeline file that has been read: its spec, and the way back from an option's path to a place in the text.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
};

use millstream_core::Error;
use millstream_runtime::PipelineSpec;

use crate::{
    diagnostic::Diagnostic,
    quoting,
    resolve::inside,
    source::{Problem, Source, Span},
    tree::{Node, Value},
};

/// A pipeline file as read and understood.
///
/// It outlives its spec, because the errors of the planner, and of expressions at run time, lie in its text.
pub struct PipelineFile {
    pub(crate) spec: PipelineSpec,
    pub(crate) source: Source,
    pub(crate) root: Node,
    pub(crate) changed: HashSet<usize>,
    pub(crate) secrets: Secrets,
    pub(crate) used: BTreeSet<String>,
}

/// Texts that must never be printed.
pub(crate) struct Secrets(pub(crate) BTreeSet<String>);

/// Shows what it is only: text and values may hold secrets.
impl std::fmt::Debug for PipelineFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipelineFile").field("name", &self.spec.name).field("path", &self.source.path).finish()
    }
}

impl PipelineFile {
    /// The pipeline as written.
    pub fn spec(&self) -> &PipelineSpec {
        &self.spec
    }

    /// The file, as it was named.
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// The text of the file, without a byte order mark.
    pub fn text(&self) -> &str {
        &self.source.text
    }

    /// Names of the variables that the file asks for, declared or not.
    pub fn variables_used(&self) -> impl Iterator<Item = &str> {
        self.used.iter().map(String::as_str)
    }

    /// Gives an error that names an option's path in the whole file (an entry's `place` and the component's own path) its
    /// `file:line:column`: the key for one that is not known, else the value, or the bytes inside a text that its span
    /// names. Values of secrets in it are hidden. An error that has a location keeps it.
    pub fn locate(&self, error: Error) -> Error {
        self.diagnostic(error).into_error()
    }

    /// The same, with the line of the file.
    pub fn diagnostic(&self, error: Error) -> Diagnostic {
        let error = self.secrets.hide(error);
        if error.place().is_some_and(|place| place.location.is_some()) {
            return error.into();
        }
        let path = error.place().map(|place| place.path.clone()).unwrap_or_default();
        let span = point(&self.source, &self.changed, &self.root, None, &path, &error);
        let hint =
            path.last().filter(|_| error.message().starts_with("unknown ")).and_then(|key| quoting::unknown_key(key));
        let error = hint.into_iter().fold(error, |error, hint| error.hint(hint));
        Diagnostic::at(&self.source, Problem::new(span, error))
    }
}

impl Secrets {
    /// The error with `***` for every secret, in its message, hint and causes.
    pub(crate) fn hide(&self, error: Error) -> Error {
        let shows = |text: &str| self.text(text) != text;
        if !shows(&error.chain()) && !error.hint_text().is_some_and(shows) {
            return error;
        }
        let kind = error.kind();
        let mut hidden = Error::new(kind, self.text(error.message()));
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            causes.push(self.text(&cause.to_string()));
            next = cause.source();
        }
        let cause = causes.into_iter().rev().fold(None::<Error>, |inner, message| {
            let cause = Error::new(kind, message);
            Some(inner.into_iter().fold(cause, |cause, inner| cause.caused_by(inner)))
        });
        hidden = cause.into_iter().fold(hidden, |hidden, cause| hidden.caused_by(cause));
        hidden = error.hint_text().into_iter().fold(hidden, |hidden, hint| hidden.hint(self.text(hint)));
        let Some(place) = error.place() else { return hidden };
        hidden = place.path.iter().rev().fold(hidden, |hidden, key| hidden.within(key));
        hidden = place.span.into_iter().fold(hidden, |hidden, (start, end)| hidden.span(start, end));
        place.location.iter().fold(hidden, |hidden, location| hidden.located(location))
    }

    fn text(&self, text: &str) -> String {
        // Longest first, so that none is left behind because a part of it went.
        let mut secrets: Vec<&String> = self.0.iter().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.into_iter().fold(text.to_owned(), |text, secret| {
            // In a log they may stand in quotes.
            let escaped = secret.escape_debug().to_string();
            let text = text.replace(secret.as_str(), "***");
            if escaped == *secret { text } else { text.replace(&escaped, "***") }
        })
    }
}

/// The bytes that an error with a path from `root` is about.
pub(crate) fn point(
    source: &Source,
    changed: &HashSet<usize>,
    root: &Node,
    root_key: Option<Span>,
    path: &[String],
    error: &Error,
) -> Span {
    let (mut node, mut key, mut whole) = (root, root_key, true);
    for step in path {
        let inner = match &node.value {
            Value::Map(pairs) => {
                pairs.iter().find(|pair| pair.key == *step).map(|pair| (&pair.value, Some(pair.key_span)))
            }
            Value::List(items) => step.parse().ok().and_then(|i: usize| items.get(i)).map(|item| (item, None)),
            _ => None,
        };
        let Some((value, span)) = inner else {
            whole = false;
            break;
        };
        (node, key) = (value, span);
    }
    if let Some((start, end)) = error.place().and_then(|place| place.span)
        && node.text().is_some_and(|text| start <= text.len())
        && !changed.contains(&node.span.start)
    {
        return inside(source, node, start..end.max(start));
    }
    let many = matches!(node.value, Value::Map(_) | Value::List(_));
    let unknown = whole && error.message().starts_with("unknown ");
    match key {
        Some(key) if many || unknown || node.null() => key,
        _ if many => first_key(node),
        _ => node.span,
    }
}

/// A list's item that is a map is shown by its first key.
fn first_key(node: &Node) -> Span {
    let first = node.pairs().and_then(|pairs| pairs.first());
    first.map_or(Span::new(node.span.start, node.span.start), |pair| pair.key_span)
}
