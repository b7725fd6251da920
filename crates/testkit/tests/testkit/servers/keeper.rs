//! No server outlives its test, however that ends.

use std::{
    env,
    io::{BufRead, BufReader},
    net::TcpStream,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::Duration,
};

use millstream_testkit::{
    servers::{Redis, wait_until},
    started,
};

/// How `the_process` is told to be it, and in which way it ends.
const ENDS: &str = "MILLSTREAM_TEST_ENDS";

const LIMIT: Duration = Duration::from_secs(20);

/// A process with a server in it, which the tests below start and end.
#[test]
fn the_process() {
    let Ok(ends) = env::var(ENDS) else { return };
    let redis = Redis::start().unwrap();
    if ends == "paused" {
        redis.pause();
    }
    println!("server {} {} {}", redis.pid().unwrap(), redis.address(), redis.folder().display());
    match ends.as_str() {
        "panic" => panic!("as it was told"),
        "exit" => process::exit(0),
        _ => thread::park(),
    }
}

/// The process, and what it has started.
struct Started {
    process: Child,
    server: String,
    address: String,
    folder: PathBuf,
}

fn start(ends: &str) -> Started {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["servers::keeper::the_process", "--exact", "--nocapture"]).env(ENDS, ends);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find_map(|line| line.split_once("server ").map(|(_, line)| line.to_owned())).unwrap();
    let mut words = line.split(' ').map(str::to_owned);
    let mut next = || words.next().unwrap();
    Started { server: next(), address: next(), folder: next().into(), process }
}

impl Started {
    fn leaves_nothing(mut self) {
        self.process.wait().unwrap();
        wait_until("rid of the server", LIMIT, || !Path::new("/proc").join(&self.server).exists());
        wait_until("rid of the folder", LIMIT, || !self.folder.exists());
        assert!(TcpStream::connect(&self.address).is_err());
    }
}

#[test]
fn a_killed_process_leaves_nothing() {
    started!(Redis::shared());
    let mut started = start("killed");
    assert!(TcpStream::connect(&started.address).is_ok() && started.folder.exists());
    started.process.kill().unwrap();
    started.leaves_nothing();
}

#[test]
fn a_killed_group_of_processes_leaves_nothing() {
    started!(Redis::shared());
    let started = start("killed");
    let group = format!("-{}", started.process.id());
    assert!(Command::new("kill").args(["-s", "KILL", "--", &group]).status().unwrap().success());
    started.leaves_nothing();
}

#[test]
fn a_killed_process_leaves_no_paused_server() {
    started!(Redis::shared());
    let mut started = start("paused");
    started.process.kill().unwrap();
    started.leaves_nothing();
}

#[test]
fn a_panic_leaves_nothing() {
    started!(Redis::shared());
    start("panic").leaves_nothing();
}

#[test]
fn an_exit_leaves_nothing() {
    started!(Redis::shared());
    start("exit").leaves_nothing();
}
