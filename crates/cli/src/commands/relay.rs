//! `millstream relay INPUT OUTPUT`

use std::path::PathBuf;

use clap::Args;
use millstream::{
    Home,
    core::{Error, ErrorKind, Registry, Result, Role, SeekTo},
    registry,
    runtime::StateSpec,
};

use crate::{
    exit::{Exit, Failure, Outcome},
    stream::{Drain, Endpoint, Range, StateDir, Stream, step},
    talk::Talk,
};

/// Copy a stream: from any source URL to any sink URL.
#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// Where to read: `stdio:`, `file:///data/x.ss/key`, `file:app.log`, ...
    #[arg(value_name = "INPUT")]
    input: String,
    /// Where to write
    #[arg(value_name = "OUTPUT")]
    output: String,
    #[command(flatten)]
    range: Range,
    /// Keep only records for which this VRL expression is true
    #[arg(long, value_name = "VRL")]
    filter: Option<String>,
    /// Change each record by this VRL program
    #[arg(long, value_name = "VRL")]
    map: Option<String>,
    /// An option of the component that reads, or else of the one that writes
    #[arg(short, value_name = "NAME=VALUE")]
    o: Vec<String>,
    /// Keep the position in the state directory under this name, and go on there next time
    #[arg(long, value_name = "NAME")]
    resume: Option<String>,
    #[command(flatten)]
    state: StateDir,
    #[command(flatten)]
    drain: Drain,
    /// Write a pipeline file that does the same, instead of doing it
    #[arg(long, value_name = "FILE", conflicts_with = "count")]
    save: Option<PathBuf>,
}

impl Relay {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        let registry = registry();
        let (source, sink) = self.endpoints(&registry)?;
        let name = self.resume.clone().unwrap_or_else(|| "relay".to_owned());
        check_name(&name)?;
        let mut stream = Stream::new(&name, source.source(), sink.sink());
        stream.until_end = self.range.until_end;
        stream.count = self.range.count;
        stream.drain = self.drain;
        stream.prints = matches!(sink.kind, "stdio" | "stdout");
        if self.resume.is_some() {
            stream.spec.state = StateSpec::Embedded;
            stream.home = Some(Home::new(&self.state.state_dir));
        }
        for (flag, kind, text) in [("--filter", "filter", &self.filter), ("--map", "map", &self.map)] {
            if let Some(text) = text {
                stream.spec.steps.push(step(kind, flag, text));
                stream.expressions.push((flag, text.clone()));
            }
        }
        match &self.save {
            None => stream.run(&registry, talk),
            Some(path) => {
                stream.plan(&registry)?;
                let text = self.written(&name, &source, &sink);
                save(path, &text)?;
                let how = if self.range.until_end { " --until-end" } else { "" };
                talk.say(&format!("saved; `millstream run{how} {}` does the same", path.display()));
                Ok(Exit::Done)
            }
        }
    }

    /// Options of `-o` go to the source if it knows them, else to the sink.
    fn endpoints(&self, registry: &Registry) -> Result<(Endpoint, Endpoint), Failure> {
        let mut source = Endpoint::new(Role::Source, &self.input, registry)?;
        let mut sink = Endpoint::new(Role::Sink, &self.output, registry)?;
        let head = |pair: &String| pair.split(['=', '.']).next().unwrap_or_default().to_owned();
        let (of_source, of_sink): (Vec<_>, Vec<_>) =
            self.o.iter().cloned().partition(|pair| source.knows(&head(pair)) || !sink.knows(&head(pair)));
        source.set_all(&of_source)?;
        sink.set_all(&of_sink)?;
        source.range(&self.range, SeekTo::Beginning)?;
        Ok((source, sink))
    }

    /// The pipeline as a file.
    fn written(&self, name: &str, source: &Endpoint, sink: &Endpoint) -> String {
        let mut lines = vec![format!("name: {}", quoted(name))];
        if self.resume.is_none() {
            lines.push("state: { memory: {} }".to_owned());
        }
        lines.push("source:".to_owned());
        lines.push(format!("  {}: {}", source.kind, options(&source.options)));
        let steps = [("filter", &self.filter), ("map", &self.map)];
        if steps.iter().any(|(_, text)| text.is_some()) {
            lines.push("steps:".to_owned());
        }
        for (kind, text) in steps {
            lines.extend(text.as_ref().map(|text| format!("  - {kind}: {}", quoted(text))));
        }
        lines.push("sink:".to_owned());
        lines.push(format!("  {}: {}", sink.kind, options(&sink.options)));
        lines.join("\n") + "\n"
    }
}

/// A name is a folder in the state directory.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match name.chars().all(plain) && !name.starts_with('.') && !name.is_empty() {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Option, format!("`{name}` cannot be the name of a pipeline"))
            .hint("use letters, digits, `-`, `_` and `.`")),
    }
}

/// Options in YAML's flow form, which JSON is; `${` is not meant as a variable.
fn options(options: &serde_json::Map<String, serde_json::Value>) -> String {
    serde_json::Value::Object(options.clone()).to_string().replace("${", "$${")
}

/// A text in single quotes, or where it has several lines in double ones.
fn quoted(text: &str) -> String {
    match text.contains(|c: char| c.is_control()) {
        true => serde_json::Value::from(text).to_string(),
        false => format!("'{}'", text.replace('\'', "''")),
    }
}

fn save(path: &std::path::Path, text: &str) -> Result<()> {
    let cannot = |error| Error::io(format!("cannot save the pipeline as `{}`", path.display()), error);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(cannot)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(cannot)
}
