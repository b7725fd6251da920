//! `cargo xtask tidy`: the rules that a machine can check. Each file here is one family of them.

mod components;
mod layout;
mod links;
mod size;
mod snippets;
mod text;
mod walls;

use anyhow::{Context, Result, bail};

use crate::{metadata::Metadata, workspace::Workspace};

/// A broken rule, and where.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    file: String,
    /// From 1; 0 for the whole file.
    line: usize,
    message: String,
}

impl Problem {
    /// A broken rule in a line of a file.
    fn at(file: &str, line: usize, message: impl Into<String>) -> Self {
        Problem { file: file.to_owned(), line, message: message.into() }
    }

    /// A broken rule of a whole file or folder.
    fn of(file: &str, message: impl Into<String>) -> Self {
        Problem::at(file, 0, message)
    }
}

/// A text file of the project.
pub(crate) struct Source {
    /// Its path, from the project's folder.
    path: String,
    text: String,
}

impl Source {
    fn extension(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    fn name(&self) -> &str {
        self.path.rsplit_once('/').map_or(&self.path, |(_, name)| name)
    }
}

/// Checks all rules; prints every broken one.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let metadata = Metadata::load(workspace)?;
    let sources = sources(workspace)?;
    let mut problems = Vec::new();
    problems.extend(walls::check(&metadata));
    problems.extend(layout::check(&metadata, &sources));
    problems.extend(components::check(&metadata, &sources));
    problems.extend(text::check(&sources));
    problems.extend(links::check(workspace, &sources));
    problems.extend(snippets::check(&sources));
    for note in size::long_ones(&sources) {
        println!("    long: {note}");
    }
    problems.sort();
    for Problem { file, line, message } in &problems {
        let place = if *line == 0 { file.clone() } else { format!("{file}:{line}") };
        println!("    {place}: {message}");
    }
    match problems.len() {
        0 => Ok(()),
        1 => bail!("tidy: 1 rule is broken"),
        n => bail!("tidy: {n} rules are broken"),
    }
}

/// All files of the project that are text.
fn sources(workspace: &Workspace) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in workspace.files()? {
        let bytes = std::fs::read(workspace.path(&path)).with_context(|| format!("cannot read `{path}`"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source { path, text });
        }
    }
    Ok(sources)
}
