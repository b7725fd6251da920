//! Every component is in the registry: its crate in `bundle`, and it in the list of its crate.

use std::collections::BTreeMap;

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
        problems.extend(unlisted(package, code_only(text(&format!("{}/src/lib.rs", package.folder))), sources));
    }
    problems
}

/// Components that the list of their crate does not name. Several may have one name, each in its own module.
fn unlisted(package: &Package, list: String, sources: &[Source]) -> Vec<Problem> {
    let own = format!("{}/src/", package.folder);
    let mut found: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.path.starts_with(&own) && source.extension() == "rs") {
        let code = code_only(&source.text);
        for (at, _) in code.match_indices(": Component =") {
            let name = words(&code[..at]).last().unwrap_or_default().to_owned();
            found.entry(name).or_default().push((source.path.clone(), line_of(&code, at)));
        }
    }
    let mut problems = Vec::new();
    for (name, places) in found {
        let named = words(&list).filter(|word| *word == name).count();
        if let Some((path, line)) = places.first().filter(|_| named < places.len()) {
            let message = format!(
                "`{name}` is declared {} times, but `components()` of `{}` names it {named} times",
                places.len(),
                package.name
            );
            problems.push(Problem::at(path, *line, message));
        }
    }
    problems
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_component_is_found_also_among_those_of_its_name() {
        let mut package = Package::default();
        package.folder.push_str("operators/x");
        let source = |name: &str| Source {
            path: format!("operators/x/src/{name}.rs"),
            text: "pub(crate) const COMPONENT: Component = Component {};".to_owned(),
        };
        let sources = [source("a"), source("b")];
        assert_eq!(unlisted(&package, "vec![a::COMPONENT, b::COMPONENT]".to_owned(), &sources), []);
        assert_eq!(unlisted(&package, "vec![a::COMPONENT]".to_owned(), &sources).len(), 1);
    }
}
