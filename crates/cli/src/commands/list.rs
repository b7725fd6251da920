//! `millstream list [KIND]`

use clap::{Args, ValueEnum};
use millstream::{
    core::{ErrorKind, Role},
    registry,
};
use millstream_codec::CodecOptions;
use serde_json::{Value, json};

use crate::{
    exit::{Exit, Outcome},
    output,
    table::Table,
};

/// List what this build knows, with one line each.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// What to list; without it: everything
    #[arg(value_enum)]
    kind: Option<Kind>,
    /// How to print it
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Where records come from
    Sources,
    /// Where they go
    Sinks,
    /// What happens to them in between
    Steps,
    /// How bytes become records
    Codecs,
    /// Codes and classes for error rules
    Errors,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

impl List {
    pub(crate) fn execute(self) -> Outcome {
        let all = [Kind::Sources, Kind::Sinks, Kind::Steps, Kind::Codecs, Kind::Errors];
        let kinds: Vec<Kind> = all.into_iter().filter(|kind| self.kind.is_none_or(|only| only == *kind)).collect();
        let text = match self.format {
            Format::Table => {
                let tables = kinds.iter().map(|kind| kind.table().render());
                tables.collect::<Vec<_>>().join("\n")
            }
            Format::Json => {
                let object = kinds.iter().map(|kind| (kind.name().to_owned(), kind.json()));
                let object: serde_json::Map<String, Value> = object.collect();
                match self.kind.and_then(|kind| object.get(kind.name())) {
                    Some(list) => format!("{list:#}"),
                    None => format!("{:#}", Value::Object(object)),
                }
            }
        };
        output::print(&text)?;
        Ok(Exit::Done)
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Sources => "sources",
            Kind::Sinks => "sinks",
            Kind::Steps => "steps",
            Kind::Codecs => "codecs",
            Kind::Errors => "errors",
        }
    }

    fn role(self) -> Option<Role> {
        match self {
            Kind::Sources => Some(Role::Source),
            Kind::Sinks => Some(Role::Sink),
            Kind::Steps => Some(Role::Step),
            Kind::Codecs | Kind::Errors => None,
        }
    }

    fn table(self) -> Table {
        if let Some(role) = self.role() {
            let mut table = Table::new(&[&role.to_string().to_uppercase(), "URL", "WHAT"]);
            for component in registry().iter().filter(|component| component.role() == role) {
                let schemes: Vec<String> = component.schemes.iter().map(|scheme| format!("{scheme}:")).collect();
                table.row([component.name.to_owned(), schemes.join(" "), component.summary.to_owned()]);
            }
            return table;
        }
        if self == Kind::Codecs {
            let mut table = Table::new(&["CODEC", "WHAT"]);
            CodecOptions::ALL.iter().for_each(|(name, what)| table.row([(*name).to_owned(), (*what).to_owned()]));
            return table;
        }
        let mut table = Table::new(&["CODE", "CLASS", "BLAME", "RETRY", ">EXIT", "WHAT"]);
        for kind in ErrorKind::ALL {
            let facts = kind.facts();
            let retry = if facts.retry { "yes" } else { "no" };
            table.row([
                facts.code.to_owned(),
                word(&facts.class),
                word(&facts.blame),
                retry.to_owned(),
                facts.exit.to_string(),
                facts.summary.to_owned(),
            ]);
        }
        table
    }

    fn json(self) -> Value {
        if let Some(role) = self.role() {
            let registry = registry();
            let of_role = registry.iter().filter(|component| component.role() == role);
            let listed = of_role.map(|component| {
                json!({
                    "name": component.name, "summary": component.summary, "schemes": component.schemes,
                    "example": component.example,
                })
            });
            return listed.collect();
        }
        if self == Kind::Codecs {
            return CodecOptions::ALL
                .iter()
                .map(|(name, summary)| json!({ "name": name, "summary": summary }))
                .collect();
        }
        let listed = ErrorKind::ALL.iter().map(|kind| {
            let facts = kind.facts();
            json!({
                "code": facts.code, "class": facts.class, "blame": facts.blame, "retry": facts.retry,
                "exit": facts.exit, "http": facts.http, "summary": facts.summary,
            })
        });
        listed.collect()
    }
}

/// A variant as users write it.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
