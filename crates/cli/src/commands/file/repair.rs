//! `millstream file repair FILE.ss`

use std::{
    fs::OpenOptions,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use clap::Args;
use millstream::core::{Error, ErrorKind, Result, Timestamp};
use millstream_codec::ss::{BEACON_INTERVAL_DEFAULT, Header, read_header, repair};

use super::verify;
use crate::{
    exit::{Exit, Outcome},
    talk::Talk,
};

/// Write a new file with everything that is whole.
#[derive(Debug, Args)]
pub(crate) struct Repair {
    /// The damaged file; it stays as it is
    #[arg(value_name = "FILE.ss")]
    file: PathBuf,
    /// The new file; without it `FILE.repaired.ss` beside the old one
    #[arg(value_name = "OUT.ss")]
    out: Option<PathBuf>,
    /// The beacon interval of the damaged file in bytes, where its header is lost
    #[arg(long, value_name = "BYTES")]
    beacon_interval: Option<u32>,
}

impl Repair {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        let file = super::open(&self.file)?;
        let out = self.out.clone().unwrap_or_else(|| self.file.with_extension("repaired.ss"));
        let header = match read_header(&file) {
            Ok(header) => header,
            Err(error) => self.new_header(error)?,
        };
        let cannot = |error| Error::io(format!("cannot write `{}`", out.display()), error);
        let new = OpenOptions::new().write(true).create_new(true).open(&out).map_err(cannot)?;
        let mut writer = BufWriter::new(new);
        let report = repair(&file, &header, &mut writer).map_err(super::about(&self.file))?;
        writer.flush().map_err(cannot)?;
        writer.get_ref().sync_all().map_err(cannot)?;
        verify::text(&report).lines().for_each(|line| talk.say(line));
        talk.say(&format!("everything that is whole is in {}", out.display()));
        Ok(Exit::Done)
    }

    /// A header for a file that has lost its own.
    fn new_header(&self, error: Error) -> Result<Header> {
        // A newer version is no damage, and must not be read as if it were an old one.
        if error.kind() == ErrorKind::Version {
            return Err(super::about(&self.file)(error));
        }
        let interval = self.beacon_interval.ok_or_else(|| {
            let message = format!("cannot read the header of `{}`: {}", self.file.display(), error.message());
            let hint =
                format!("give the beacon interval with --beacon-interval; the usual one is {BEACON_INTERVAL_DEFAULT}");
            error.context(message).hint(hint)
        })?;
        let name = self.file.file_name().map(Path::new).unwrap_or(&self.file).to_string_lossy().into_owned();
        let now = u64::try_from(Timestamp::now().as_millis()).unwrap_or(0);
        Header::with_any_interval(&name, now, interval)
    }
}
