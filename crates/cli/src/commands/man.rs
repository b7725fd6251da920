//! `millstream man`

use clap::Args;
use millstream::core::Error;

use crate::{
    args,
    exit::{Exit, Outcome},
    output::Output,
};

/// Print the manual page: of the program, or of one command.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// A command, such as `relay` or `redis trim`
    command: Vec<String>,
}

impl Man {
    pub(crate) fn execute(self) -> Outcome {
        let mut whole = args::command();
        whole.build();
        let mut command = whole;
        for name in &self.command {
            let known: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
            let found = command.get_subcommands().find(|command| command.get_name() == name).cloned();
            command = found.ok_or_else(|| {
                let error = Error::new(millstream::ErrorKind::Option, format!("there is no command `{name}`"));
                let hint = millstream::core::suggest(name, &known);
                hint.into_iter().fold(error, |error, hint| error.hint(hint))
            })?;
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(|error| Error::io("cannot write the page", error))?;
        let mut output = Output::new();
        output.write(&page)?;
        output.finish()?;
        Ok(Exit::Done)
    }
}
