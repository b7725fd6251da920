//! `produce | relay | consume` through real pipes, as three processes of the real binary.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write, stdin, stdout},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    data,
    harness::{Contender, Table, compete},
    parts::RECORD_BYTES,
    roles,
};

const LINES: usize = 3_000_000;
/// Peers are slower, and get less to do.
#[cfg(feature = "peers")]
const PEER_LINES: usize = 300_000;
const ROUNDS: usize = 3;

/// Measures the case.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    let folder = data::folder()?;
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::write(&input, data::lines(LINES, RECORD_BYTES - 1))?;
    let binary = std::env::current_exe()?.with_file_name("millstream");
    let ours = || {
        let step = |arguments: &[&str]| {
            let mut command = Command::new(&binary);
            command.args(arguments).env("MILLSTREAM_STATE_DIR", folder.path().join("state"));
            command
        };
        let chain = vec![
            step(&["produce", "stdio:///a"]),
            step(&["relay", "stdio:///a", "stdio:///b"]),
            step(&["consume", "stdio:///b", "--format", "raw"]),
        ];
        through(chain, &input, &output)?;
        Ok(LINES as u64)
    };
    let named = |names: [&'static str; 3], input: PathBuf| {
        let output = output.clone();
        move || {
            let lines = input.metadata()?.len() / RECORD_BYTES as u64;
            let command = |name: &&str| {
                let mut command = roles::command(name)?;
                command.arg(lines.to_string());
                Ok(command)
            };
            through(names.iter().map(command).collect::<Result<Vec<_>>>()?, &input, &output)?;
            Ok(lines)
        }
    };
    #[cfg(feature = "peers")]
    let short = folder.path().join("short");
    #[cfg(feature = "peers")]
    std::fs::write(&short, data::lines(PEER_LINES, RECORD_BYTES - 1))?;
    let contenders = vec![
        Contender::new("ours", ours),
        Contender::new("line loop", named(["line-produce", "line-relay", "line-consume"], input.clone())),
        #[cfg(feature = "peers")]
        Contender::new("sea-streamer", named(["sea-produce", "sea-relay", "sea-consume"], short)),
    ];
    let rates = compete(ROUNDS, contenders)?;
    table.ratio("stdio, three processes in pipes", &rates[0], &rates[1], 0.6);
    rates[2..].iter().for_each(|peer| table.ratio("  against sea-streamer", &rates[0], peer, 8.0));
    Ok(())
}

/// Builds the program that users have, as it is now.
pub(crate) fn build() -> Result<()> {
    eprintln!("building the program `millstream` ...");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "millstream-cli"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cannot start cargo to build the program `millstream`")?;
    ensure!(built.success(), "the program `millstream` could not be built");
    Ok(())
}

/// Runs commands in a pipe; what comes out must be what went in.
fn through(chain: Vec<Command>, input: &Path, output: &Path) -> Result<()> {
    let mut from = Stdio::from(File::open(input)?);
    let (mut children, steps) = (Vec::new(), chain.len());
    for (i, mut command) in chain.into_iter().enumerate() {
        let to = if i + 1 == steps { Stdio::from(File::create(output)?) } else { Stdio::piped() };
        let mut child = command.stdin(from).stdout(to).spawn().with_context(|| format!("cannot start {command:?}"))?;
        from = child.stdout.take().map_or_else(Stdio::null, Stdio::from);
        children.push((child, format!("{command:?}")));
    }
    for (mut child, command) in children {
        let status = child.wait()?;
        ensure!(status.success(), "{command} ended with {status}");
    }
    let (given, got) = (input.metadata()?.len(), output.metadata()?.len());
    ensure!(given == got, "{given} bytes went in, {got} came out");
    Ok(())
}

/// Calls `each` with every line of standard input, and a buffered standard output.
fn lines(mut each: impl FnMut(&[u8], &mut BufWriter<File>, u64) -> Result<()>) -> Result<()> {
    let mut input = BufReader::with_capacity(64 << 10, own(&stdin())?);
    let mut output = BufWriter::with_capacity(64 << 10, own(&stdout())?);
    let (mut line, mut number) = (Vec::new(), 0);
    while input.read_until(b'\n', &mut line)? > 0 {
        each(&line, &mut output, number)?;
        number += 1;
        line.clear();
    }
    output.flush()?;
    Ok(())
}

/// The file behind a standard stream, without its lock and line buffer.
fn own(stream: &impl std::os::fd::AsFd) -> Result<File> {
    Ok(File::from(stream.as_fd().try_clone_to_owned()?))
}

fn header(stream: &str, output: &mut BufWriter<File>, number: u64) -> Result<()> {
    Ok(write!(output, "[2026-01-02T03:04:05.678 | {stream} | {number} | 0] ")?)
}

/// Puts a header before each line.
pub(crate) fn line_produce() -> Result<()> {
    lines(|line, output, number| {
        header("a", output, number)?;
        Ok(output.write_all(line)?)
    })
}

/// Puts another header before each line.
pub(crate) fn line_relay() -> Result<()> {
    lines(|line, output, number| {
        header("b", output, number)?;
        Ok(output.write_all(payload(line))?)
    })
}

/// Takes the header off each line.
pub(crate) fn line_consume() -> Result<()> {
    lines(|line, output, _| Ok(output.write_all(payload(line))?))
}

fn payload(line: &[u8]) -> &[u8] {
    let end = line.iter().position(|byte| *byte == b']');
    end.and_then(|end| line.get(end + 2..)).unwrap_or(line)
}
