//! `millstream buffer info|verify|dump|repair PIPELINE.SINK`

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use millstream::{
    buffer::{
        Repaired,
        inspect::{self, Damage, Info, Seen, Verified},
        repair,
    },
    core::{Batch, Error},
};
use millstream_codec::{Newline, print};

use crate::{
    count::thousands,
    exit::{Exit, Outcome},
    output::{self, Output},
    stream::StateDir,
    table::Table,
    talk::Talk,
};

/// Look into the buffer on disk of a sink, also while it runs; repair it.
#[derive(Debug, Args)]
pub(crate) struct BufferCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What it holds: records, bytes, the age of the oldest, its files
    Info {
        #[command(flatten)]
        which: Which,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read all of it and report every damaged place; exit code 1 if there is one
    Verify {
        #[command(flatten)]
        which: Which,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the records that are not delivered yet, oldest first
    Dump {
        #[command(flatten)]
        which: Which,
        /// How a record is printed
        #[arg(long, value_enum, value_name = "FORMAT", default_value = "ndjson")]
        format: Format,
        /// Stop after N records
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        /// Print also what lies behind damaged places, which are told on standard error
        #[arg(long)]
        skip_damaged: bool,
    },
    /// Give up what cannot be read, so that what lies behind it is delivered. Only while nobody runs the pipeline
    Repair {
        #[command(flatten)]
        which: Which,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// The pipeline and the sink, as `PIPELINE.SINK`; or the buffer's folder
    #[arg(value_name = "PIPELINE.SINK|DIR")]
    buffer: String,
    #[command(flatten)]
    state: StateDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// [time | stream | sequence | shard] value
    Log,
    /// One JSON object a line
    Ndjson,
    /// The bare value and a line feed
    Raw,
}

impl Which {
    fn folder(&self) -> PathBuf {
        let folder = PathBuf::from(&self.buffer);
        if folder.join("control").exists() {
            return folder;
        }
        self.state.state_dir.join(folder).join("buffer")
    }
}

impl BufferCommand {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        match self.what {
            What::Info { which, json } => {
                let info = inspect::info(&which.folder())?;
                output::print(&if json { object(&info) } else { told(&info) })?;
                Ok(Exit::Done)
            }
            What::Verify { which, json } => {
                let verified = inspect::verify(&which.folder())?;
                output::print(&if json { object(&verified) } else { checked(&verified) })?;
                Ok(if verified.damages.is_empty() { Exit::Done } else { Exit::Failed })
            }
            What::Dump { which, format, count, skip_damaged } => {
                dump(&which, format, count.unwrap_or(u64::MAX), skip_damaged.then_some(talk))
            }
            What::Repair { which, json } => {
                let repaired = repair(&which.folder())?;
                output::print(&if json { object(&repaired) } else { cut_out(&repaired) })?;
                Ok(Exit::Done)
            }
        }
    }
}

fn object(value: &impl serde::Serialize) -> String {
    // Plain numbers and texts can always be written.
    serde_json::to_string(value).unwrap_or_default()
}

fn told(info: &Info) -> String {
    let facts = [
        ("records", thousands(info.records)),
        ("bytes", thousands(info.bytes)),
        ("oldest", info.oldest_at.clone().unwrap_or_else(|| "-".to_owned())),
        ("dropped", thousands(info.dropped)),
        ("bytes on disk", thousands(info.disk_bytes)),
    ];
    let mut text: String = facts.iter().map(|(name, value)| format!("{name:<16} {value}\n")).collect();
    let mut table = Table::new(&["SEGMENT", ">BASE", ">FIRST RECORD", ">BYTES"]);
    for segment in &info.segments {
        let name = segment.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let numbers = [segment.base, segment.first_record, segment.bytes].map(thousands);
        table.row([name].into_iter().chain(numbers));
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

fn checked(verified: &Verified) -> String {
    let mut text = String::new();
    verified.damages.iter().for_each(|damage| text.push_str(&place(damage)));
    let verdict = match verified.damages.len() {
        0 => "whole".to_owned(),
        1 => "1 damaged place".to_owned(),
        places => format!("{places} damaged places"),
    };
    let numbers = [verified.records, verified.blocks, verified.bytes, verified.uncounted_bytes].map(thousands);
    let [records, blocks, bytes, uncounted] = numbers;
    text.push_str(&format!(
        "{verdict}: {records} records in {blocks} blocks, {bytes} bytes; {uncounted} bytes do not count\n"
    ));
    if verified.damaged_records > 0 {
        text.push_str(&format!("{} records cannot be read\n", thousands(verified.damaged_records)));
    }
    if verified.lost_records > 0 {
        text.push_str(&format!("{} records were lost to damage before\n", thousands(verified.lost_records)));
    }
    text
}

/// `FILE at byte 4,096: a block's checksum is wrong (812 bytes)`, as a line.
fn place(damage: &Damage) -> String {
    let (byte, bytes) = (thousands(damage.byte), thousands(damage.bytes));
    format!("{} at byte {byte}: {} ({bytes} bytes)\n", damage.path.display(), damage.why)
}

fn cut_out(repaired: &Repaired) -> String {
    if repaired.damages.is_empty() {
        return "nothing is damaged\n".to_owned();
    }
    let places: String = repaired.damages.iter().map(place).collect();
    let [records, bytes] = [repaired.lost_records, repaired.lost_bytes].map(thousands);
    format!("{places}cut out: {records} records in {bytes} bytes are lost; the bytes stay in the files\n")
}

/// Where damage is passed over, it is told to somebody.
fn dump(which: &Which, format: Format, count: u64, skips: Option<&Talk>) -> Outcome {
    let format = match format {
        Format::Log => print::Format::Log,
        Format::Ndjson => print::Format::Ndjson,
        Format::Raw => print::Format::Raw,
    };
    let printer = print::Printer { format, newline: Newline::default(), decode_json: false };
    let (mut left, mut output, mut gone) = (count, Output::new(), None);
    let mut print = |batch: &Batch| {
        let mut lines = Vec::new();
        for record in batch.iter() {
            if left == 0 {
                break;
            }
            left -= 1;
            printer.print(&record, &mut lines).map_err(|error: Error| {
                error.context(format!("cannot print the record {} as a line; use --format ndjson", record.id()))
            })?;
        }
        gone = output.write(&lines).err();
        Ok(left > 0 && gone.is_none())
    };
    match skips {
        None => inspect::dump(&which.folder(), |batch, _| print(batch))?,
        Some(talk) => inspect::read(&which.folder(), |seen| match seen {
            Seen::Records(batch, _) => print(batch),
            Seen::Damage(damage) => {
                talk.warn(place(&damage).trim_end());
                Ok(true)
            }
        })?,
    }
    match gone {
        Some(failure) => Err(failure),
        None => {
            output.finish()?;
            Ok(Exit::Done)
        }
    }
}
