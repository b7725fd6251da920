//! `rdkafka_performance`, librdkafka's own benchmark: built once from the sources that our connector is built from.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// The program.
pub(crate) struct Performance {
    program: PathBuf,
    brokers: String,
}

impl Performance {
    /// Finds it below cargo's target folder, or builds it there: takes a minute, a C compiler and `make`.
    pub(crate) fn build(brokers: &str) -> Result<Self> {
        let (sources, version, target) = sources()?;
        let folder = target.join("bench").join(format!("librdkafka-{version}"));
        let program = folder.join("rdkafka_performance");
        if !program.is_file() {
            eprintln!("building the program `rdkafka_performance` ...");
            let built = target.join("bench").join(format!("librdkafka-{version}-building"));
            // What an attempt that was ended has left.
            let _ = fs::remove_dir_all(&built);
            fs::create_dir_all(&built)?;
            let log = built.join("build.log");
            let step = |program: &str, arguments: &[&str]| step(&built, &log, program, arguments);
            step("cp", &["-R", &format!("{}/.", sources.display()), "."])?;
            // Nothing here is encrypted or compressed.
            let without = ["ssl", "gssapi", "zstd", "zlib", "lz4-ext", "curl"].map(|part| format!("--disable-{part}"));
            let without: Vec<&str> = ["./configure"].into_iter().chain(without.iter().map(String::as_str)).collect();
            step("bash", &without)?;
            step("make", &["-j2", "-C", "src", "librdkafka.a"])?;
            step("make", &["-C", "examples", "rdkafka_performance"])?;
            fs::create_dir_all(&folder)?;
            // Last, and at once: who finds it finds all of it.
            fs::rename(built.join("examples").join("rdkafka_performance"), &program)?;
            fs::remove_dir_all(&built)?;
        }
        Ok(Performance { program, brokers: brokers.to_owned() })
    }

    /// Starts writing so many records of so many bytes to a topic with one partition.
    pub(crate) fn produce(&self, topic: &str, records: u64, bytes: usize) -> Result<Running> {
        let (records, bytes) = (records.to_string(), bytes.to_string());
        // As safe as ours; and its own linger of a second would stand at the end of each run.
        let safe = ["-X", "enable.idempotence=true", "-a", "-1", "-X", "linger.ms=1"];
        self.start(&[&["-P", "-t", topic, "-p", "0", "-c", &records, "-s", &bytes], &safe[..]].concat())
    }

    /// Starts reading so many records from the beginning of a topic with one partition. `all`: also their headers, and
    /// checksums are compared.
    pub(crate) fn consume(&self, topic: &str, records: u64, all: bool) -> Result<Running> {
        let records = records.to_string();
        let reading = ["-C", "-t", topic, "-p", "0", "-o", "beginning", "-c", &records];
        let all: &[&str] = if all { &["-H", "parse", "-X", "check.crcs=true"] } else { &[] };
        self.start(&[&reading[..], all].concat())
    }

    fn start(&self, arguments: &[&str]) -> Result<Running> {
        let mut command = Command::new(&self.program);
        // Says little, and seldom.
        command.args(["-b", &self.brokers, "-q", "-i", "60000"]).args(arguments);
        let spawned = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Running(spawned.with_context(|| format!("cannot start `{}`", self.program.display()))?))
    }
}

/// A run of it.
pub(crate) struct Running(Child);

impl Running {
    /// Waits for its end, which must be a good one.
    pub(crate) fn finish(mut self) -> Result<()> {
        let status = self.0.wait()?;
        ensure!(status.success(), "`rdkafka_performance` ended with {status}");
        Ok(())
    }
}

/// Ends one that nobody waits for any more.
impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Where the sources of librdkafka lie, their version, and cargo's target folder.
fn sources() -> Result<(PathBuf, String, PathBuf)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::null())
        .output()
        .context("cannot start cargo to find librdkafka's sources")?;
    ensure!(output.status.success(), "`cargo metadata` ended with {}", output.status);
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` names no packages")?;
    let package =
        packages.iter().find(|package| package["name"] == "rdkafka-sys").context("there is no rdkafka-sys")?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("`cargo metadata` says less than it should");
    let manifest = PathBuf::from(text(&package["manifest_path"])?);
    let sources = manifest.parent().context("rdkafka-sys has no folder")?.join("librdkafka");
    ensure!(sources.join("examples").is_dir(), "rdkafka-sys comes without librdkafka's sources");
    Ok((sources, text(&package["version"])?, text(&metadata["target_directory"])?.into()))
}

/// One step of the build; what it prints goes to the log.
fn step(folder: &Path, log: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let out = fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let status = command.status().with_context(|| format!("`{program}` cannot be started"))?;
    ensure!(status.success(), "`{program} {}` ended with {status}; see `{}`", arguments.join(" "), log.display());
    Ok(())
}
