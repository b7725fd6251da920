//! What a run finds that is not as it was left: damaged, lost or newer state, a sink that is shorter or gone, another
//! runner. It says so, or goes on rightly; it never begins anew in silence where output counts.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use millstream_testkit::budget;
use rustix::process::Signal;

use crate::{
    crash::{Dice, Kept, same},
    support::{Done, Folder, finish, signal, until},
};

const COPY: &str = "\
name: p
delivery: exactly_once
checkpoint: { every: 10ms }
source: { file: { path: in.txt, follow: true, start: beginning } }
sink: { file: { path: out.txt } }
";

const COUNT: &str = "\
name: p
delivery: exactly_once
source: { file: { path: in.txt, follow: true, start: beginning } }
steps: [ { name: counts, aggregate: { key: ., fields: { n: count() }, emit: change } } ]
sink: { file: { path: out.txt, codec: ndjson } }
";

fn lines(upto: usize) -> String {
    (0..upto).map(|n| format!("line {n}\n")).collect()
}

/// A pipeline that has been run a few times, each time with more input.
fn worked(pipeline: &str) -> Folder {
    worked_on(pipeline, [100, 200, 300])
}

fn worked_on(pipeline: &str, inputs: [usize; 3]) -> Folder {
    let folder = Folder::new();
    folder.write("p.yaml", pipeline);
    for upto in inputs {
        folder.write("in.txt", lines(upto));
        folder.run("run p.yaml --until-end").code(0);
    }
    folder
}

/// A copy of all that a folder holds, to begin from again and again.
fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_all(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn log_of(folder: &Folder) -> PathBuf {
    folder.path(".millstream/p/checkpoints.log")
}

/// It failed with this code, and has not touched the output.
#[track_caller]
fn refused(folder: &Folder, before: &str, code: &str) -> Done {
    let done = folder.run("run p.yaml --until-end").code(1).says(code).says("hint: ");
    assert!(!done.err.contains("fresh"), "{done:?}");
    assert_eq!(folder.read("out.txt"), before, "the output is as it was");
    done
}

#[test]
fn a_flipped_byte_anywhere_in_the_checkpoint_log_is_told_or_harmless() {
    let mut dice = Dice::new();
    let folder = worked(COPY);
    let whole = std::fs::read(log_of(&folder)).unwrap();
    let kept = folder.path("kept");
    copy_all(&folder.path(".millstream"), &kept);
    folder.write("in.txt", lines(400));
    let (mut told, flips) = (0, budget(40, 1000));
    for _ in 0..flips {
        std::fs::remove_dir_all(folder.path(".millstream")).unwrap();
        copy_all(&kept, &folder.path(".millstream"));
        rewrite(&folder.path("out.txt"), &lines(300));
        let (at, bit) = (dice.below(whole.len() as u64), 1 << dice.below(8));
        let log = File::options().write(true).open(log_of(&folder)).unwrap();
        log.write_all_at(&[whole[at as usize] ^ bit], at).unwrap();
        let done = folder.run("run p.yaml --until-end");
        assert!(!done.err.contains("fresh"), "byte {at}, bit {bit}: {done:?}");
        match done.code {
            Some(0) => same(&folder.read("out.txt"), &lines(400)),
            Some(1) => {
                assert!(
                    done.err.contains("E_CORRUPT") || done.err.contains("E_VERSION"),
                    "byte {at}, bit {bit}: {done:?}"
                );
                same(&folder.read("out.txt"), &lines(300));
                told += 1;
            }
            _ => panic!("byte {at}, bit {bit}: {done:?}"),
        }
    }
    println!("{flips} flipped bits in {} bytes: {told} were told, the others did not matter", whole.len());
    assert!(told > flips / 2, "damage is noticed");
}

/// The same file with other bytes.
fn rewrite(path: &Path, text: &str) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
}

#[test]
fn state_of_a_newer_version_is_refused() {
    let folder = worked(COPY);
    let mut bytes = std::fs::read(log_of(&folder)).unwrap();
    // The header: magic, version, purpose, id, and their check.
    bytes[8..12].copy_from_slice(&7u32.to_le_bytes());
    let check = xxhash_rust::xxh3::xxh3_64(&bytes[..32]);
    bytes[32..40].copy_from_slice(&check.to_le_bytes());
    std::fs::write(log_of(&folder), bytes).unwrap();
    refused(&folder, &lines(300), "E_VERSION").says("version 7");
}

#[test]
fn keyed_state_without_its_log_and_a_log_without_its_keyed_state_are_refused() {
    for lost in ["checkpoints.log", "keyed"] {
        // So much that the log does not hold all of the keyed state any more.
        let folder = worked_on(COUNT, [1000, 2000, 3000]);
        let before = folder.read("out.txt");
        let path = folder.path(".millstream/p").join(lost);
        std::fs::rename(&path, folder.path("lost")).unwrap();
        refused(&folder, &before, "E_STATE_MISMATCH");
        // Brought back, it goes on as if nothing had been.
        assert!(!path.exists(), "nothing took its place");
        std::fs::rename(folder.path("lost"), &path).unwrap();
        folder.write("in.txt", lines(3000) + "line 7\n");
        folder.run("run p.yaml --until-end").code(0).says("resuming epoch").says("read 1 ");
        assert_eq!(folder.read("out.txt"), before + "{\"key\":\"line 7\",\"n\":2}\n");
    }
}

#[test]
fn keyed_state_that_is_lost_comes_back_from_a_log_that_holds_it() {
    let folder = worked(COUNT);
    let before = folder.read("out.txt");
    std::fs::remove_dir_all(folder.path(".millstream/p/keyed")).unwrap();
    folder.write("in.txt", lines(300) + "line 7\n");
    folder.run("run p.yaml --until-end").code(0).says("resuming epoch").says("read 1 ");
    assert_eq!(folder.read("out.txt"), before + "{\"key\":\"line 7\",\"n\":2}\n");
}

#[test]
fn a_lost_state_directory_is_a_fresh_start_that_is_told() {
    let folder = worked(COPY);
    std::fs::remove_dir_all(folder.path(".millstream")).unwrap();
    folder.run("run p.yaml --until-end").code(0).says("fresh").says("read 300 = wrote 300");
    same(&folder.read("out.txt"), &(lines(300) + &lines(300)));
}

#[test]
fn a_sink_that_is_shorter_gone_or_another_is_a_state_mismatch() {
    type Spoil = fn(&Path);
    let spoil: [(&str, Spoil); 4] = [
        ("shorter", |out| File::options().write(true).open(out).unwrap().set_len(1000).unwrap()),
        ("empty", |out| rewrite(out, "")),
        ("gone", |out| std::fs::remove_file(out).unwrap()),
        ("another", |out| rewrite(out, &lines(300).replace("line", "LINE"))),
    ];
    for (how, spoil) in spoil {
        let folder = worked(COPY);
        let out = folder.path("out.txt");
        spoil(&out);
        let before = folder.read("out.txt");
        let done = refused(&folder, &before, "E_STATE_MISMATCH").says("out.txt").says("state reset");
        assert_eq!(out.exists(), how != "gone", "{done:?}");
        // As the message says: brought back, it goes on.
        std::fs::write(&out, lines(300)).unwrap();
        folder.write("in.txt", lines(301));
        folder.run("run p.yaml --until-end").code(0).says("resuming epoch").says("read 1 = wrote 1");
        same(&folder.read("out.txt"), &lines(301));
    }
}

#[test]
fn a_second_runner_is_told_who_runs_it_and_a_killed_one_holds_nothing() {
    let folder = worked(COPY);
    let mut first = Kept::spawn(&mut folder.command(["run", "p.yaml"]));
    folder.write("other.yaml", COPY.replace("name: p", "name: other"));
    let pid = format!("process {}", first.id());
    until("the first one to hold the lock", || folder.run("state list").out.contains(&format!("({})", first.id())));
    for _ in 0..3 {
        folder.run("run p.yaml --until-end").code(1).says("E_LOCKED").says(&pid);
    }
    // Another pipeline cannot write the same file.
    folder.run("run other.yaml --until-end").code(1).says("E_LOCKED").says("another pipeline is writing `out.txt`");
    same(&folder.read("out.txt"), &lines(300));
    first.kill().unwrap();
    first.wait().unwrap();
    folder.write("in.txt", lines(301));
    let second = Kept::spawn(&mut folder.command(["run", "p.yaml"]));
    until("the second one's output", || folder.read("out.txt") == lines(301));
    signal(second.id(), Signal::TERM);
    finish(second.take()).code(0).says("resuming epoch");
}
