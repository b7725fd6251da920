//! Pipeline files on the command line: `run`, `check` and `graph` load them alike.

use std::path::PathBuf;

use clap::Args;
use millstream::{
    Buffered, Home,
    core::{Error, ErrorKind, Registry, suggest},
    runtime::{Entry, PipelineSpec, Plan, PlanOptions},
};
use millstream_config::{Diagnostic, PipelineFile, Variables, load};

use crate::exit::Failure;

/// Which files, and the values of their variables.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Pipeline files; of a folder, every .yaml, .yml and .json file in it
    #[arg(value_name = "FILE|DIR", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) variables: VariableArgs,
}

/// Values of variables.
#[derive(Debug, Args)]
pub(crate) struct VariableArgs {
    /// Set a variable; wins over the environment
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Read variables that are set nowhere else from a file of NAME=VALUE lines
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
}

impl VariableArgs {
    pub(crate) fn read(&self) -> Result<Variables, Error> {
        let mut variables = Variables::from_process();
        for pair in &self.set {
            variables.set_pair(pair).map_err(|error| error.context("cannot use --set"))?;
        }
        for path in &self.env_file {
            variables.read_env_file(path).map_err(|error| error.with_kind(ErrorKind::Option))?;
        }
        Ok(variables)
    }
}

impl Files {
    /// Reads all files.
    pub(crate) fn load(&self, registry: &Registry) -> Result<Vec<PipelineFile>, Failure> {
        let variables = self.variables.read()?;
        let files = load(&self.paths, registry, &variables)?;
        unused(&files, &variables)?;
        Ok(files)
    }
}

/// A variable that no file asks for is a slip of the pen.
pub(crate) fn unused(files: &[PipelineFile], variables: &Variables) -> Result<(), Error> {
    let known: Vec<&str> = files.iter().flat_map(PipelineFile::variables_used).collect();
    match variables.set_names().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => {
            let error = Error::new(ErrorKind::Option, format!("no pipeline uses the variable `{name}` of --set"));
            Err(suggest(name, &known).into_iter().fold(error, |error, hint| error.hint(hint)))
        }
    }
}

/// Plans a file with the tasks of its buffers; every error has its place.
pub(crate) fn buffered(
    file: &PipelineFile,
    registry: &Registry,
    options: PlanOptions,
    home: &Home,
) -> Result<Buffered, Vec<Diagnostic>> {
    Buffered::new(file.spec(), registry, options, home)
        .map_err(|errors| errors.into_iter().map(|error| file.diagnostic(error)).collect())
}

/// A text without the secrets of a file.
pub(crate) fn hide(file: &PipelineFile, text: &str) -> String {
    hidden(file, Error::new(ErrorKind::Data, text)).error().message().to_owned()
}

/// An error of the running pipeline, which has no place in the file, without its secrets.
pub(crate) fn hidden(file: &PipelineFile, error: Error) -> Diagnostic {
    // An error that has a location keeps it; this one is no `file:line:column`, and so is not shown.
    file.diagnostic(error.located(""))
}

/// Where each stage of a plan stands in its file: name, and `file:line:column`.
pub(crate) fn locations(file: &PipelineFile, plan: &Plan) -> Vec<(String, String)> {
    let mut nodes: Vec<&str> = plan.nodes.iter().map(|node| node.name.as_str()).collect();
    let mut found = Vec::new();
    for (name, kind, place) in entries(file.spec()) {
        // A stage without a name is called by its kind, then `kind-2`; the planner counts them in the file's order.
        let named = |node: &&str| match &name {
            Some(name) => *node == name,
            None => {
                let number = node.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-'));
                *node == kind || number.is_some_and(|number| number.parse::<u32>().is_ok())
            }
        };
        let Some(at) = (0..nodes.len()).filter(|at| named(&nodes[*at])).min_by_key(|at| nodes[*at].len()) else {
            continue;
        };
        let error = Error::new(ErrorKind::Data, "");
        let error = file.locate(place.iter().rev().fold(error, |error, key| error.within(key)));
        let location = error.place().and_then(|place| place.location.clone());
        let node = nodes.remove(at);
        found.extend(location.map(|location| (node.to_owned(), location)));
    }
    found
}

type Named<'a> = (Option<String>, &'a str, &'a [String]);

fn entries(spec: &PipelineSpec) -> Vec<Named<'_>> {
    fn of<P: ?Sized>(entry: &Entry<P>) -> Named<'_> {
        (entry.name.clone(), entry.kind(), &entry.place)
    }
    spec.sources.iter().map(of).chain(spec.steps.iter().map(of)).chain(spec.sinks.iter().map(of)).collect()
}
