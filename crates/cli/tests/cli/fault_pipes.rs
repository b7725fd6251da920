//! `produce | relay | consume` in real pipes: any lines come out as they went in, and in order.

use std::io::Write as _;

use millstream_testkit::budget;

use crate::{crash::Dice, support::Folder};

/// Random lines of UTF-8: mostly short text, at times empty, long, like a header of the line protocol, or any characters.
fn lines(count: u64, dice: &mut Dice) -> String {
    let mut text = String::new();
    for n in 0..count {
        match dice.below(20) {
            0 => {}
            1 => text.push_str("[2024-05-06T07:08:09.123 | orders | 7 | 0] {\"a\": 1}"),
            2 => text.push_str(&"[ | ] \\ \t".repeat(dice.below(4) as usize)),
            3 if dice.below(100) == 0 => text.push_str(&"long ".repeat(dice.below(20_000) as usize)),
            4..8 => {
                for _ in 0..dice.below(30) {
                    text.push(any(dice));
                }
            }
            _ => text.push_str(&format!("line {n} {}", dice.below(1 << 40))),
        }
        if text.ends_with('\r') {
            // `\r\n` is accepted as the end of a line, and goes out as `\n`.
            text.push('.');
        }
        text.push('\n');
    }
    text
}

/// Any character but a line feed.
fn any(dice: &mut Dice) -> char {
    let most = [0x80, 0x800, 0x1_0000, 0x11_0000][dice.below(4) as usize];
    match char::from_u32(dice.below(most) as u32) {
        Some('\n') | None => '\r',
        Some(other) => other,
    }
}

#[test]
fn random_lines_come_out_of_three_processes_as_they_went_in() {
    let mut dice = Dice::new();
    let folder = Folder::new();
    let count = budget(100_000, 5_000_000);
    let mut file = std::fs::File::create(folder.path("in.txt")).unwrap();
    for _ in 0..count / 10_000 {
        file.write_all(lines(10_000, &mut dice).as_bytes()).unwrap();
    }
    drop(file);
    let script = "millstream produce stdio: < in.txt | millstream relay stdio: stdio: \
        | millstream consume stdio: --format raw | cmp - in.txt";
    folder.shell(script).code(0).silent().prints("");
    assert_eq!(folder.shell("wc -l < in.txt").out.trim(), count.to_string());
}

#[test]
fn a_count_and_a_reader_that_leaves_end_an_endless_stream_at_once() {
    let folder = Folder::new();
    let first = "yes | millstream relay stdio:///a drop: --count 1000000; echo ${PIPESTATUS[1]}";
    folder.shell(first).code(0).silent().prints("0\n");
    let all = "yes | millstream produce stdio:///a | millstream relay stdio:///a stdio:///b \
        | millstream consume stdio:///b --format raw | head -1; echo ${PIPESTATUS[@]:1}";
    folder.shell(all).code(0).silent().prints("y\n0 0 0 0\n");
}
