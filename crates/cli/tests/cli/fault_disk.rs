//! A full disk: the pipeline waits and says so, goes on when there is room, and nothing is lost or doubled.

use std::{fs::File, io::Write as _, os::unix::fs::FileExt as _, path::PathBuf, process::Command};

use rustix::process::Signal;

use crate::{
    crash::{Dice, Kept, same},
    support::{Done, Folder, finish, signal, until},
};

/// A small file system; unmounted in the end.
pub(crate) struct Small(PathBuf);

const SMALL_BYTES: u64 = 256 << 10;

impl Small {
    /// Mounted as `small` in a folder; `None` where that cannot be done, which is said.
    pub(crate) fn mount(folder: &Folder) -> Option<Small> {
        let path = folder.path("small");
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={SMALL_BYTES}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output();
        match mount {
            Ok(output) if output.status.success() => Some(Small(path)),
            Ok(output) => {
                println!("skipped: cannot mount a tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: cannot run mount: {error}");
                None
            }
        }
    }

    /// Takes room away until only so many bytes are free.
    pub(crate) fn leave(&self, bytes: u64) {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        let more = (stat.f_bfree * stat.f_frsize).saturating_sub(bytes);
        let file = File::options().create(true).append(true).open(self.0.join("ballast")).unwrap();
        let from = file.metadata().unwrap().len();
        // What is written while we look makes it full earlier, which is as good.
        let _ = file.write_all_at(&vec![0; more as usize], from);
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A run that is looked at while it works.
pub(crate) struct Run<'a> {
    folder: &'a Folder,
    child: Kept,
}

impl<'a> Run<'a> {
    pub(crate) fn start(folder: &'a Folder) -> Self {
        let errors = File::options().create(true).append(true).open(folder.path("err.txt")).unwrap();
        let child = Kept::spawn(folder.command(["run", "p.yaml"]).stderr(errors));
        Run { folder, child }
    }

    /// Waits for something, while the run goes on.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut so: impl FnMut(&Folder) -> bool) {
        until(what, || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended by itself, {ended:?}: {}", self.folder.read("err.txt"));
            so(self.folder)
        });
    }

    /// Waits until it says that it waits for room.
    pub(crate) fn until_full(&mut self) {
        self.until_full_while(|_| {});
    }

    fn until_full_while(&mut self, mut what: impl FnMut(&Folder)) {
        self.until("words about the full disk", |folder| {
            what(folder);
            let said = folder.read("err.txt");
            said.contains("No space left on device")
                && (said.contains("trying again in") || said.contains("restarting"))
        });
        std::fs::write(self.folder.path("err.txt"), "").unwrap();
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn drain(self) -> Done {
        let child = self.child.take();
        signal(child.id(), Signal::TERM);
        finish(child)
    }
}

const PIPELINE: &str = "\
name: p
delivery: MODE
checkpoint: { every: 20ms }
source: { file: { path: in.txt, follow: true, start: beginning } }
steps: [ { map: '. = \"<\" + string!(.) + \">\"' } ]
sink: { file: { path: OUT } }
errors: [ { match: { class: unavailable }, retry: { delay: 50ms, backoff: 1 } } ]
";

/// The input so far, which only grows: a file that is written anew would be another one for its follower.
#[derive(Default)]
pub(crate) struct Input(u64);

impl Input {
    pub(crate) fn grow(&mut self, folder: &Folder, lines: u64) {
        let mut file = File::options().create(true).append(true).open(folder.path("in.txt")).unwrap();
        let text: String = (self.0..self.0 + lines).map(|n| format!("{n}\n")).collect();
        file.write_all(text.as_bytes()).unwrap();
        self.0 += lines;
    }

    /// What comes of it.
    pub(crate) fn bracketed(&self) -> String {
        (0..self.0).map(|n| format!("<{n}>\n")).collect()
    }
}

/// Fills the disk again and again, killing the run now and then while it waits; in the end all is there once.
fn fill_and_free(mode: &str, out: &str) {
    let mut dice = Dice::new();
    let folder = Folder::new();
    let Some(small) = Small::mount(&folder) else { return };
    folder.write("p.yaml", PIPELINE.replace("MODE", mode).replace("OUT", out));
    let mut input = Input::default();
    input.grow(&folder, 500);
    let mut run = Run::start(&folder);
    run.until("the first output", |folder| folder.read(out) == input.bracketed());
    for round in 0..3 {
        small.leave(dice.below(3) * 4096);
        input.grow(&folder, 5000);
        run.until_full();
        // In one of the rounds for certain.
        if round == 1 || dice.below(2) == 0 {
            run.kill();
            run = Run::start(&folder);
            run.until_full();
        }
        small.free();
        run.until("all of the output", |folder| folder.read(out).len() >= input.bracketed().len());
        same(&folder.read(out), &input.bracketed());
    }
    assert_eq!(run.drain().code, Some(0), "{}", folder.read("err.txt"));
    input.grow(&folder, 1);
    folder.run("run p.yaml --until-end").code(0).says("resuming epoch").says("read 1 = wrote 1");
    same(&folder.read(out), &input.bracketed());
}

#[test]
fn a_sink_on_a_full_disk_waits_and_goes_on() {
    fill_and_free("exactly_once", "small/out.txt");
    fill_and_free("at_least_once", "small/out.txt");
}

#[test]
fn a_rotating_sink_on_a_full_disk_waits_and_goes_on() {
    let folder = Folder::new();
    let Some(small) = Small::mount(&folder) else { return };
    let rotating = "small/out.txt, rotate: { size: 16KiB, name: '{stem}-{n}{ext}' }";
    folder.write("p.yaml", PIPELINE.replace("MODE", "exactly_once").replace("OUT", rotating));
    // All files in the order of their numbers, the open one last.
    let written = |folder: &Folder| {
        let names = std::fs::read_dir(folder.path("small")).unwrap().map(|entry| entry.unwrap().file_name());
        let number =
            |name: String| name.strip_prefix("out-")?.split('.').next()?.parse::<u32>().ok().map(|n| (n, name));
        let mut names: Vec<_> = names.filter_map(|name| number(name.into_string().unwrap())).collect();
        names.sort_unstable();
        names.iter().map(|(_, name)| folder.read(&format!("small/{name}"))).collect::<String>()
    };
    let mut input = Input::default();
    input.grow(&folder, 500);
    let mut run = Run::start(&folder);
    run.until("the first output", |folder| written(folder) == input.bracketed());
    small.leave(20 << 10);
    input.grow(&folder, 10_000);
    run.until_full();
    run.kill();
    let mut run = Run::start(&folder);
    run.until_full();
    small.free();
    run.until("all of the output", |folder| written(folder) == input.bracketed());
    assert_eq!(run.drain().code, Some(0), "{}", folder.read("err.txt"));
    same(&written(&folder), &input.bracketed());
}

#[test]
fn a_state_directory_on_a_full_disk_stops_epochs_and_loses_nothing() {
    let folder = Folder::new();
    let Some(small) = Small::mount(&folder) else { return };
    folder.write("p.yaml", PIPELINE.replace("MODE", "exactly_once").replace("OUT", "out.txt"));
    std::os::unix::fs::symlink("small/state", folder.path(".millstream")).unwrap();
    std::fs::create_dir(folder.path("small/state")).unwrap();
    let mut input = Input::default();
    input.grow(&folder, 500);
    let mut run = Run::start(&folder);
    run.until("the first output", |folder| folder.read("out.txt") == input.bracketed());
    small.leave(0);
    // Each epoch takes some room, and there is less and less.
    run.until_full_while(|folder| input.grow(folder, 10));
    run.kill();
    let mut run = Run::start(&folder);
    run.until_full();
    small.free();
    input.grow(&folder, 1000);
    run.until("all of the output", |folder| folder.read("out.txt").len() >= input.bracketed().len());
    assert_eq!(run.drain().code, Some(0), "{}", folder.read("err.txt"));
    same(&folder.read("out.txt"), &input.bracketed());
    input.grow(&folder, 1);
    folder.run("run p.yaml --until-end").code(0).says("resuming epoch").says("read 1 = wrote 1");
    same(&folder.read("out.txt"), &input.bracketed());
}
