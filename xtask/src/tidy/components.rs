//! Every component is in the registry: its crate in `bundle`, and it in the list of its crate.

use super::{Problem, Source};
use crate::{
    metadata::{Metadata, Package},
    scan::{code_only, line_of},
};

/// Checks that no component is forgotten.
pub(super) fn check(metadata: &Metadata, sources: &[Source]) -> Vec<Problem> {
    let text = |path: &str| sources.iter().find(|source| source.path == path).map_or("", |source| source.text.as_str());
    let bundle = code_only(text("crates/bundle/src/lib.rs"));
    let mut problems = Vec::new();
    let is_component_crate = |package: &&Package| package.within("connectors") || package.within("operators");
    for package in metadata.packages.iter().filter(is_component_crate) {
        let list = format!("{}::components()", package.name.replace('-', "_"));
        if !bundle.contains(&list) {
            problems.push(Problem::of("crates/bundle/src/lib.rs", format!("`{list}` is missing in the registry")));
        }
        let own_list = code_only(text(&format!("{}/src/lib.rs", package.folder)));
        let own = format!("{}/src/", package.folder);
        for source in sources.iter().filter(|source| source.path.starts_with(&own) && source.extension() == "rs") {
            let code = code_only(&source.text);
            for (at, _) in code.match_indices(": Component =") {
                let name = code[..at].rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                if !mentions(&own_list, name) {
                    let message = format!("component `{name}` is missing in `components()` of `{}`", package.name);
                    problems.push(Problem::at(&source.path, line_of(&code, at), message));
                }
            }
        }
    }
    problems
}

fn mentions(code: &str, name: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}
