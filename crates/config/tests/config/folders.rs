//! Files and folders of files.

use std::{fs, path::Path};

use millstream_config::{PipelineFile, Variables, load};

use crate::fake::{registry, shown};

const GOOD: &str = "source: { stdin: {} }\nsink: { stdout: {} }\n";

fn read(paths: &[&Path]) -> Result<Vec<PipelineFile>, String> {
    load(paths, &registry(), &Variables::default()).map_err(|wrong| shown(&wrong))
}

#[test]
fn a_folder_is_its_pipeline_files_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b.yml", "a.yaml", "c.json", ".hidden.yaml", "notes.txt"] {
        let text =
            if name.ends_with("json") { "{\"source\": {\"stdin\": {}}, \"sink\": {\"stdout\": {}}}" } else { GOOD };
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::create_dir(dir.path().join("deeper.yaml")).unwrap();
    let names: Vec<_> = read(&[dir.path()]).unwrap().iter().map(|file| file.spec().name.clone()).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn two_of_one_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), GOOD).unwrap();
    fs::write(dir.path().join("b.yaml"), format!("version: 1\nname: a\n{GOOD}")).unwrap();
    let wrong = read(&[dir.path()]).unwrap_err();
    assert!(wrong.contains("two pipelines have the name `a`") && wrong.contains("b.yaml:2:7"), "{wrong}");
    assert!(wrong.contains("a.yaml`; give one of them another `name`"), "{wrong}");
}

#[test]
fn all_files_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), "source: 1\nsink: { stdout: {} }").unwrap();
    fs::write(dir.path().join("b.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    fs::write(dir.path().join("white space.yaml"), GOOD).unwrap();
    let wrong = read(&[dir.path(), Path::new("/no/such.yaml")]).unwrap_err();
    for part in [
        "a.yaml:1:9",
        "b.yaml` is not UTF-8",
        "cannot read the pipeline file `/no/such.yaml`",
        "`white space` cannot be the name",
    ] {
        assert!(wrong.contains(part), "{part} is not in\n{wrong}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(read(&[empty.path()]).unwrap_err().contains("no pipeline file is in the folder"));
    let wrong = load(&[Path::new("/no/such.yaml")], &registry(), &Variables::default()).unwrap_err();
    assert_eq!(wrong[0].error().facts().exit, 2);
}
