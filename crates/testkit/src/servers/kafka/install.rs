//! Kafka's jars, fetched once and kept under cargo's target folder.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::servers::Missing;

/// Does all of it, and says in its first lines what that is. `cargo xtask test` runs it before any test does.
const INSTALL: &str = include_str!("install.sh");

/// Where Kafka's files lie.
#[derive(Clone, Debug)]
pub(super) struct Install {
    folder: PathBuf,
}

impl Install {
    /// Finds them, or fetches them; waits while another process does.
    pub(super) fn find() -> Result<Install, Missing> {
        let folder = target().join("testkit").join("kafka");
        let mut install = Command::new("sh");
        install.args(["-c", INSTALL, "install"]).arg(&folder).stdin(Stdio::null());
        match install.output() {
            Ok(output) if output.status.success() => Ok(Install { folder }),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(Missing::new(said.lines().last().unwrap_or("cannot install Kafka")))
            }
            Err(error) => Err(Missing::new(format!("cannot start `sh`: {error}"))),
        }
    }

    /// What a formatted storage holds beside its ids.
    pub(super) fn bootstrap_checkpoint(&self) -> PathBuf {
        self.folder.join("bootstrap.checkpoint")
    }

    /// `java` with the jars, up to the name of a class; `archive` is `server` or `tools`.
    pub(super) fn java(&self, archive: &str, flags: &[&str]) -> Vec<String> {
        let archive = format!("-XX:SharedArchiveFile={}", self.folder.join(format!("{archive}.jsa")).display());
        let libs = self.folder.join("libs/*").display().to_string();
        let classpath = ["-cp", &libs];
        // Without the archive, or with one of another Java, it starts all the same, only slower.
        let own = ["-XX:+UseSerialGC", "-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds+dynamic=off", &archive];
        let words = ["java"].iter().chain(&own).chain(flags).chain(&classpath);
        words.map(|word| (*word).to_owned()).collect()
    }
}

/// Where cargo builds this workspace.
fn target() -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let root = crates.and_then(Path::parent).unwrap_or(Path::new("."));
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |target| root.join(target))
}
