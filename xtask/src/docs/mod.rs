//! `docs/connectors.md`, written from what the program says of itself: names, summaries, options with their defaults.

mod options;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// The page.
const PAGE: &str = "docs/connectors.md";

const HEAD: &str = "\
# Sources, sinks, steps, codecs and errors

Written by `cargo xtask docs` from what the program says of itself (`millstream list`, `millstream schema`). Do not edit: change
the doc comments of the options instead.
";

/// Writes the page.
pub(crate) fn write(workspace: &Workspace) -> Result<()> {
    workspace.write(PAGE, &page(workspace)?)?;
    println!("{PAGE} is written");
    Ok(())
}

/// Fails where the page is not what would be written.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let written = workspace.read(PAGE).unwrap_or_default();
    let wanted = page(workspace)?;
    if written == wanted {
        println!("    {PAGE} is what the program says");
        return Ok(());
    }
    let line = written.lines().zip(wanted.lines()).take_while(|(a, b)| a == b).count() + 1;
    bail!("{PAGE} is not what the program says, from line {line} on; run `cargo xtask docs`");
}

fn page(workspace: &Workspace) -> Result<String> {
    let list = ask(workspace, &["list", "--format", "json"])?;
    let mut page = HEAD.to_owned();
    for (kind, role) in [("sources", "source"), ("steps", "step"), ("sinks", "sink")] {
        page.push_str(&format!("\n## {}\n", title(kind)));
        for component in list[kind].as_array().with_context(|| format!("`millstream list` has no {kind}"))? {
            let name = text(component, "name");
            let schema = ask(workspace, &["schema", &format!("{role}.{name}")])?;
            page.push_str(&section(role, component, &schema));
        }
    }
    page.push_str(&codecs(&list["codecs"], &ask(workspace, &["schema", "source.file"])?));
    page.push_str(&errors(&list["errors"]));
    Ok(page)
}

fn ask(workspace: &Workspace, args: &[&str]) -> Result<Value> {
    let mut program = workspace.cargo();
    program.args(["run", "--release", "--locked", "--quiet", "--"]).args(args);
    let printed = workspace.output(&mut program)?;
    serde_json::from_str(&printed).with_context(|| format!("`millstream {}` printed no JSON", args.join(" ")))
}

fn section(role: &str, component: &Value, schema: &Value) -> String {
    let schemes: Vec<_> = component["schemes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut section = format!("\n### {} `{}`\n\n{}", title(role), text(component, "name"), text(component, "summary"));
    if !schemes.is_empty() {
        let schemes: Vec<_> = schemes.iter().map(|scheme| format!("`{scheme}:`")).collect();
        section.push_str(&format!(" As a URL: {}.", schemes.join(", ")));
    }
    section.push_str(&format!("\n\n```yaml\n{}\n```\n", text(component, "example").trim_end()));
    section.push_str(&options::table(schema));
    section
}

/// The codecs; their options stand in the schema of whatever has the option `codec`.
fn codecs(codecs: &Value, schema: &Value) -> String {
    let mut section = "\n## Codecs\n".to_owned();
    let forms = schema["$defs"]["Codec"]["anyOf"].as_array().map_or(&[][..], Vec::as_slice);
    for codec in codecs.as_array().into_iter().flatten() {
        let name = text(codec, "name");
        section.push_str(&format!("\n### Codec `{name}`\n\n{}\n", text(codec, "summary")));
        if let Some(own) = forms.iter().map(|form| &form["properties"][name]).find(|own| !own.is_null()) {
            section.push_str(&options::forms_of(schema, own));
        }
    }
    section
}

fn errors(errors: &Value) -> String {
    let mut section =
        "\n## Errors\n\n| code | class | who has to act | tried again | exit code | HTTP | what it is |\n\
        |---|---|---|---|---|---|---|\n"
            .to_owned();
    for error in errors.as_array().into_iter().flatten() {
        let retry = if error["retry"] == true { "yes" } else { "no" };
        let (code, class, blame) = (text(error, "code"), text(error, "class"), text(error, "blame"));
        let (exit, http, summary) = (&error["exit"], &error["http"], options::cell(text(error, "summary")));
        section.push_str(&format!("| `{code}` | `{class}` | {blame} | {retry} | {exit} | {http} | {summary} |\n"));
    }
    section
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn title(word: &str) -> String {
    let (first, rest) = word.split_at(word.len().min(1));
    first.to_uppercase() + rest
}
