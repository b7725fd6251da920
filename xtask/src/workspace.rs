//! Where the project lies, which files belong to it, and how programs are started in it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Folders that hold no source where there is no git to tell.
const NO_SOURCE: [&str; 3] = ["target", ".git", ".millstream"];

/// The project's folder.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
}

impl Workspace {
    /// The workspace that this program was built in, as cargo says when it runs it; else the one around the working directory.
    pub(crate) fn find() -> Result<Self> {
        let start = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => env::current_dir().context("cannot tell the working directory")?,
        };
        let is_root = |folder: &&Path| folder.join("Cargo.lock").exists() && folder.join("xtask").exists();
        match start.ancestors().find(is_root) {
            Some(root) => Ok(Workspace { root: root.to_owned() }),
            None => bail!("no workspace around `{}`; run it as `cargo xtask`", start.display()),
        }
    }

    /// Where cargo builds.
    pub(crate) fn target(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.path("target"), |target| self.root.join(target))
    }

    /// The path of a file of the project.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The text of a file of the project.
    pub(crate) fn read(&self, relative: &str) -> Result<String> {
        fs::read_to_string(self.path(relative)).with_context(|| format!("cannot read `{relative}`"))
    }

    /// Writes a file of the project, and the folders above it.
    pub(crate) fn write(&self, relative: &str, text: &str) -> Result<()> {
        let path = self.path(relative);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        }
        fs::write(path, text).with_context(|| format!("cannot write `{relative}`"))
    }

    /// Cargo, in the project's folder, without what the outer `cargo run` has put into the environment.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(cargo_program());
        cargo.current_dir(&self.root);
        forget_outer_cargo(&mut cargo);
        cargo
    }

    /// Runs a command to its end; what it prints is seen.
    pub(crate) fn run(&self, command: &mut Command) -> Result<()> {
        let shown = show(command);
        let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{shown}`"))?;
        if !status.success() {
            bail!("`{shown}` failed ({status})");
        }
        Ok(())
    }

    /// What a command prints on standard output.
    pub(crate) fn output(&self, command: &mut Command) -> Result<String> {
        let shown = show(command);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start `{shown}`"))?;
        if !output.status.success() {
            bail!("`{shown}` failed ({})", output.status);
        }
        String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed something that is no UTF-8"))
    }

    /// All files of the project, sorted, with `/` between folders: what git tracks or would track.
    pub(crate) fn files(&self) -> Result<Vec<String>> {
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&self.root);
        let listed = git.stderr(Stdio::null()).output().ok().filter(|output| output.status.success());
        let mut files = match listed {
            Some(output) => {
                let text = String::from_utf8(output.stdout).context("a file's name is no UTF-8")?;
                text.split_terminator('\0').map(str::to_owned).collect()
            }
            None => {
                let mut files = Vec::new();
                walk(&self.root, &self.root, &mut files)?;
                files
            }
        };
        // Git still lists what was deleted and not yet committed.
        files.retain(|file| self.path(file).is_file());
        files.sort();
        files.dedup();
        Ok(files)
    }
}

/// The cargo that runs us.
pub(crate) fn cargo_program() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Takes out what `cargo run` sets for the program that it runs: build scripts would see it and be built anew.
pub(crate) fn forget_outer_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
}

/// A command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program()).to_string_lossy();
    let args = command.get_args().map(|arg| arg.to_string_lossy());
    std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ")
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !NO_SOURCE.contains(&name.as_ref()) {
            walk(root, &path, files)?;
        } else if path.is_file() {
            files.push(path.strip_prefix(root)?.to_string_lossy().into_owned());
        }
    }
    Ok(())
}
