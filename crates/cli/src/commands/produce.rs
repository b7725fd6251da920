//! `millstream produce URL`

use clap::{Args, ValueEnum};
use millstream::{
    core::{Error, ErrorKind, Result, Role},
    registry,
    runtime::Entry,
};
use serde_json::json;

use crate::{
    exit::Outcome,
    stream::{Drain, Endpoint, Stream},
    talk::Talk,
};

mod shaped;

/// Write each line of standard input as a record, verbatim.
#[derive(Debug, Args)]
pub(crate) struct Produce {
    /// Where to write
    url: String,
    /// What a line is
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "raw")]
    format: Format,
    /// The key of every record
    #[arg(long, value_name = "TEXT", conflicts_with = "key_delimiter")]
    key: Option<String>,
    /// What stands between key and value in each line; a line without it has no key
    #[arg(long, value_name = "TEXT")]
    key_delimiter: Option<String>,
    /// A header of every record
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// An empty value is none: a tombstone
    #[arg(long)]
    null: bool,
    /// An option of the component that writes
    #[arg(short, value_name = "NAME=VALUE")]
    o: Vec<String>,
    #[command(flatten)]
    drain: Drain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The value, verbatim
    Raw,
    /// [time | stream | sequence | shard] value, where there is such a header
    Log,
    /// A JSON object with `value`, `key`, `headers`, `time`, ...: what `consume --format ndjson` prints
    Ndjson,
}

impl Produce {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        let registry = registry();
        let mut sink = Endpoint::new(Role::Sink, &self.url, &registry)?;
        sink.set_all(&self.o)?;
        let source = match self.format {
            Format::Log => Entry::named("stdio", json!({})),
            Format::Raw | Format::Ndjson => Entry::named("stdin", json!({})),
        };
        let mut stream = Stream::new("produce", source, sink.sink());
        let shape = self.shape()?;
        if shape.changes() {
            stream.spec.steps.push(shaped::step(shape));
        }
        stream.drain = self.drain;
        stream.prints = matches!(sink.kind, "stdio" | "stdout");
        stream.run(&registry, talk)
    }

    fn shape(&self) -> Result<shaped::Shape> {
        let header = |pair: &String| {
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                Error::new(ErrorKind::Option, "a header is not `NAME=VALUE`").hint("write it as `--header colour=blue`")
            })?;
            Ok((name.to_owned(), value.to_owned()))
        };
        if self.key_delimiter.as_deref() == Some("") {
            return Err(Error::new(ErrorKind::Option, "an empty text cannot stand between key and value"));
        }
        Ok(shaped::Shape {
            whole: self.format == Format::Ndjson,
            key: self.key.clone(),
            key_delimiter: self.key_delimiter.clone(),
            headers: self.header.iter().map(header).collect::<Result<_>>()?,
            null: self.null,
        })
    }
}
