//! `cargo xtask new-connector NAME`: a folder that compiles, and its one entry in the registry.
//!
//! The template lies in `xtask/template`: a connector for a made-up system, a server of lines over TCP, named `skeleton`.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{
    commands::copy,
    workspace::{Workspace, show},
};

/// The files of a connector, from the template.
const FILES: [(&str, &str); 9] = [
    ("Cargo.toml", include_str!("../template/Cargo.toml")),
    ("README.md", include_str!("../template/README.md")),
    ("src/lib.rs", include_str!("../template/src/lib.rs")),
    ("src/options.rs", include_str!("../template/src/options.rs")),
    ("src/client.rs", include_str!("../template/src/client.rs")),
    ("src/source.rs", include_str!("../template/src/source.rs")),
    ("src/sink.rs", include_str!("../template/src/sink.rs")),
    ("src/error.rs", include_str!("../template/src/error.rs")),
    ("tests/skeleton.rs", include_str!("../template/tests/skeleton.rs")),
];

/// The registry, where the new crate is entered.
const BUNDLE: &str = "crates/bundle/src/lib.rs";

/// The name that the check of the template gives to its connector.
const SAMPLE: &str = "sample_system";

/// Longest name: it becomes part of type names, and lines have an end.
const NAME_CHARS_MAX: usize = 24;

/// Writes the connector `name`, and enters it in the workspace and the bundle.
pub(crate) fn create(workspace: &Workspace, name: &str) -> Result<()> {
    check_name(workspace, name)?;
    // All edits are made up before the first is written, so that a failure leaves nothing half done.
    let manifest = add_line(&workspace.read("Cargo.toml")?, &workspace_line(name))
        .context("cannot find the list of connectors under [workspace.dependencies] in Cargo.toml")?;
    let bundle_manifest = add_line(&workspace.read("crates/bundle/Cargo.toml")?, &bundle_line(name))
        .context("cannot find the list of connectors in crates/bundle/Cargo.toml")?;
    let bundle = add_to_registry(&workspace.read(BUNDLE)?, name)
        .with_context(|| format!("cannot find the list of `components()` in {BUNDLE}"))?;
    for (path, text) in FILES {
        workspace.write(&format!("connectors/{name}/{}", named(path, name)), &named(text, name))?;
    }
    workspace.write("Cargo.toml", &manifest)?;
    workspace.write("crates/bundle/Cargo.toml", &bundle_manifest)?;
    workspace.write(BUNDLE, &bundle)?;
    workspace.run(workspace.cargo().args(["fmt", "--package", &package(name), "--package", "millstream-bundle"]))?;
    println!("connectors/{name} is there, and in the registry. It reads and writes lines over TCP. Now:");
    println!("  1. src/client.rs    speak the system's protocol; nothing else does");
    println!("  2. src/options.rs   what users write");
    println!("  3. src/source.rs, src/sink.rs   read and write; say in `capabilities` only what is true");
    println!("  4. tests/, README.md, the guarantee in src/lib.rs");
    println!("  cargo test -p {}", package(name));
    println!("CONTRIBUTING.md tells more.");
    Ok(())
}

/// Makes a connector in a copy of the project: it must compile without warnings and pass its tests.
pub(crate) fn check_template(workspace: &Workspace) -> Result<()> {
    // Always the same folder, and times are kept: what was compiled there before is compiled no more.
    let copied = Workspace { root: workspace.target().join("xtask/template") };
    if copied.root.exists() {
        fs::remove_dir_all(&copied.root).with_context(|| format!("cannot remove `{}`", copied.root.display()))?;
    }
    for file in workspace.files()? {
        copy(&workspace.path(&file), &copied.path(&file))?;
    }
    create(&copied, SAMPLE)?;
    let name = package(SAMPLE);
    let commands: [&[&str]; 3] = [
        &["fmt", "--package", &name, "--check"],
        &["clippy", "--package", &name, "--all-targets", "--", "-D", "warnings"],
        &["test", "--package", &name],
    ];
    for args in commands {
        let mut cargo = copied.cargo();
        cargo.args(args).env("CARGO_TARGET_DIR", workspace.target());
        println!("    {}", show(&cargo));
        copied.run(&mut cargo)?;
    }
    Ok(())
}

fn check_name(workspace: &Workspace, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(plain)
        && !name.ends_with('_')
        && !name.contains("__")
        && (2..=NAME_CHARS_MAX).contains(&name.len());
    if !well_formed {
        bail!(
            "`{name}` is no name for a connector; use 2 to {NAME_CHARS_MAX} of a-z, 0-9 and single _, such as `redis_stream`"
        );
    }
    if name == "skeleton" {
        bail!("`skeleton` is the template's own name");
    }
    let folder = name.replace('_', "-");
    for parent in ["connectors", "operators", "crates"] {
        if let Some(taken) = [name, &folder].iter().find(|taken| workspace.path(parent).join(taken).exists()) {
            bail!("`{parent}/{taken}` is already there");
        }
    }
    Ok(())
}

/// The template with the connector's name in it: `skeleton` as is, in type names and in the package's name.
fn named(text: &str, name: &str) -> String {
    let capital = |part: &str| {
        let (first, rest) = part.split_at(part.len().min(1));
        first.to_uppercase() + rest
    };
    let pascal: String = name.split('_').map(capital).collect();
    let crate_name = format!("millstream_{name}");
    text.replace("millstream-skeleton", &package(name))
        .replace("millstream_skeleton", &crate_name)
        .replace("Skeleton", &pascal)
        .replace("skeleton", name)
}

fn package(name: &str) -> String {
    format!("millstream-{}", name.replace('_', "-"))
}

fn workspace_line(name: &str) -> String {
    format!("{} = {{ path = \"connectors/{name}\" }}", package(name))
}

fn bundle_line(name: &str) -> String {
    format!("{}.workspace = true", package(name))
}

/// Puts a line behind the one of the connector `file`, which every such list has.
fn add_line(text: &str, line: &str) -> Option<String> {
    let after = text.lines().find(|line| line.starts_with("millstream-file"))?;
    Some(text.replacen(&format!("{after}\n"), &format!("{after}\n{line}\n"), 1))
}

/// Puts `components()` of the new crate behind those of `file`.
fn add_to_registry(text: &str, name: &str) -> Option<String> {
    const AFTER: &str = "millstream_file::components(),";
    let entry = format!("{AFTER} {}::components(),", package(name).replace('-', "_"));
    text.contains(AFTER).then(|| text.replacen(AFTER, &entry, 1))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn workspace() -> Workspace {
        Workspace { root: Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned() }
    }

    #[test]
    fn bad_and_taken_names_are_refused() {
        for name in ["", "X", "1a", "a b", "../a", "a-b", "_a", "a_", "a__b", "file", "core", "vrl", "skeleton", "ä"] {
            assert!(check_name(&workspace(), name).is_err(), "{name}");
        }
        assert!(check_name(&workspace(), SAMPLE).is_ok());
    }

    #[test]
    fn names_take_the_shape_that_their_place_wants() {
        let text = "millstream-skeleton millstream_skeleton SkeletonSource skeleton:";
        assert_eq!(named(text, "my_log"), "millstream-my-log millstream_my_log MyLogSource my_log:");
    }

    #[test]
    fn the_lists_of_the_project_are_found() {
        let workspace = workspace();
        for manifest in ["Cargo.toml", "crates/bundle/Cargo.toml"] {
            let text = workspace.read(manifest).unwrap();
            let added = add_line(&text, "millstream-x = 1").unwrap();
            assert_eq!(added.lines().count(), text.lines().count() + 1);
        }
        let registry = add_to_registry(&workspace.read(BUNDLE).unwrap(), "my_log").unwrap();
        assert!(registry.contains("millstream_my_log::components()"));
    }
}
