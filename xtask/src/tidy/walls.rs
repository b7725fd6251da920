//! The walls: which crate may depend on which.

use std::collections::BTreeSet;

use super::Problem;
use crate::metadata::{Metadata, Package};

/// What has no place in `core`, however far away: async runtimes, sockets, client libraries.
const NOT_IN_CORE: [&str; 12] = [
    "tokio",
    "mio",
    "socket2",
    "async-io",
    "async-std",
    "smol",
    "futures-executor",
    "hyper",
    "reqwest",
    "rustls",
    "openssl-sys",
    "native-tls",
];

/// What has no place in `runtime`: it serves every door, and only one of them speaks HTTP.
const NOT_IN_RUNTIME: [&str; 8] = ["hyper", "http", "h2", "reqwest", "axum", "warp", "tonic", "tiny_http"];

/// What a connector may use of the workspace.
const FOR_CONNECTORS: [&str; 2] = ["millstream-core", "millstream-codec"];

/// What an operator may use of the workspace: also keyed state.
const FOR_OPERATORS: [&str; 3] = ["millstream-core", "millstream-codec", "millstream-state"];

/// What tests of connectors and operators may use beside that.
const FOR_THEIR_TESTS: [&str; 3] = ["millstream-testkit", "millstream-state", "millstream-runtime"];

/// Who may name connectors and operators: the one list, and the program that measures them one by one.
const MAY_NAME_COMPONENTS: [&str; 2] = ["crates/bundle", "crates/bench"];

/// Crates that a plain `cargo run` and `cargo test` leave out, because they are other programs.
const NOT_DEFAULT: [&str; 2] = ["crates/bench", "xtask"];

/// Checks the walls.
pub(super) fn check(metadata: &Metadata) -> Vec<Problem> {
    let own: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let mut wall = |message: String| problems.push(Problem::of(&format!("{}/Cargo.toml", package.folder), message));
        let of_workspace = package.dependencies.iter().filter(|name| own.contains(name.as_str()));
        for name in of_workspace {
            if let Some(message) = forbidden(metadata, package, name) {
                wall(message);
            }
        }
        for name in package.dev_dependencies.iter().filter(|name| own.contains(name.as_str())) {
            if is_component_crate(package) && !may_use(package, name) && !FOR_THEIR_TESTS.contains(&name.as_str()) {
                wall(format!("tests of a connector or operator may use `millstream-testkit`, but not `{name}`"));
            }
        }
        if package.programs.is_empty() && package.dependencies.contains("anyhow") {
            wall("only programs use `anyhow`; a library returns `millstream_core::Error`".to_owned());
        }
    }
    problems.extend(closure_without(metadata, "crates/core", &NOT_IN_CORE));
    problems.extend(closure_without(metadata, "crates/runtime", &NOT_IN_RUNTIME));
    problems.extend(default_members(metadata));
    problems
}

/// Why `package` must not link with `name` of the workspace.
fn forbidden(metadata: &Metadata, package: &Package, name: &str) -> Option<String> {
    if package.folder == "crates/core" {
        return Some(format!("`core` imports no crate of the workspace, but `{name}`"));
    }
    if is_component_crate(package) {
        let allowed = may_use(package, name);
        return (!allowed)
            .then(|| format!("a connector imports `core` and `codec`, an operator also `state`; not `{name}`"));
    }
    let is_component = metadata.packages.iter().any(|other| other.name == name && is_component_crate(other));
    let may = MAY_NAME_COMPONENTS.contains(&package.folder.as_str());
    (is_component && !may).then(|| format!("only `bundle` names connectors and operators; take `{name}` from there"))
}

fn is_component_crate(package: &Package) -> bool {
    package.within("connectors") || package.within("operators")
}

fn may_use(package: &Package, name: &str) -> bool {
    let allowed: &[&str] = if package.within("connectors") { &FOR_CONNECTORS } else { &FOR_OPERATORS };
    allowed.contains(&name)
}

fn closure_without(metadata: &Metadata, folder: &str, forbidden: &[&str]) -> Vec<Problem> {
    let Some(package) = metadata.at(folder) else {
        return vec![Problem::of(folder, "there is no such crate")];
    };
    let closure = metadata.closure(package);
    let found = forbidden.iter().filter(|name| closure.contains(*name));
    found
        .map(|name| {
            Problem::of(
                &format!("{folder}/Cargo.toml"),
                format!("it must not link with `{name}`, not even through others"),
            )
        })
        .collect()
}

/// A plain `cargo run` must find one program, and a plain `cargo test` every library.
fn default_members(metadata: &Metadata) -> Vec<Problem> {
    let is_default = |package: &&Package| metadata.default_members.contains(&package.name);
    let mut problems = Vec::new();
    for package in metadata.packages.iter().filter(|package| !is_default(package)) {
        if !NOT_DEFAULT.contains(&package.folder.as_str()) {
            problems.push(Problem::of("Cargo.toml", format!("`{}` is missing in `default-members`", package.folder)));
        }
    }
    let programs: Vec<_> = metadata.packages.iter().filter(is_default).flat_map(|package| &package.programs).collect();
    if programs.len() != 1 {
        problems.push(Problem::of(
            "Cargo.toml",
            format!("`cargo run` needs one program in `default-members`, found {programs:?}"),
        ));
    }
    problems
}
