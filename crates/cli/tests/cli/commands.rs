//! `list`, `schema`, `graph`, `completions`, `man`.

use crate::support::Folder;

const GRAPH: &str = "\
name: sizes
sources: { orders: { values: { values: [1, 2] } } }
steps:
  - name: size
    route: { to: { big: '. > 1' } }
sinks:
  large: { from: size.big, drop: {} }
  small: { from: size.rest, stdout: {} }
";

#[test]
fn list_is_a_table_or_json() {
    let folder = Folder::new();
    let table = folder.run("list").code(0).silent();
    for head in ["SOURCE", "SINK", "STEP", "CODEC", "CODE "] {
        assert!(table.out.lines().any(|line| line.starts_with(head)), "{head}: {table:?}");
    }
    let json = folder.run("list errors --format json").code(0);
    let json: Vec<serde_json::Value> = serde_json::from_str(&json.out).unwrap();
    assert!(json.iter().any(|error| error["code"] == "E_DECODE" && error["class"] == "data"));
    let all = folder.run("list --format json").code(0);
    let all: serde_json::Value = serde_json::from_str(&all.out).unwrap();
    assert!(all["steps"].as_array().unwrap().iter().any(|step| step["name"] == "map"));
}

#[test]
fn schemas_are_json() {
    let folder = Folder::new();
    let whole: serde_json::Value = serde_json::from_str(&folder.run("schema").code(0).out).unwrap();
    assert_eq!(whole["properties"]["name"]["description"].as_str().map(str::is_empty), Some(false));
    let step: serde_json::Value = serde_json::from_str(&folder.run("schema map").code(0).out).unwrap();
    assert!(step.is_object());
    folder.run("schema source.file").code(0);
}

#[test]
fn graphs_in_three_ways() {
    let folder = Folder::new();
    folder.write("p.yaml", GRAPH);
    let text = folder.run("graph p.yaml").code(0).silent();
    assert!(text.out.starts_with("sizes: at least once; order kept per key\nSTAGE "), "{text:?}");
    assert!(text.out.lines().any(|line| line.starts_with("small ") && line.contains("size.rest")), "{text:?}");
    let mermaid = folder.run("graph p.yaml --format mermaid").code(0);
    assert!(mermaid.out.starts_with("flowchart LR\n") && mermaid.out.contains("n1 -- \"big\" --> n2"), "{mermaid:?}");
    let dot = folder.run("graph p.yaml --format dot").code(0);
    assert!(dot.out.contains("n1 -> n3 [label=\"rest\"];"), "{dot:?}");
    assert!(!folder.path(".millstream").exists());
}

#[test]
fn shells_and_manual() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(folder.run(&format!("completions {shell}")).code(0).out.contains("millstream"));
    }
    assert!(folder.run("man").code(0).out.contains(".TH millstream"));
    assert!(folder.run("man relay").code(0).out.contains("resume"));
    assert!(folder.run("--version").code(0).out.starts_with("millstream 0."));
}

#[test]
fn all_examples_are_valid_by_the_schema() {
    let schema: serde_json::Value = serde_json::from_str(&Folder::new().run("schema").code(0).out).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect();
    assert!(!files.is_empty());
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let file: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        let errors: Vec<String> = schema.iter_errors(&file).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    }
}
