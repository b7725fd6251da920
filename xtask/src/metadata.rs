//! The packages of the workspace and what they depend on, as `cargo metadata` says.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::workspace::Workspace;

/// All packages of the workspace.
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    /// By package id: the name of the package, and the ids that it links or builds with. Tests are not in it.
    graph: BTreeMap<String, (String, Vec<String>)>,
    /// The packages that a plain `cargo run` or `cargo test` means.
    pub(crate) default_members: BTreeSet<String>,
}

/// A package of the workspace.
#[derive(Default)]
pub(crate) struct Package {
    id: String,
    pub(crate) name: String,
    /// Its folder in the workspace, such as `crates/core`.
    pub(crate) folder: String,
    /// What it links with, directly.
    pub(crate) dependencies: BTreeSet<String>,
    /// What its tests need beside that.
    pub(crate) dev_dependencies: BTreeSet<String>,
    /// Names of its programs.
    pub(crate) programs: Vec<String>,
}

impl Package {
    /// Whether it lies under a folder such as `connectors`.
    pub(crate) fn within(&self, folder: &str) -> bool {
        self.folder.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl Metadata {
    /// Asks cargo.
    pub(crate) fn load(workspace: &Workspace) -> Result<Self> {
        let host = workspace.output(std::process::Command::new("rustc").arg("-vV").current_dir(&workspace.root))?;
        let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
        let mut cargo = workspace.cargo();
        cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host]);
        let json: Value =
            serde_json::from_str(&workspace.output(&mut cargo)?).context("`cargo metadata` is no JSON")?;
        let root = text(&json["workspace_root"]);
        let members: BTreeSet<_> = list(&json["workspace_members"]).iter().map(text).collect();
        let names: BTreeMap<_, _> =
            list(&json["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let name_of = |id: &Value| names.get(&text(id)).cloned().unwrap_or_default();
        let of_workspace = list(&json["packages"]).iter().filter(|package| members.contains(&text(&package["id"])));
        Ok(Metadata {
            packages: of_workspace.map(|package| read_package(package, &root)).collect(),
            graph: list(&json["resolve"]["nodes"]).iter().map(|node| read_node(node, &name_of)).collect(),
            default_members: list(&json["workspace_default_members"]).iter().map(name_of).collect(),
        })
    }

    /// The package in a folder.
    pub(crate) fn at(&self, folder: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.folder == folder)
    }

    /// Names of all that a package links with, however far away.
    pub(crate) fn closure(&self, package: &Package) -> BTreeSet<&str> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![package.id.as_str()]);
        while let Some(id) = open.pop() {
            let Some((_, needs)) = self.graph.get(id) else { continue };
            open.extend(needs.iter().map(String::as_str).filter(|id| seen.insert(*id)));
        }
        seen.into_iter().filter_map(|id| Some(self.graph.get(id)?.0.as_str())).collect()
    }
}

fn read_package(package: &Value, root: &str) -> Package {
    let of_kind = |dev: bool| {
        let all = list(&package["dependencies"]).iter();
        all.filter(|dependency| (dependency["kind"] == "dev") == dev)
            .map(|dependency| text(&dependency["name"]))
            .collect()
    };
    let is_program = |target: &&Value| list(&target["kind"]).iter().any(|kind| kind == "bin");
    let manifest = text(&package["manifest_path"]);
    let folder = manifest.strip_prefix(root).unwrap_or(&manifest).trim_start_matches('/');
    Package {
        id: text(&package["id"]),
        name: text(&package["name"]),
        folder: folder.strip_suffix("/Cargo.toml").unwrap_or(folder).to_owned(),
        dependencies: of_kind(false),
        dev_dependencies: of_kind(true),
        programs: list(&package["targets"]).iter().filter(is_program).map(|target| text(&target["name"])).collect(),
    }
}

fn read_node(node: &Value, name_of: &impl Fn(&Value) -> String) -> (String, (String, Vec<String>)) {
    let linked = |dependency: &&Value| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
    let needs = list(&node["deps"]).iter().filter(linked).map(|dependency| text(&dependency["pkg"])).collect();
    (text(&node["id"]), (name_of(&node["id"]), needs))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
