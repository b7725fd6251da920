//! Files and folders to pipelines.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use millstream_core::{Error, ErrorKind, Registry};

use crate::{
    diagnostic::Diagnostic,
    file::{PipelineFile, Secrets},
    pipeline,
    source::{FILE_BYTES_MAX, PROBLEMS_MAX, Problem, Source},
    tree::Value,
    variables::Variables,
};

/// Reads pipeline files, and of folders every `*.yaml`, `*.yml` and `*.json` in them (not in theirs), sorted by name.
///
/// Nothing is read but these files and what `${file:...}` in them names.
///
/// # Errors
/// All that is wrong with any of the files; two pipelines of one name; a folder without a pipeline file.
pub fn load<P: AsRef<Path>>(
    paths: &[P],
    registry: &Registry,
    variables: &Variables,
) -> Result<Vec<PipelineFile>, Vec<Diagnostic>> {
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    for path in paths {
        match expand(path.as_ref()) {
            Ok(found) => files.extend(found),
            Err(error) => wrong.push(error.into()),
        }
    }
    let mut pipelines: Vec<PipelineFile> = Vec::new();
    for file in files {
        match read(&file)
            .map_err(|error| vec![error.into()])
            .and_then(|bytes| parse(&bytes, &file, registry, variables))
        {
            Ok(pipeline) => pipelines.push(pipeline),
            Err(found) => wrong.extend(found),
        }
    }
    wrong.extend(same_names(&pipelines));
    if wrong.is_empty() { Ok(pipelines) } else { Err(wrong) }
}

/// Reads the text of one pipeline file. `path` names it in messages, gives the pipeline its default name and `${dir}` its
/// value; the file itself is not touched.
///
/// # Errors
/// All that is wrong with it, up to 100 mistakes, in the order of the file.
pub fn parse(
    bytes: &[u8],
    path: &Path,
    registry: &Registry,
    variables: &Variables,
) -> Result<PipelineFile, Vec<Diagnostic>> {
    let source = Source::read(path, bytes).map_err(|diagnostic| vec![*diagnostic])?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let dir = absolute.parent().unwrap_or(Path::new(".")).to_owned();
    let mut outcome = pipeline::read(&source, dir, registry, variables);
    let secrets = Secrets(outcome.secrets);
    match outcome.root {
        Some(root) if outcome.problems.is_empty() => {
            Ok(PipelineFile { spec: outcome.spec, source, root, changed: outcome.changed, secrets, used: outcome.used })
        }
        _ => {
            // Missing quotes come first where several things are said of one place, and are enough.
            outcome.problems.sort_by_key(|problem| (problem.span.start, problem.fix.is_none()));
            outcome.problems.dedup_by(|later, first| first.fix.is_some() && later.span.start == first.span.start);
            outcome.problems.truncate(PROBLEMS_MAX);
            let hidden =
                outcome.problems.into_iter().map(|problem| Problem { error: secrets.hide(problem.error), ..problem });
            Err(hidden.map(|problem| Diagnostic::at(&source, problem)).collect())
        }
    }
}

fn expand(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let wrong = |cause| Error::io(format!("cannot read the folder `{}`", path.display()), cause);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(wrong)? {
        let file = entry.map_err(wrong)?.path();
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        // Names that begin with a dot belong to editors.
        let hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if matches!(ending, "yaml" | "yml" | "json") && !hidden && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        let error = Error::new(ErrorKind::NotFound, format!("no pipeline file is in the folder `{}`", path.display()));
        return Err(error.with_kind(ErrorKind::Option).hint("pipeline files end in `.yaml`, `.yml` or `.json`"));
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read as _;
    // A file that is not there is bad usage: exit code 2, nothing was started.
    let wrong = |cause| {
        Error::io(format!("cannot read the pipeline file `{}`", path.display()), cause).with_kind(ErrorKind::Option)
    };
    let file = std::fs::File::open(path).map_err(wrong)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(wrong)?;
    Ok(bytes)
}

/// State is found by name, so two pipelines of one name would share it.
fn same_names(pipelines: &[PipelineFile]) -> Vec<Diagnostic> {
    let mut seen: HashMap<&str, &PipelineFile> = HashMap::new();
    let mut wrong = Vec::new();
    for pipeline in pipelines {
        let name = pipeline.spec.name.as_str();
        match seen.get(name) {
            None => drop(seen.insert(name, pipeline)),
            Some(first) => {
                let message = format!("two pipelines have the name `{name}`");
                let hint = format!("the other is `{}`; give one of them another `name`", first.path().display());
                let error = Error::new(ErrorKind::Option, message).hint(hint);
                let name = match &pipeline.root.value {
                    Value::Map(pairs) => pairs.iter().find(|pair| pair.key == "name").map(|pair| pair.value.span),
                    _ => None,
                };
                wrong.push(Diagnostic::at(&pipeline.source, Problem::new(name.unwrap_or_default(), error)));
            }
        }
    }
    wrong
}
