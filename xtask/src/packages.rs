//! What tests need of the machine, by the names of Debian's packages.

use std::{env, path::Path, process::Command};

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// A program that tests or builds start, the Debian package that holds it, and who needs it.
const NEEDED: [(&str, &str, &str); 13] = [
    ("cc", "build-essential", "crates with C code: zstd, onig, librdkafka"),
    ("make", "build-essential", "librdkafka and its OpenSSL"),
    // `perl` itself is always there, but without the modules that OpenSSL is configured with.
    ("pod2man", "perl", "librdkafka's OpenSSL"),
    ("bash", "bash", "the commands of README and examples"),
    ("mount", "mount", "the full disk: a small tmpfs"),
    ("ps", "procps", "examples that stop a process"),
    ("redis-server", "redis-server", "tests against Redis"),
    ("redis-cli", "redis-tools", "tests against Redis"),
    ("javac", "default-jdk-headless", "tests against Kafka, and with its Java client"),
    ("mvn", "maven", "fetching Kafka"),
    ("kcat", "kcat", "tests against Kafka with a foreign client"),
    // The server itself is outside the `PATH`; this comes with it.
    ("pg_createcluster", "postgresql", "the example that writes to a database"),
    ("openssl", "openssl", "certificates of test servers"),
];

/// Components of the Rust toolchain that are not in its minimal profile.
const COMPONENTS: [(&str, &str); 2] = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")];

/// What fetches Kafka's jars, which are no package: the same that tests run who do not find them.
const KAFKA: &str = "crates/testkit/src/servers/kafka/install.sh";

/// Installs what is missing; does nothing where all is there.
pub(crate) fn install(workspace: &Workspace, dry_run: bool) -> Result<()> {
    programs(workspace, dry_run)?;
    if dry_run {
        return Ok(());
    }
    // Here, so that the first test of Kafka does not take the time of a download.
    let folder = workspace.target().join("testkit").join("kafka");
    workspace.run(Command::new("sh").arg(workspace.path(KAFKA)).arg(folder))
}

fn programs(workspace: &Workspace, dry_run: bool) -> Result<()> {
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
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!("packages are missing; install them with `sudo apt-get install {}`", packages.join(" "));
    }
    let install = || {
        workspace.run(apt().args(["update", "--quiet"]))?;
        workspace.run(apt().args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(&packages))
    };
    install().or_else(|error| {
        println!("  {error:#}; once more");
        install()
    })
}

/// Tries again what a mirror did not give, and waits for others who install something.
fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt.args(["-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300"]);
    apt
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
