//! `millstream file decode FILE.ss` and `millstream file tail FILE.ss`

use std::path::PathBuf;

use clap::Args;
use millstream::{
    core::{Role, SeekTo},
    registry,
};
use serde_json::json;

use crate::{
    commands::consume::Printing,
    exit::Outcome,
    stream::{Drain, Endpoint, Range, readable},
    talk::Talk,
};

/// Print the records of a file, up to its end.
#[derive(Debug, Args)]
pub(crate) struct Decode {
    #[command(flatten)]
    what: What,
    /// Where to begin: `beginning`, `end`, a sequence number (inclusive), or a time in RFC 3339
    #[arg(long, value_name = "WHERE", default_value = "beginning", value_parser = |text: &str| text.parse::<SeekTo>().map_err(readable))]
    start: SeekTo,
}

/// Print new records of a file as they come, until it is ended or removed.
#[derive(Debug, Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    what: What,
    /// Where to begin: `beginning`, `end`, a sequence number (inclusive), or a time in RFC 3339
    #[arg(long, value_name = "WHERE", default_value = "end", value_parser = |text: &str| text.parse::<SeekTo>().map_err(readable))]
    start: SeekTo,
}

#[derive(Debug, Args)]
struct What {
    /// The file
    #[arg(value_name = "FILE.ss")]
    file: PathBuf,
    /// Only this stream; may be given several times
    #[arg(long, value_name = "NAME")]
    stream: Vec<String>,
    /// Stop after N records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    printing: Printing,
    #[command(flatten)]
    drain: Drain,
}

impl Decode {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        self.what.print("decode", &self.start, true, talk)
    }
}

impl Tail {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        self.what.print("tail", &self.start, false, talk)
    }
}

impl What {
    fn print(self, name: &str, start: &SeekTo, until_end: bool, talk: &Talk) -> Outcome {
        // What cannot be read is told at once, not waited for.
        let header = millstream_codec::ss::read_header(&super::open(&self.file)?);
        header.map_err(super::about(&self.file))?;
        let registry = registry();
        // The path is no URL: blanks, commas and percent signs are meant as they are.
        let mut source = Endpoint::new(Role::Source, "file:x.ss", &registry)?;
        source.shown = self.file.display().to_string();
        source.options.clear();
        source.options.insert("path".to_owned(), json!(self.file));
        source.options.insert("codec".to_owned(), json!("ss"));
        if !self.stream.is_empty() {
            source.options.insert("streams".to_owned(), json!(self.stream));
        }
        source.range(&Range { start: Some(start.clone()), until_end, ..Range::default() }, SeekTo::Beginning)?;
        let mut stream = self.printing.stream(name, &source);
        stream.until_end = until_end;
        stream.count = self.count;
        stream.drain = self.drain;
        stream.run(&registry, talk)
    }
}
