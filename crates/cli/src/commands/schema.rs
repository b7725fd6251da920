//! `millstream schema [COMPONENT]`

use clap::Args;
use millstream::{
    core::{Component, Error, ErrorKind, Registry, Result, suggest},
    registry,
};

use crate::{
    exit::{Exit, Outcome},
    output,
};

/// Print the JSON Schema of pipeline files, or of one component's options.
#[derive(Debug, Args)]
pub(crate) struct SchemaCommand {
    /// A component: `map`, or `source.file` where a source and a sink have one name
    component: Option<String>,
}

impl SchemaCommand {
    pub(crate) fn execute(self) -> Outcome {
        let registry = registry();
        let schema = match &self.component {
            None => millstream_config::schema(&registry),
            Some(name) => (find(&registry, name)?.schema)(),
        };
        output::print(&format!("{:#}", schema.to_value()))?;
        Ok(Exit::Done)
    }
}

fn find<'a>(registry: &'a Registry, name: &str) -> Result<&'a Component> {
    let full = |component: &Component| format!("{}.{}", component.role(), component.name);
    let found: Vec<&Component> =
        registry.iter().filter(|component| component.name == name || full(component) == name).collect();
    match found.as_slice() {
        [only] => Ok(only),
        [] => {
            let known: Vec<String> = registry.iter().map(|component| component.name.to_owned()).collect();
            let error = Error::new(ErrorKind::Option, format!("there is no component `{name}`"));
            Err(suggest(name, &known).into_iter().fold(error, |error, hint| error.hint(hint)))
        }
        several => {
            let names: Vec<String> = several.iter().map(|component| format!("`{}`", full(component))).collect();
            Err(Error::new(ErrorKind::Option, format!("`{name}` is the name of several components"))
                .hint(format!("write {}", names.join(" or "))))
        }
    }
}
