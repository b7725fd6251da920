//! `millstream check FILE|DIR...`

use clap::{Args, ValueEnum};
use millstream::{Home, core::Registry, registry, runtime::PlanOptions};
use millstream_config::Diagnostic;
use serde_json::json;

use crate::{
    exit::{Exit, Failure, Outcome},
    output,
    pipelines::{self, Files},
    stream::StateDir,
    talk::Talk,
};

mod connect;
mod fix;

/// Check pipeline files without running them.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    files: Files,
    /// Also open and close each connector
    #[arg(long)]
    connect: bool,
    /// Mend what can be mended with certainty, such as missing quotes, in the files themselves
    #[arg(long)]
    fix: bool,
    /// Warnings make the exit code 2
    #[arg(long)]
    deny_warnings: bool,
    /// How to print what is found: `text` on standard error, `json` on standard output
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    format: Format,
    #[command(flatten)]
    state: StateDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// What was found.
#[derive(Default)]
struct Found {
    good: Vec<String>,
    warnings: Vec<(String, String)>,
    wrong: Vec<Diagnostic>,
}

impl Check {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        let registry = registry();
        if self.fix {
            for path in fix::mend(&self.files, &registry)? {
                talk.say(&format!("mended {}", path.display()));
            }
        }
        let found = self.find(&registry)?;
        match self.format {
            Format::Text => found.tell(talk),
            Format::Json => {
                found.print()?;
                talk.say(&found.sum());
            }
        }
        let refused = self.deny_warnings && !found.warnings.is_empty();
        let wrong = found.wrong.iter().map(|diagnostic| Exit::of(diagnostic.error())).max();
        Ok(wrong.unwrap_or(if refused { Exit::Usage } else { Exit::Done }))
    }

    fn find(&self, registry: &Registry) -> Result<Found, Failure> {
        let mut found = Found::default();
        let files = match self.files.load(registry) {
            Ok(files) => files,
            Err(Failure::Errors(wrong)) => return Ok(Found { wrong, ..found }),
            Err(gone) => return Err(gone),
        };
        for file in files {
            let home = Home::new(&self.state.state_dir);
            match pipelines::buffered(&file, registry, PlanOptions::default(), &home) {
                Ok(planned) => {
                    let path = file.path().display().to_string();
                    for plan in planned.plans() {
                        let warnings = plan.warnings.iter();
                        found.warnings.extend(warnings.map(|text| (path.clone(), pipelines::hide(&file, text))));
                        if self.connect {
                            let wrong = connect::connect(plan, &home)?;
                            found.wrong.extend(wrong.into_iter().map(|error| pipelines::hidden(&file, error)));
                        }
                    }
                    found.good.push(planned.pipeline.name);
                }
                Err(wrong) => found.wrong.extend(wrong),
            }
        }
        Ok(found)
    }
}

impl Found {
    fn tell(&self, talk: &Talk) {
        self.warnings.iter().for_each(|(path, warning)| talk.warn(&format!("{path}: {warning}")));
        self.wrong.iter().for_each(|diagnostic| talk.error(diagnostic));
        talk.say(&self.sum());
    }

    /// `2 errors, 1 warning`.
    fn sum(&self) -> String {
        let plural = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            count => format!("{count} {what}s"),
        };
        match self.wrong.len() {
            0 => format!("{} checked: {}", plural(self.good.len(), "pipeline"), plural(self.warnings.len(), "warning")),
            errors => format!("{}, {}", plural(errors, "error"), plural(self.warnings.len(), "warning")),
        }
    }

    fn print(&self) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for (path, warning) in &self.warnings {
            lines.push(json!({ "level": "warning", "file": path, "message": warning }).to_string());
        }
        for diagnostic in &self.wrong {
            let mut object = diagnostic.to_json();
            object["level"] = "error".into();
            lines.push(object.to_string());
        }
        output::print(&lines.join("\n"))
    }
}
