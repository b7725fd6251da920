//! What the compiler says of steps that do not fit: the first lines of its answer, which are what people read.
//!
//! The files of `misuse/` are compiled against the library as this test has it: no second build of everything.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The library beside this test, as its newest build.
fn library(parts: &Path) -> PathBuf {
    let all = std::fs::read_dir(parts).unwrap().map(|entry| entry.unwrap().path());
    let ours = all.filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("libmillstream-") && name.ends_with(".rlib")
    });
    ours.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).expect("the library has been built")
}

/// What the compiler says of a file.
fn compiled(file: &str) -> String {
    let parts = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/millstream/pipeline/misuse").join(file);
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata"]).arg(source);
    command.arg("--extern").arg(format!("millstream={}", library(&parts).display()));
    command.arg("-L").arg(format!("dependency={}", parts.display())).arg("--out-dir").arg(out.path());
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{file} compiles, though it must not");
    String::from_utf8(output.stderr).unwrap()
}

#[track_caller]
fn says(file: &str, parts: &[&str]) {
    let said = compiled(file);
    for part in parts {
        assert!(said.contains(part), "{file}: `{part}` is missing in:\n{said}");
    }
    assert_eq!(said.matches("\nerror").count() + usize::from(said.starts_with("error")), 2, "one error:\n{said}");
}

#[test]
fn a_value_that_cannot_be_written_down_is_told_in_words() {
    says("not_data.rs", &["values of type `Order` cannot flow through a pipeline", "across a crash", "derive `Clone`"]);
}

#[test]
fn a_step_that_takes_another_type_is_told_with_both_types() {
    says("wrong_type.rs", &["type mismatch in closure arguments", "fn(&'a u64)", "fn(&String)"]);
}

#[test]
fn a_setting_that_a_step_does_not_have_is_no_method_of_it() {
    says("wrong_setting.rs", &["timeout", "Stream<u64>", "Step: Timed"]);
}

#[test]
fn bytes_have_to_be_decoded_first() {
    says("not_decoded.rs", &["Raw"]);
}

#[test]
fn a_key_that_is_no_key_is_told_in_words() {
    says("no_key.rs", &["`f64` cannot be the key or a header of a record"]);
}
