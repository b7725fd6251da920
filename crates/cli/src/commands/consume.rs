//! `millstream consume URL`

use clap::{Args, ValueEnum};
use millstream::{
    core::{Role, SeekTo, SinkPlan},
    registry,
    runtime::Entry,
};
use millstream_codec::{Newline, print};
use serde_json::json;

use crate::{
    exit::Outcome,
    stream::{Drain, Endpoint, Range, Stream, step},
    talk::Talk,
};

mod printed;

/// Print the records of a stream.
#[derive(Debug, Args)]
pub(crate) struct Consume {
    /// Where to read: `stdio:`, `file:///data/x.ss/key`, `file:app.log`, ...
    url: String,
    #[command(flatten)]
    range: Range,
    #[command(flatten)]
    printing: Printing,
    /// Print only records for which this VRL expression is true
    #[arg(long, value_name = "VRL")]
    r#where: Option<String>,
    /// An option of the component that reads
    #[arg(short, value_name = "NAME=VALUE")]
    o: Vec<String>,
    #[command(flatten)]
    drain: Drain,
}

/// How records are printed.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Printing {
    /// How a record is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "log")]
    format: Format,
    /// In `ndjson`: put values that are JSON in as JSON, not as text
    #[arg(long, value_enum, value_name = "CODEC")]
    decode: Option<Decode>,
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

impl From<Format> for print::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Log => print::Format::Log,
            Format::Ndjson => print::Format::Ndjson,
            Format::Raw => print::Format::Raw,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Decode {
    /// JSON
    Json,
}

impl Consume {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        let registry = registry();
        let mut source = Endpoint::new(Role::Source, &self.url, &registry)?;
        source.set_all(&self.o)?;
        source.range(&self.range, SeekTo::End)?;
        let mut stream = self.printing.stream("consume", &source);
        stream.until_end = self.range.until_end;
        stream.count = self.range.count;
        stream.drain = self.drain;
        if let Some(expression) = self.r#where {
            stream.spec.steps.insert(0, step("filter", "--where", &expression));
            stream.expressions.push(("--where", expression));
        }
        stream.run(&registry, talk)
    }
}

impl Printing {
    /// Prints single records; line breaks in values of `log` and `raw` are escaped.
    pub(crate) fn printer(self) -> print::Printer {
        let decode_json = self.decode == Some(Decode::Json);
        print::Printer { format: self.format.into(), newline: Newline::Escape, decode_json }
    }

    /// A pipeline that prints what a source reads.
    pub(crate) fn stream(self, name: &str, source: &Endpoint) -> Stream {
        let format = print::Format::from(self.format);
        let decode_json = self.decode == Some(Decode::Json) && self.format == Format::Ndjson;
        // What the component cannot print, a step in front of it does.
        let shown = if decode_json { print::Format::Raw } else { format };
        let sink: Entry<dyn SinkPlan> = Entry::named("stdout", json!({ "format": shown.to_string() }));
        let mut stream = Stream::new(name, source.source(), sink);
        if decode_json {
            stream.spec.steps.push(printed::step(format));
        }
        stream.prints = true;
        stream
    }
}
