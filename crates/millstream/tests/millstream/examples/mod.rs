//! The examples of pipelines print what their expected files say, to the letter.

mod web;

use std::{path::Path, process::Command};

use millstream_testkit::{servers::Postgres, started};

/// What an example prints, with its state in a folder of its own.
fn printed(name: &str, arguments: &[&str]) -> String {
    let (root, state) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), tempfile::tempdir().unwrap());
    // Built with this test, beside it.
    let example = std::env::current_exe().unwrap().parent().unwrap().join("../examples").join(name);
    let mut command = Command::new(example);
    command.args(arguments).current_dir(root).env("MILLSTREAM_STATE_DIR", state.path());
    let run = command.output().unwrap();
    assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

#[track_caller]
fn prints_what_is_expected(name: &str, arguments: &[&str]) {
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../examples/expected/{name}.txt"));
    assert_eq!(printed(name, arguments), std::fs::read_to_string(expected).unwrap(), "{name}");
}

#[test]
fn bookings_of_an_account_stay_in_order() {
    prints_what_is_expected("keyed_order", &[]);
}

#[test]
fn each_tenant_has_batches_of_its_own() {
    prints_what_is_expected("keyed_batches", &[]);
}

#[test]
fn what_computes_for_long_keeps_the_order_of_its_records() {
    prints_what_is_expected("cpu_bound", &[]);
}

#[test]
fn branches_come_together_again() {
    prints_what_is_expected("fan_out_fan_in", &[]);
}

#[test]
fn orders_are_charged_or_become_dead_letters() {
    prints_what_is_expected("order_pipeline", &[]);
}

#[test]
fn orders_part_by_their_size() {
    prints_what_is_expected("orders", &[]);
}

#[test]
fn two_streams_are_joined_by_time() {
    prints_what_is_expected("join_by_time", &[]);
}

#[test]
fn orders_are_inserted_into_a_database() {
    let postgres = started!(Postgres::shared());
    // Twice: what is there already does no harm.
    for _ in 0..2 {
        prints_what_is_expected("batch_insert", &[&postgres.url()]);
    }
    assert_eq!(postgres.sql("SELECT count(*), count(DISTINCT id), max(id) FROM orders"), "803|803|1002");
}
