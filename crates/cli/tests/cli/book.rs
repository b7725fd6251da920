//! Each pipeline file in the book passes `check`.

use crate::support::{Folder, repository};

/// The text of each block marked `yaml`.
fn pipelines(chapter: &str) -> Vec<String> {
    let blocks = chapter.split("```yaml\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn pipeline_files_of_the_book_are_right() {
    let folder = Folder::new();
    let chapters = std::fs::read_dir(repository().join("docs/book/src")).unwrap();
    let mut checked = 0;
    for chapter in chapters.map(|entry| entry.unwrap().path()) {
        let name = chapter.file_stem().unwrap().to_str().unwrap().to_owned();
        for text in pipelines(&std::fs::read_to_string(&chapter).unwrap()) {
            checked += 1;
            folder.write(&format!("{name}-{checked}.yaml"), text);
            folder.run(&format!("check {name}-{checked}.yaml")).code(0);
        }
    }
    assert!(checked >= 3, "only {checked} found");
}
