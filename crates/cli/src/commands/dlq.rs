//! `millstream dlq list|show`

use std::{collections::BTreeMap, path::Path};

use clap::{Args, Subcommand, ValueEnum};
use millstream::{
    core::{DeadLetter, Error, Form, Record, Result},
    state::{inspect::json_of_bytes, read_dead_letters},
};
use serde_json::{Value, json};

use crate::{
    count::thousands,
    exit::{Exit, Failure, Outcome},
    letters::excerpt,
    output::{self, Output},
    stream::StateDir,
    table::Table,
};

use super::state::folder;

/// Letters that are read at once.
const PAGE: usize = 1000;

/// Look at the records that failed for good.
#[derive(Debug, Args)]
pub(crate) struct DlqCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How many there are, by pipeline, or of one pipeline by cause
    List {
        /// The pipeline
        pipeline: Option<String>,
        #[command(flatten)]
        state: StateDir,
    },
    /// Each of them: what it was, where it failed, and why
    Show {
        /// The pipeline
        pipeline: String,
        /// Begin with this number; the first is 1
        #[arg(long, value_name = "NUMBER", default_value = "1")]
        from: u64,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// How to print them
        #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
        format: Format,
        #[command(flatten)]
        state: StateDir,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Ndjson,
}

impl DlqCommand {
    pub(crate) fn execute(self) -> Outcome {
        match self.what {
            What::List { pipeline: Some(pipeline), state } => causes(&folder(&state, &pipeline)?)?,
            What::List { pipeline: None, state } => pipelines(&state.state_dir)?,
            What::Show { pipeline, from, limit, format, state } => {
                let folder = folder(&state, &pipeline)?;
                let mut output = Output::new();
                each(&folder, from, limit.unwrap_or(u64::MAX), |number, letter| {
                    output.write(
                        match format {
                            Format::Text => text(number, letter),
                            Format::Ndjson => format!("{}\n", object(number, letter)),
                        }
                        .as_bytes(),
                    )
                })?;
                output.finish()?;
            }
        }
        Ok(Exit::Done)
    }
}

/// Hands over letter by letter; memory stays flat however many there are.
fn each(
    folder: &Path,
    from: u64,
    limit: u64,
    mut take: impl FnMut(u64, &DeadLetter) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut next, mut left) = (from.max(1), limit);
    while left > 0 {
        let letters = read_dead_letters(folder, next, PAGE.min(usize::try_from(left).unwrap_or(PAGE)))?;
        let Some((last, _)) = letters.last() else { break };
        next = last + 1;
        left -= letters.len() as u64;
        letters.iter().try_for_each(|(number, letter)| take(*number, letter))?;
    }
    Ok(())
}

fn pipelines(state_dir: &Path) -> Result<(), Failure> {
    let mut table = Table::new(&["PIPELINE", ">LETTERS", "NEWEST"]);
    let cannot = |error| Error::io(format!("cannot read the state directory `{}`", state_dir.display()), error);
    let mut folders = Vec::new();
    if state_dir.exists() {
        for entry in std::fs::read_dir(state_dir).map_err(cannot)? {
            folders.push(entry.map_err(cannot)?.path());
        }
    }
    folders.sort();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let (mut count, mut newest) = (0, String::new());
        each(folder, 1, u64::MAX, |number, letter| {
            (count, newest) = (number, letter.failed_at.to_string());
            Ok(())
        })?;
        if count > 0 {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            table.row([name, thousands(count), newest]);
        }
    }
    match table.is_empty() {
        true => Ok(()),
        false => output::print(&table.render()),
    }
}

fn causes(folder: &Path) -> Result<(), Failure> {
    let mut causes: BTreeMap<(String, String, String), (u64, String)> = BTreeMap::new();
    each(folder, 1, u64::MAX, |_, letter| {
        let key = (letter.stage.clone(), letter.code.clone(), letter.causes.join(": "));
        let cause = causes.entry(key).or_insert_with(|| (0, letter.record.id()));
        cause.0 += 1;
        Ok(())
    })?;
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let mut table = Table::new(&[">LETTERS", "STAGE", "CODE", "EXAMPLE", "CAUSE"]);
    for ((stage, code, cause), (count, example)) in causes {
        table.row([thousands(count), stage, code, example, cause]);
    }
    match table.is_empty() {
        true => Ok(()),
        false => output::print(&table.render()),
    }
}

fn text(number: u64, letter: &DeadLetter) -> String {
    let record = &letter.record;
    let mut lines = vec![format!("{number}  {}", record.id())];
    lines.push(format!("    failed   {} at {}, in `{}`", letter.code, letter.failed_at, letter.stage));
    lines.push(format!("    cause    {}", letter.causes.join(": ")));
    lines.extend(letter.hint.iter().map(|hint| format!("    hint     {hint}")));
    if letter.attempts > 1 {
        lines.push(format!("    attempts {}", letter.attempts));
    }
    lines.extend(record.key.iter().map(|key| format!("    key      {}", excerpt(key))));
    for (name, value) in &record.headers {
        let value = value.as_ref().map_or("none".to_owned(), |value| excerpt(value));
        lines.push(format!("    header   {} = {value}", excerpt(name.as_bytes())));
    }
    lines.push(format!("    value    {}", record.value.as_ref().map_or("none".to_owned(), |value| excerpt(value))));
    lines.extend(record.original.iter().map(|value| format!("    read as  {}", excerpt(value))));
    lines.join("\n") + "\n"
}

/// Everything that is kept of a letter.
fn object(number: u64, letter: &DeadLetter) -> Value {
    let record: &Record = &letter.record;
    let bytes = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map(|bytes| json_of_bytes(bytes));
    let headers: Vec<Value> = record.headers.iter().map(|(name, value)| json!([name, bytes(value)])).collect();
    let value = match record.form {
        Form::Json => record.value.as_ref().and_then(|value| serde_json::from_slice(value).ok()),
        _ => None,
    };
    json!({
        "number": number,
        "id": letter.id(),
        "stage": letter.stage,
        "code": letter.code,
        "causes": letter.causes,
        "hint": letter.hint,
        "attempts": letter.attempts,
        "failed_at": letter.failed_at.to_string(),
        "stream": &*record.origin.stream,
        "shard": record.origin.shard,
        "sequence": record.sequence.to_string().parse::<serde_json::Number>().ok(),
        "time": record.time.map(|time| time.to_string()),
        "key": bytes(&record.key),
        "headers": headers,
        "value": value.or_else(|| bytes(&record.value)),
        "original": bytes(&record.original),
    })
}
