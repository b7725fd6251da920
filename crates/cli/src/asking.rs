//! Asking running processes through their control sockets.

use std::path::PathBuf;

use clap::Args;
use millstream::{
    core::{Error, ErrorKind, Result, suggest},
    observe::{
        PipelineReport,
        control::{Client, Process, processes},
    },
};

/// Which processes are meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// The state directory of the running process
    #[arg(long, value_name = "DIR", env = "MILLSTREAM_STATE_DIR", default_value = ".millstream")]
    pub(crate) state_dir: PathBuf,
    /// The process, where several run pipelines of the state directory
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
}

/// A running pipeline and its process.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) process: Process,
    pub(crate) report: PipelineReport,
}

impl Which {
    fn processes(&self) -> Vec<Process> {
        let mut found = processes(&self.state_dir);
        found.retain(|process| self.pid.is_none_or(|pid| pid == process.pid));
        found
    }

    /// All pipelines that run now. What another version of the program runs is an error; a process that is just ending is none.
    pub(crate) fn pipelines(&self) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        for process in self.processes() {
            match Client::connect(&process).and_then(|mut client| client.report()) {
                Ok(report) => {
                    all.extend(report.pipelines.into_iter().map(|report| Found { process: process.clone(), report }));
                }
                Err(error) if error.kind() == ErrorKind::Closed => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The pipelines of this name, or all; at least one.
    pub(crate) fn some(&self, pipeline: Option<&str>) -> Result<Vec<Found>> {
        let all = self.pipelines()?;
        if all.is_empty() {
            return Err(self.nobody());
        }
        let Some(name) = pipeline else { return Ok(all) };
        let names: Vec<String> = all.iter().map(|found| found.report.name.clone()).collect();
        let found: Vec<Found> = all.into_iter().filter(|found| found.report.name == name).collect();
        if found.is_empty() {
            let error = Error::new(ErrorKind::NotFound, format!("no running process has a pipeline `{name}`"));
            return Err(suggest(name, &names).into_iter().fold(error, |error, hint| error.hint(hint)));
        }
        Ok(found)
    }

    /// The process that runs a pipeline, if any does.
    pub(crate) fn process_of(&self, pipeline: &str) -> Option<Process> {
        let all = self.pipelines().ok()?;
        all.into_iter().find(|found| found.report.name == pipeline).map(|found| found.process)
    }

    fn nobody(&self) -> Error {
        let dir = self.state_dir.display();
        let message = match self.pid {
            Some(pid) => format!("process {pid} runs no pipeline of the state directory `{dir}`"),
            None => format!("no process runs a pipeline of the state directory `{dir}`"),
        };
        Error::new(ErrorKind::NotFound, message).hint("name another one with --state-dir")
    }
}
