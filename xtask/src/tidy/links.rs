//! Links between documents lead somewhere.

use std::path::Path;

use super::{Problem, Source};
use crate::{
    markdown::{anchors, links},
    workspace::Workspace,
};

/// Checks links in Markdown to files and headings of the project.
pub(super) fn check(workspace: &Workspace, sources: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|source| source.extension() == "md") {
        for (line, link) in links(&source.text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            if let Some(message) = broken(workspace, source, &link) {
                problems.push(Problem::at(&source.path, line, message));
            }
        }
    }
    problems
}

fn broken(workspace: &Workspace, source: &Source, link: &str) -> Option<String> {
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let own = workspace.path(&source.path);
    let target = if file.is_empty() { own } else { own.parent().unwrap_or(Path::new("")).join(file) };
    if !target.exists() {
        return Some(format!("the link `{link}` leads nowhere"));
    }
    let anchor = anchor.filter(|_| target.extension().is_some_and(|extension| extension == "md"))?;
    let text = std::fs::read_to_string(&target).unwrap_or_default();
    (!anchors(&text).iter().any(|known| known == anchor)).then(|| format!("`{link}`: there is no such heading"))
}
