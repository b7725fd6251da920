//! `millstream completions SHELL`

use clap::Args;
use clap_complete::{Shell, generate};

use crate::{
    args,
    exit::{Exit, Outcome},
    output::Output,
};

/// Print a completion script for a shell.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn execute(self) -> Outcome {
        // Into memory first: the generator panics where it cannot write.
        let mut script = Vec::new();
        generate(self.shell, &mut args::command(), "millstream", &mut script);
        let mut output = Output::new();
        output.write(&script)?;
        output.finish()?;
        Ok(Exit::Done)
    }
}
