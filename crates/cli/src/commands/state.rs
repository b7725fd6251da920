//! `millstream state list|show|seek|reset`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use millstream::{
    Home,
    core::{Checkpoint, Error, ErrorKind, Result, SeekTo, suggest},
    observe::control::{Ask, Client},
    state::inspect::{self, Summary},
};
use serde_json::{Value, json};

use crate::{
    asking::Which,
    count::{bytes, thousands},
    exit::{Exit, Outcome},
    output,
    stream::{StateDir, readable},
    table::Table,
    talk::Talk,
};

/// Look at checkpoints, positions and state, or forget them.
#[derive(Debug, Args)]
pub(crate) struct StateCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All pipelines of the state directory
    List {
        #[command(flatten)]
        state: StateDir,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The checkpoint of a pipeline, with positions, keys and values, as JSON; also while it runs
    Show {
        /// The pipeline
        pipeline: String,
        /// Keys of this stage only
        #[arg(long)]
        stage: Option<String>,
        /// At most so many keys of each stage
        #[arg(long, value_name = "N", default_value = "1000")]
        limit: usize,
        #[command(flatten)]
        state: StateDir,
    },
    /// Let a source of a pipeline at rest go on elsewhere; state stays as it is
    Seek {
        /// The pipeline
        pipeline: String,
        /// The source, where there are several
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        /// Where to: `beginning`, `end`, `committed` (where the group stands), a sequence number (inclusive), or a time in RFC 3339
        #[arg(long, value_name = "WHERE", value_parser = |text: &str| text.parse::<SeekTo>().map_err(readable))]
        to: SeekTo,
        #[command(flatten)]
        state: StateDir,
    },
    /// Forget checkpoints and state of a pipeline at rest, so that it begins anew; dead letters stay
    Reset {
        /// The pipeline
        pipeline: String,
        #[command(flatten)]
        state: StateDir,
    },
}

impl StateCommand {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        match self.what {
            What::List { state, json } => list(&state.state_dir, json),
            What::Show { pipeline, stage, limit, state } => show(&state, &pipeline, stage.as_deref(), limit),
            What::Seek { pipeline, source, to, state } => {
                let folder = folder(&state, &pipeline)?;
                let epoch = inspect::edit(&folder, |checkpoint| seek(checkpoint, source.as_deref(), to.clone()))
                    .map_err(|error| at_rest(error, &pipeline, "change", &folder))?;
                talk.say(&format!("{pipeline}: the next run goes on at `{to}` (epoch {epoch})"));
                Ok(Exit::Done)
            }
            What::Reset { pipeline, state } => {
                let folder = folder(&state, &pipeline)?;
                inspect::reset(&folder).map_err(|error| at_rest(error, &pipeline, "reset", &folder))?;
                talk.say(&format!("{pipeline}: the next run begins anew"));
                Ok(Exit::Done)
            }
        }
    }
}

fn list(state_dir: &Path, as_json: bool) -> Outcome {
    let found = match state_dir.exists() {
        true => inspect::list(state_dir)?,
        false => Vec::new(),
    };
    let broken = found.iter().any(|(_, summary)| summary.is_err());
    let text = match as_json {
        true => {
            let each = found.iter().map(|(name, summary)| match summary {
                Ok(summary) => serde_json::to_value(summary).unwrap_or_default(),
                Err(error) => json!({ "name": name, "error": error.chain() }),
            });
            format!("{:#}", each.collect::<Value>())
        }
        false => {
            let mut table = Table::new(&["PIPELINE", "STATUS", ">EPOCH", "DECIDED", ">LOG", "STATE"]);
            for (name, summary) in &found {
                match summary {
                    Ok(summary) => table.row(row(name, summary)),
                    Err(error) => table.row([name.clone(), "unreadable".into(), String::new(), error.chain()]),
                }
            }
            table.render()
        }
    };
    output::print(&text)?;
    Ok(if broken { Exit::Failed } else { Exit::Done })
}

fn row(name: &str, summary: &Summary) -> [String; 6] {
    let checkpoint = summary.checkpoint.as_ref();
    let status = match (summary.running, summary.pid, checkpoint) {
        (true, Some(pid), _) => format!("running ({pid})"),
        (true, None, _) => "running".to_owned(),
        (false, _, None) => "fresh".to_owned(),
        (false, _, Some(checkpoint)) if checkpoint.finished => "finished".to_owned(),
        (false, ..) => "at rest".to_owned(),
    };
    let epoch = checkpoint.map_or(0, |checkpoint| checkpoint.epoch);
    let decided = checkpoint.map_or(String::new(), |checkpoint| checkpoint.decided_at.to_string());
    let keyed = if summary.keyed { "keyed" } else { "none" };
    [name.to_owned(), status, thousands(epoch), decided, bytes(summary.log_bytes), keyed.to_owned()]
}

fn show(state: &StateDir, pipeline: &str, stage: Option<&str>, limit: usize) -> Outcome {
    let folder = folder(state, pipeline)?;
    let shown = match inspect::show(&folder, stage, limit, millstream::key_reader) {
        Ok(shown) => serde_json::to_value(&shown).unwrap_or_default(),
        // Who runs it can look into its store; without a word from there, the error says who that is.
        Err(error) => match ask(state, pipeline, stage, limit) {
            Some(shown) if error.kind() == ErrorKind::Locked => shown?,
            _ => return Err(at_rest(error, pipeline, "show", &folder).into()),
        },
    };
    output::print(&format!("{shown:#}"))?;
    Ok(Exit::Done)
}

/// What the process that runs a pipeline shows of its state; nothing if it cannot be asked.
fn ask(state: &StateDir, pipeline: &str, stage: Option<&str>, limit: usize) -> Option<Result<Value>> {
    let which = Which { state_dir: state.state_dir.clone(), pid: None };
    let mut client = Client::connect(&which.process_of(pipeline)?).ok()?;
    let stage = stage.map(str::to_owned);
    Some(client.ask(&Ask::State { pipeline: Some(pipeline.to_owned()), stage, limit }))
}

/// Notes in a checkpoint where a source is to go on; a run that had ended is one that goes on.
fn seek(checkpoint: &mut Checkpoint, source: Option<&str>, to: SeekTo) -> Result<()> {
    let names: Vec<String> = checkpoint.sources.keys().cloned().collect();
    let name = match (source, names.as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, _) => {
            let message = format!("the pipeline has several sources: {}", names.join(", "));
            return Err(Error::new(ErrorKind::Option, message).hint("say which one with --source NAME"));
        }
    };
    let Some(saved) = checkpoint.sources.get_mut(name) else {
        let error = Error::new(ErrorKind::NotFound, format!("the pipeline has no source `{name}`"));
        return Err(suggest(name, &names).into_iter().fold(error, |error, hint| error.hint(hint)));
    };
    (saved.seek, saved.ended) = (Some(to), false);
    (checkpoint.finished, checkpoint.drained) = (false, true);
    Ok(())
}

/// The folder of a pipeline, which must be there.
pub(super) fn folder(state: &StateDir, pipeline: &str) -> Result<PathBuf> {
    let home = Home::new(&state.state_dir);
    let plain = Path::new(pipeline).file_name().is_some_and(|name| name == pipeline);
    let folder = home.pipeline(pipeline);
    if plain && folder.is_dir() {
        return Ok(folder);
    }
    let entries = std::fs::read_dir(&state.state_dir).into_iter().flatten().flatten();
    let known: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let message = format!("there is no pipeline `{pipeline}` in the state directory `{}`", state.state_dir.display());
    let hint = suggest(pipeline, &known).unwrap_or_else(|| "name another one with --state-dir".to_owned());
    Err(Error::new(ErrorKind::NotFound, message).hint(hint))
}

/// Says clearly that somebody runs it.
fn at_rest(error: Error, pipeline: &str, verb: &str, folder: &Path) -> Error {
    if error.kind() != ErrorKind::Locked {
        return error;
    }
    let pid = inspect::summary(folder).ok().and_then(|summary| summary.pid);
    let who = pid.map_or("another process".to_owned(), |pid| format!("process {pid}"));
    error
        .context(format!("cannot {verb} the state of `{pipeline}`: {who} is running it"))
        .hint("stop that process first; `millstream state list` works while it runs")
}
