//! `millstream file verify FILE.ss`

use std::path::PathBuf;

use clap::Args;
use millstream_codec::ss::{Report, verify};

use crate::{
    count::thousands,
    exit::{Exit, Outcome},
    output,
    table::Table,
};

/// Read a whole file and report every damaged place.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The file
    #[arg(value_name = "FILE.ss")]
    file: PathBuf,
}

impl Verify {
    pub(crate) fn execute(self) -> Outcome {
        let file = super::open(&self.file)?;
        let report = verify(&file).map_err(super::about(&self.file))?;
        output::print(&text(&report))?;
        Ok(if report.whole() { Exit::Done } else { Exit::Failed })
    }
}

/// The report, for people.
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    for place in &report.damaged {
        text.push_str(&format!("damaged at {}: {}\n", thousands(place.offset), place.what));
    }
    if report.damaged_more > 0 {
        text.push_str(&format!("and {} more damaged places\n", thousands(report.damaged_more)));
    }
    if let Some(offset) = report.torn {
        text.push_str(&format!(
            "torn at {}: the last message is not complete; appending cuts it off\n",
            thousands(offset)
        ));
    }
    let mut table = Table::new(&["STREAM", ">SHARD", ">MESSAGES", ">FIRST", ">LAST"]);
    for stream in &report.streams {
        let numbers = [stream.end.shard, stream.messages, stream.first_sequence, stream.end.sequence].map(thousands);
        table.row([stream.end.key.clone()].into_iter().chain(numbers));
    }
    if !table.is_empty() {
        text.push_str(&table.render());
    }
    let places = report.damaged.len() as u64 + report.damaged_more;
    let verdict = match places {
        0 => "whole".to_owned(),
        1 => "1 damaged place".to_owned(),
        places => format!("{} damaged places", thousands(places)),
    };
    let ended = if report.end_of_stream.is_some() { ", ended" } else { "" };
    text.push_str(&format!(
        "{verdict}{ended}: {} messages, {} bytes of values, {} beacons\n",
        thousands(report.messages),
        thousands(report.payload_bytes),
        thousands(report.beacons),
    ));
    text
}
