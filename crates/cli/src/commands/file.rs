//! `millstream file info|decode|verify|repair|tail FILE.ss`

mod decode;
mod info;
mod repair;
mod verify;

use std::{fs::File, path::Path};

use clap::{Args, Subcommand};
use millstream::core::{Error, ErrorKind, Result};

use crate::{exit::Outcome, talk::Talk};

/// Look into a `.ss` stream file, check it, repair it.
#[derive(Debug, Args)]
pub(crate) struct FileCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Header, end and streams of a file; takes milliseconds, however large it is
    Info(info::Info),
    /// Print the records of a file, up to its end
    Decode(decode::Decode),
    /// Read a whole file and report every damaged place; exit code 1 if there is one
    Verify(verify::Verify),
    /// Write a new file with everything that is whole
    Repair(repair::Repair),
    /// Print new records of a file as they come
    Tail(decode::Tail),
}

impl FileCommand {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        match self.what {
            What::Info(command) => command.execute(),
            What::Decode(command) => command.execute(talk),
            What::Verify(command) => command.execute(),
            What::Repair(command) => command.execute(talk),
            What::Tail(command) => command.execute(talk),
        }
    }
}

/// Opens a file for reading; a folder or a pipe is none.
fn open(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|error| Error::io(format!("cannot open `{}`", path.display()), error))?;
    let kind = file.metadata().map_err(|error| Error::io(format!("cannot read `{}`", path.display()), error))?;
    match kind.is_file() {
        true => Ok(file),
        false => Err(Error::new(ErrorKind::Option, format!("cannot read `{}`: it is no regular file", path.display()))),
    }
}

/// Says which file an error is about.
fn about(path: &Path) -> impl Fn(Error) -> Error {
    move |error| {
        let message = format!("cannot read `{}`: {}", path.display(), error.message());
        match error.hint_text() {
            Some(_) => error.context(message),
            None => error.context(message).hint("is it a .ss stream file?"),
        }
    }
}
