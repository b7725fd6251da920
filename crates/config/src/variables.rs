//! Values of variables that come from outside the file.

use std::{collections::BTreeMap, fmt, path::Path};

use millstream_core::{Error, ErrorKind, Result};

/// Where `${NAME}` and `%vars.NAME` get their values: `--set`, else the environment, else `--env-file`, else the file's own
/// `default`. Shown with names only: values may be secrets.
#[derive(Clone, Default)]
pub struct Variables {
    set: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    env_file: BTreeMap<String, String>,
}

impl Variables {
    /// The environment of this process; variables that are not UTF-8 are left out.
    pub fn from_process() -> Self {
        let pairs =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Variables { environment: pairs.collect(), ..Variables::default() }
    }

    /// Sets one as `--set NAME=VALUE` does: wins over everything else.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.set.insert(name.into(), value.into());
    }

    /// Sets one as the environment does.
    pub fn set_environment(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.environment.insert(name.into(), value.into());
    }

    /// Takes `NAME=VALUE` apart and sets it.
    ///
    /// # Errors
    /// If there is no `=`, or if NAME is not a name.
    pub fn set_pair(&mut self, pair: &str) -> Result<()> {
        let (name, value) = pair.split_once('=').filter(|(name, _)| is_name(name)).ok_or_else(|| {
            // The text may be a secret without its name: it is not shown.
            Error::new(ErrorKind::Option, "cannot set a variable: it is not `NAME=VALUE`")
                .hint("a name has letters, digits and `_`, and no digit first")
        })?;
        self.set(name, value);
        Ok(())
    }

    /// Reads an `--env-file`: `NAME=VALUE` lines; `#` starts a comment line, `export` may stand before a name, a value in
    /// single or double quotes is taken without them. The last of several with one name counts.
    ///
    /// # Errors
    /// If the file cannot be read, or names the first line that is not `NAME=VALUE`.
    pub fn read_env_file(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| Error::io(format!("cannot read the variables in `{}`", path.display()), cause))?;
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let pair = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = pair.split_once('=').filter(|(name, _)| is_name(name.trim())).ok_or_else(|| {
                Error::new(ErrorKind::Syntax, "the line is not `NAME=VALUE`")
                    .located(format!("{}:{}:1", path.display(), i + 1))
                    .hint("a name has letters, digits and `_`, and no digit first; `#` starts a comment line")
            })?;
            self.env_file.insert(name.trim().to_owned(), unquoted(value.trim()).to_owned());
        }
        Ok(())
    }

    /// Names given by `--set`: one that no file uses is a mistake.
    pub fn set_names(&self) -> impl Iterator<Item = &str> {
        self.set.keys().map(String::as_str)
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.set.get(name).or_else(|| self.environment.get(name)).or_else(|| self.env_file.get(name));
        found.map(String::as_str)
    }

    /// All that `--set` gave.
    pub(crate) fn given(&self) -> &BTreeMap<String, String> {
        &self.set
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.set.keys().chain(self.env_file.keys()).chain(self.environment.keys())
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variables")
            .field("set", &self.set.keys())
            .field("environment", &self.environment.len())
            .field("env_file", &self.env_file.keys())
            .finish()
    }
}

/// Letters, digits and `_`, no digit first.
pub(crate) fn is_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
}

fn unquoted(value: &str) -> &str {
    let inner = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}
