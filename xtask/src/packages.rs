//! What tests need of the machine, by the names of Debian's packages.

use std::{env, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// A program that tests or builds start, the Debian package that holds it, and who needs it.
const NEEDED: [(&str, &str, &str); 4] = [
    ("cc", "build-essential", "crates with C code: zstd, onig"),
    ("bash", "bash", "the commands of README and examples"),
    ("mount", "mount", "the full disk: a small tmpfs"),
    ("ps", "procps", "examples that stop a process"),
];

/// Components of the Rust toolchain that are not in its minimal profile.
const COMPONENTS: [(&str, &str); 2] = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")];

/// Installs what is missing; does nothing where all is there.
pub(crate) fn install(workspace: &Workspace, dry_run: bool) -> Result<()> {
    let missing: Vec<_> = NEEDED.iter().filter(|(program, ..)| !on_path(program)).collect();
    for (program, package, what_for) in &missing {
        println!("  `{program}` is missing (package {package}), needed for {what_for}");
    }
    let components: Vec<_> =
        COMPONENTS.iter().filter(|(program, _)| !on_path(program)).map(|(_, name)| *name).collect();
    if dry_run {
        return Ok(());
    }
    if !components.is_empty() {
        workspace
            .run(Command::new("rustup").args(["component", "add"]).args(&components).current_dir(&workspace.root))?;
    }
    let mut packages: Vec<_> = missing.iter().map(|(_, package, _)| *package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!("packages are missing; install them with `sudo apt-get install {}`", packages.join(" "));
    }
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    workspace.run(apt().args(["update", "--quiet"]))?;
    workspace.run(apt().args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&packages))
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).to_owned());
    env::split_paths(&path).chain(system).any(|folder| folder.join(program).is_file())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
