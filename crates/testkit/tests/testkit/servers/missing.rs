use millstream_testkit::servers::Missing;

// That `started!` prints it, nothing here can show: continuous integration would count a skip.
#[test]
fn what_is_missing_is_named_with_its_package() {
    assert_eq!(Missing::unless_installed("sh", "dash"), Ok(()));
    let missing = Missing::unless_installed("no-such-program", "a-package").unwrap_err().to_string();
    assert!(missing.contains("`no-such-program`") && missing.contains("a-package"), "{missing}");
}
