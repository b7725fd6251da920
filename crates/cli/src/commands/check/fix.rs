//! `check --fix`: writes mended files.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use millstream::core::{Error, Registry, Result};
use millstream_config::{Diagnostic, Variables, apply_fixes, parse};

use crate::{exit::Failure, pipelines::Files};

/// Times that a file is read and mended again: YAML may hide a mistake behind another.
const ROUNDS_MAX: usize = 100;

/// Mends all files; says which were written.
pub(super) fn mend(files: &Files, registry: &Registry) -> Result<Vec<PathBuf>, Failure> {
    let variables = files.variables.read()?;
    let mut mended = Vec::new();
    for path in files.paths.iter().flat_map(|path| expand(path)) {
        // What cannot be read is told by the check itself.
        let Ok(before) = std::fs::read_to_string(&path) else { continue };
        let after = mend_text(&before, &path, registry, &variables);
        if after != before {
            write(&path, &after)?;
            mended.push(path);
        }
    }
    Ok(mended)
}

fn mend_text(text: &str, path: &Path, registry: &Registry, variables: &Variables) -> String {
    let mut text = text.to_owned();
    for _ in 0..ROUNDS_MAX {
        let Err(found) = parse(text.as_bytes(), path, registry, variables) else { break };
        if !found.iter().any(|diagnostic: &Diagnostic| diagnostic.fix().is_some()) {
            break;
        }
        let mended = apply_fixes(&text, &found);
        if mended == text {
            break;
        }
        text = mended;
    }
    text
}

/// The files that `check` looks at.
fn expand(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let found = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let ending = |path: &PathBuf| path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
    found.filter(|path| ending(path) && path.is_file()).collect()
}

/// As a whole or not at all: a temporary file beside it, with its mode, gets its name.
fn write(path: &Path, text: &str) -> Result<()> {
    let cannot = |error| Error::io(format!("cannot write the mended `{}`", path.display()), error);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A link stays one: what it points to is written.
    let target = std::fs::canonicalize(path).map_err(cannot)?;
    let folder = target.parent().unwrap_or(folder);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(cannot)?;
    file.write_all(text.as_bytes()).map_err(cannot)?;
    let permissions = std::fs::metadata(&target).map_err(cannot)?.permissions();
    file.as_file().set_permissions(permissions).map_err(cannot)?;
    file.as_file().sync_all().map_err(cannot)?;
    file.persist(&target).map_err(|error| cannot(error.error)).map(drop)
}
