//! `millstream file info FILE.ss`

use std::path::PathBuf;

use clap::Args;
use millstream::core::Timestamp;
use millstream_codec::ss::{End, Tail, find_end};
use serde_json::json;

use crate::{
    count::thousands,
    exit::{Exit, Outcome},
    output,
    table::Table,
};

/// Header, end and streams of a file.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// The file
    #[arg(value_name = "FILE.ss")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Info {
    pub(crate) fn execute(self) -> Outcome {
        let file = super::open(&self.file)?;
        let end = find_end(&file).map_err(super::about(&self.file))?;
        let text = if self.json { object(&end) } else { text(&end) };
        output::print(&text)?;
        let damaged = matches!(end.tail, Tail::Damaged { .. });
        Ok(if damaged { Exit::Failed } else { Exit::Done })
    }
}

/// A time of the format: milliseconds since 1970, unsigned.
pub(super) fn time(ms: u64) -> String {
    Timestamp::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)).to_string()
}

fn tail(tail: &Tail) -> String {
    match tail {
        Tail::Whole => "whole".to_owned(),
        Tail::Torn { offset } => format!("torn at {}: appending cuts it off", thousands(*offset)),
        Tail::Damaged { offset, damage } => format!("damaged at {}: {damage}", thousands(*offset)),
    }
}

fn text(end: &End) -> String {
    let header = &end.header;
    let ended = match end.end_of_stream {
        Some(offset) => format!("yes, at {}", thousands(offset)),
        None => "no".to_owned(),
    };
    let facts = [
        ("name", header.file_name().to_owned()),
        ("created", time(header.created_at_ms())),
        ("beacon interval", thousands(header.beacon_interval().into())),
        ("bytes", thousands(end.file_bytes)),
        ("end of stream", ended),
        ("tail", tail(&end.tail)),
    ];
    let mut text: String = facts.iter().map(|(name, value)| format!("{name:<16} {value}\n")).collect();
    let mut table = Table::new(&["STREAM", ">SHARD", ">SEQUENCE", "NEWEST"]);
    for stream in &end.streams {
        let cells = [thousands(stream.shard), thousands(stream.sequence), time(stream.time_ms)];
        table.row([stream.key.clone()].into_iter().chain(cells));
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}

fn object(end: &End) -> String {
    let header = &end.header;
    let streams = end.streams.iter().map(|stream| {
        json!({ "stream": stream.key, "shard": stream.shard, "sequence": stream.sequence, "time": time(stream.time_ms) })
    });
    let object = json!({
        "name": header.file_name(),
        "created_at": time(header.created_at_ms()),
        "beacon_interval": header.beacon_interval(),
        "bytes": end.file_bytes,
        "end_of_stream": end.end_of_stream,
        "tail": tail(&end.tail),
        "streams": streams.collect::<Vec<_>>(),
    });
    format!("{object:#}")
}
