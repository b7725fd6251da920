//! `millstream clock URL`

use clap::Args;
use millstream::{
    core::{Error, ErrorKind, Role, Span},
    registry,
    runtime::Entry,
};
use serde_json::json;

use crate::{
    exit::Outcome,
    stream::{Drain, Endpoint, Stream, readable},
    talk::Talk,
};

/// Write one record a tick: `{"tick":1}`, `{"tick":2}`, ...
#[derive(Debug, Args)]
pub(crate) struct Clock {
    /// Where to write
    url: String,
    /// Time between two ticks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = |text: &str| text.parse::<Span>().map_err(readable))]
    interval: Span,
    /// Stop after N ticks
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// An option of the component that writes
    #[arg(short, value_name = "NAME=VALUE")]
    o: Vec<String>,
    #[command(flatten)]
    drain: Drain,
}

impl Clock {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        let registry = registry();
        if self.interval.0.is_zero() {
            let error = Error::new(ErrorKind::Option, "a clock cannot tick without a pause");
            return Err(error.hint("write `--interval 1ms`, say").into());
        }
        let mut sink = Endpoint::new(Role::Sink, &self.url, &registry)?;
        sink.set_all(&self.o)?;
        let rate = 1.0 / self.interval.0.as_secs_f64();
        let source = Entry::named("generate", json!({ "rate": rate, "template": { "tick": "{n}" } }));
        let mut stream = Stream::new("clock", source, sink.sink());
        // Not the source's own count: a source that ends by itself makes a file sink replace what is there.
        stream.count = self.count;
        stream.drain = self.drain;
        stream.prints = matches!(sink.kind, "stdio" | "stdout");
        stream.run(&registry, talk)
    }
}
