//! A copy of the project's files in a temporary folder, and scripts that run in it.

use std::{
    env, fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::workspace::{Workspace, cargo_program, forget_outer_cargo};

/// How often a running script is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Builds where the project lies, runs where the script runs.
const CARGO: &str = r#"#!/bin/sh
if [ "$1" = run ]; then
    shift
    exec "$XTASK_CARGO" run --quiet --manifest-path "$XTASK_ROOT/Cargo.toml" "$@"
fi
exec "$XTASK_CARGO" "$@"
"#;

/// The copy; it is removed in the end.
pub(super) struct Sandbox {
    folder: PathBuf,
    root: PathBuf,
    target: PathBuf,
}

/// How a script has ended.
pub(super) struct Ran {
    /// Why it has not ended with 0.
    pub(super) failure: Option<String>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Sandbox {
    /// Copies the project's files.
    pub(super) fn new(workspace: &Workspace) -> Result<Self> {
        let folder = env::temp_dir().join(format!("millstream-commands-{}", process::id()));
        let sandbox = Sandbox { folder, root: workspace.root.clone(), target: workspace.target() };
        for file in workspace.files()? {
            copy(&workspace.path(&file), &sandbox.project().join(&file))?;
        }
        let cargo = sandbox.tools().join("cargo");
        fs::create_dir_all(sandbox.tools()).context("cannot make a folder for tools")?;
        fs::write(&cargo, CARGO).context("cannot write a tool")?;
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).context("cannot make a tool executable")?;
        Ok(sandbox)
    }

    /// Runs a script of bash to its end, or kills it and all that it has started when `patience` is over.
    pub(super) fn run(&self, script: &str, patience: Duration) -> Result<Ran> {
        let (out, err) = (self.folder.join("stdout"), self.folder.join("stderr"));
        let create = |path: &Path| fs::File::create(path).with_context(|| format!("cannot write `{}`", path.display()));
        let mut bash = Command::new("bash");
        bash.args(["-e", "-c", script]).current_dir(self.project()).process_group(0);
        forget_outer_cargo(&mut bash);
        bash.env("PATH", self.path()?).env("XTASK_CARGO", cargo_program()).env("XTASK_ROOT", &self.root);
        bash.stdin(Stdio::null()).stdout(create(&out)?).stderr(create(&err)?);
        let mut child = bash.spawn().context("cannot start `bash`")?;
        let status = wait(&mut child, patience)?;
        // What it has left running in the background is not to outlive it.
        kill_group(child.id());
        let read = |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let failure = match status {
            Some(status) if status.success() => None,
            Some(status) => Some(format!("it ended with {status}")),
            None => Some(format!("it did not end within {} s", patience.as_secs())),
        };
        Ok(Ran { failure, stdout: read(&out)?, stderr: read(&err)? })
    }

    fn project(&self) -> PathBuf {
        self.folder.join("millstream")
    }

    fn tools(&self) -> PathBuf {
        self.folder.join("tools")
    }

    /// Our cargo first, then the built program, then what was there.
    fn path(&self) -> Result<std::ffi::OsString> {
        let old = env::var_os("PATH").unwrap_or_default();
        let folders = [self.tools(), self.target.join("release")].into_iter().chain(env::split_paths(&old));
        env::join_paths(folders).context("a folder in PATH has a colon in its name")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(cause) = fs::remove_dir_all(&self.folder) {
            eprintln!("warning: cannot remove `{}`: {cause}", self.folder.display());
        }
    }
}

fn wait(child: &mut Child, patience: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for `bash`")? {
            return Ok(Some(status));
        }
        if start.elapsed() > patience {
            kill_group(child.id());
            child.wait().context("cannot wait for `bash`")?;
            return Ok(None);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Kills a process group of ours; one that is gone is no matter.
fn kill_group(leader: u32) {
    let script = format!("kill -KILL -- -{leader}");
    let killed = Command::new("bash").args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if let Err(cause) = killed {
        eprintln!("warning: cannot kill process group {leader}: {cause}");
    }
}

/// Copies a file with its times and mode, and makes the folders above it.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot copy `{}` to `{}`", from.display(), to.display());
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(failed)?;
    }
    fs::copy(from, to).with_context(failed)?;
    let modified = fs::metadata(from).and_then(|metadata| metadata.modified()).with_context(failed)?;
    let file = fs::File::options().append(true).open(to).with_context(failed)?;
    file.set_modified(modified).with_context(failed)
}
