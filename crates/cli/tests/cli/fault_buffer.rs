//! A full disk under the buffer of a sink: the buffer says so, the pipeline waits, the sink goes on, and nothing is lost.

use crate::{
    crash::same,
    fault_disk::{Input, Run, Small},
    support::Folder,
};

const PIPELINE: &str = "\
name: p
delivery: MODE
checkpoint: { every: 20ms }
source: { file: { path: in.txt, follow: true, start: beginning } }
steps: [ { map: '. = \"<\" + string!(.) + \">\"' } ]
sinks:
  out: { file: { path: out.txt }, buffer: { disk: 1MiB, when_full: WHEN } }
errors: [ { match: { class: unavailable }, retry: { delay: 50ms, backoff: 1 } } ]
";

/// Whether the status says that the buffer waits for its disk.
fn waits(folder: &Folder) -> bool {
    let status: serde_json::Value = serde_json::from_str(&folder.run("status --json").out).unwrap_or_default();
    let all = status.as_array().cloned().unwrap_or_default();
    let buffer = all.iter().map(|one| &one["buffers"][0]).find(|buffer| buffer["sink"] == "out").cloned();
    buffer.is_some_and(|buffer| buffer["waiting"].as_str().is_some_and(|why| why.contains("No space left on device")))
}

/// Fills the disk of the buffer, killing the run once while it waits; in the end all is there once.
fn fill_and_free(mode: &str, when_full: &str) {
    let folder = Folder::new();
    let Some(small) = Small::mount(&folder) else { return };
    folder.write("p.yaml", PIPELINE.replace("MODE", mode).replace("WHEN", when_full));
    std::fs::create_dir_all(folder.path(".millstream/p.out")).unwrap();
    std::os::unix::fs::symlink(folder.path("small/buffer"), folder.path(".millstream/p.out/buffer")).unwrap();
    std::fs::create_dir(folder.path("small/buffer")).unwrap();
    let mut input = Input::default();
    input.grow(&folder, 500);
    let mut run = Run::start(&folder);
    run.until("the first output", |folder| folder.read("out.txt") == input.bracketed());
    for killed in [false, true] {
        small.leave(0);
        let before = input.bracketed();
        input.grow(&folder, 5000);
        run.until_full();
        run.until("the status of the buffer", waits);
        if killed {
            run.kill();
            run = Run::start(&folder);
            run.until_full();
        }
        let now = folder.read("out.txt");
        assert!(now.starts_with(&before) && input.bracketed().starts_with(&now), "what counts is delivered, in order");
        small.free();
        run.until("all of the output", |folder| folder.read("out.txt").len() >= input.bracketed().len());
        same(&folder.read("out.txt"), &input.bracketed());
        run.until("the status to be well", |folder| !waits(folder));
    }
    assert_eq!(run.drain().code, Some(0), "{}", folder.read("err.txt"));
    input.grow(&folder, 1);
    folder.run("run p.yaml --until-end").code(0).says("read 1 = wrote 1");
    same(&folder.read("out.txt"), &input.bracketed());
    let verified = folder.run("buffer verify p.out").code(0);
    assert!(verified.out.contains("whole: "), "{verified:?}");
}

#[test]
fn a_buffer_on_a_full_disk_says_so_waits_and_goes_on_whatever_it_does_when_it_is_full_itself() {
    fill_and_free("exactly_once", "block");
    fill_and_free("exactly_once", "dead_letter");
    fill_and_free("at_least_once", "drop_newest");
    fill_and_free("at_least_once", "drop_oldest");
}
