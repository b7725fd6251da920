//! Counting what `cargo test` says.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::workspace::show;

/// Skips that also continuous integration may see: the beginning of what a test prints behind `skipped: `, and why.
const MAY_BE_SKIPPED: [(&str, &str); 3] = [
    ("no fixture at", "another implementation's file lies beside the project, not in it"),
    ("cannot mount a tmpfs", "a container may forbid it, root or not"),
    ("root may", "permissions cannot be tested as root, and as anyone else nothing can be installed"),
];

/// The sum over all test programs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    programs: u64,
    /// What tests have printed behind `skipped: `.
    skipped: Vec<String>,
    /// `cargo test` ended with 0.
    succeeded: bool,
}

impl Tally {
    /// Runs `cargo test ... -- --show-output`, prints what one would see without `--show-output`, and counts.
    pub(crate) fn of(test: &mut Command) -> Result<Self> {
        let shown = show(test);
        println!("    {shown}");
        let mut child = test
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        let mut reader = Reader::default();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line.with_context(|| format!("cannot read what `{shown}` prints"))?;
                let line = String::from_utf8_lossy(&line);
                if reader.line(&line) {
                    println!("{line}");
                }
            }
        }
        reader.tally.succeeded = child.wait().with_context(|| format!("cannot wait for `{shown}`"))?.success();
        Ok(reader.tally)
    }

    /// The closing line.
    pub(crate) fn line(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed)
    }

    /// What people should know beside the closing line.
    pub(crate) fn print_notes(&self) {
        println!("    {} test programs, {} tests ignored, {} skipped", self.programs, self.ignored, self.skipped.len());
        for why in &self.skipped {
            println!("    skipped: {why}");
        }
    }

    /// Whether that is good enough; `strict`: nothing may be left out that this machine could do.
    pub(crate) fn verdict(&self, strict: bool) -> Result<()> {
        if !self.succeeded || self.failed > 0 {
            bail!("tests failed: {}", self.line());
        }
        if self.passed == 0 {
            bail!("no test has run");
        }
        let allowed = |why: &&String| MAY_BE_SKIPPED.iter().any(|(start, _)| why.starts_with(start));
        match self.skipped.iter().find(|why| !allowed(why)) {
            Some(why) if strict => bail!("a test was skipped ({why}), but with CI set nothing may be missing"),
            _ => Ok(()),
        }
    }
}

/// Reads the lines of libtest.
#[derive(Default)]
struct Reader {
    tally: Tally,
    /// Within the output of tests that have passed.
    in_successes: bool,
}

impl Reader {
    /// Takes a line; answers whether people want to see it.
    fn line(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            self.tally.programs += 1;
            self.tally.passed += count(result, "passed");
            self.tally.failed += count(result, "failed");
            self.tally.ignored += count(result, "ignored");
        }
        if let Some(why) = line.trim_start().strip_prefix("skipped: ") {
            self.tally.skipped.push(why.to_owned());
        }
        !self.in_successes
    }
}

/// The number before `what` in `ok. 5 passed; 0 failed; ...`.
fn count(result: &str, what: &str) -> u64 {
    let words: Vec<_> = result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
    let pair = words.windows(2).find(|pair| pair[1] == what);
    pair.and_then(|pair| pair[0].parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 2 tests
test a ... ok
test b ... ok

successes:

---- a stdout ----
skipped: no fixture at /x

successes:
    a
    b

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s

running 1 test
test c ... FAILED

failures:

---- c stdout ----
why

test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.10s
";

    #[test]
    fn programs_are_summed_and_the_output_of_passing_tests_is_hidden() {
        let mut reader = Reader::default();
        let shown: Vec<_> = OUTPUT.lines().filter(|line| reader.line(line)).collect();
        assert_eq!(reader.tally.line(), "2 passed, 1 failed");
        assert_eq!((reader.tally.ignored, reader.tally.programs), (1, 2));
        assert_eq!(reader.tally.skipped, ["no fixture at /x"]);
        assert!(shown.contains(&"why") && shown.contains(&"test a ... ok") && !shown.contains(&"---- a stdout ----"));
    }

    #[test]
    fn a_skip_fails_only_where_nothing_may_be_missing() {
        let mut tally = Tally { passed: 1, succeeded: true, ..Tally::default() };
        tally.skipped = vec!["no fixture at /x".to_owned()];
        assert!(tally.verdict(true).is_ok());
        tally.skipped.push("no server".to_owned());
        assert!(tally.verdict(false).is_ok());
        assert!(tally.verdict(true).is_err());
    }

    #[test]
    fn a_run_without_tests_or_with_a_crash_is_no_success() {
        assert!(Tally { succeeded: true, ..Tally::default() }.verdict(false).is_err());
        assert!(Tally { passed: 5, ..Tally::default() }.verdict(false).is_err());
    }
}
