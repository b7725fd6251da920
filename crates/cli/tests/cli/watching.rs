//! A running process is watched and asked: `--listen`, `status`, `top`, `tap`, `state` and `dlq`.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    process::{Child, ChildStderr, Stdio},
};

use millstream_testkit::budget;
use rustix::process::Signal;

use crate::support::{Done, Folder, finish, signal, until};

/// Numbers in, by twos; what is no number fails.
const ORDERS: &str = "\
name: orders
source: { file: { path: in.txt, follow: true, start: beginning, codec: lines } }
steps:
  - { name: double, map: '. = to_int!(.) * 2' }
  - { name: counts, aggregate: { key: '\"all\"', fields: { n: count() }, emit: change } }
sink: { name: out, file: { path: out.txt, codec: ndjson } }
checkpoint: { every: 50ms }
";

/// A process that runs a pipeline, killed when the test is over.
pub(crate) struct Running {
    child: Option<Child>,
    said: BufReader<ChildStderr>,
}

impl Running {
    pub(crate) fn start(folder: &Folder, arguments: &str) -> Self {
        let mut child = folder.command(arguments.split_whitespace()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Running { child: Some(child), said }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The next line on standard error that says this.
    pub(crate) fn line(&mut self, with: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it ended without a word of `{with}`");
            if line.contains(with) {
                return line;
            }
        }
    }

    pub(crate) fn drain(mut self) -> Done {
        let child = self.child.take().unwrap();
        signal(child.id(), Signal::TERM);
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        let done = finish(child);
        Done { err: rest, ..done }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            signal(child.id(), Signal::KILL);
            finish(child);
        }
    }
}

pub(crate) fn folder(input: &str) -> Folder {
    let folder = Folder::new();
    folder.write("p.yaml", ORDERS);
    folder.write("in.txt", input);
    folder
}

pub(crate) fn append(folder: &Folder, text: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).open(folder.path("in.txt")).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

pub(crate) fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn listen_serves_metrics_status_health_and_readiness_on_a_free_port() {
    let folder = folder("1\n2\nx\n3\n");
    let mut running = Running::start(&folder, "run p.yaml --listen 127.0.0.1:0");
    let line = running.line("listening on http://127.0.0.1:");
    let address = line.split("http://").nth(1).unwrap().split(": ").next().unwrap().to_owned();
    let metric = |line: &str| get(&address, "/metrics").contains(&format!("\n{line}\n"));
    until("the records", || metric("millstream_stage_records_out_total{pipeline=\"orders\",stage=\"double\"} 3"));
    assert!(metric("millstream_stage_records_dead_total{pipeline=\"orders\",stage=\"double\"} 1"));
    assert!(metric("# TYPE millstream_stage_busy_seconds_total counter"));
    assert!(get(&address, "/health").ends_with("\r\n\r\nok\n"));
    until("ready", || get(&address, "/ready").starts_with("HTTP/1.0 200"));
    let status = get(&address, "/status");
    assert!(status.contains("\"name\":\"orders\"") && status.contains("\"bottleneck\":\""), "{status}");
    running.drain().code(0);
    assert!(TcpStream::connect(&address).is_err(), "it ends with the run");
}

#[test]
fn an_address_that_others_reach_must_be_wanted_and_a_taken_one_starts_nothing() {
    let folder = folder("1\n");
    let refused = folder.run("run p.yaml --listen 0.0.0.0:0").code(2);
    assert!(refused.err.contains("--listen-public"), "{refused:?}");
    folder.run("run p.yaml --listen nowhere").code(2).says("is no address to listen on");
    folder.run("run p.yaml --listen-public").code(2);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = folder.run(&format!("run p.yaml --listen {}", taken.local_addr().unwrap()));
    assert!(taken.code == Some(1) && taken.err.contains("cannot listen on"), "{taken:?}");
    assert!(!folder.path(".millstream").exists() && !folder.path("out.txt").exists(), "nothing was started");
    let mut running = Running::start(&folder, "run p.yaml --listen 0.0.0.0:0 --listen-public");
    running.line("listening on http://0.0.0.0:");
    running.line("at least once");
    running.drain().code(0);
}

#[test]
fn status_and_top_show_what_runs_and_the_socket_is_the_owners_alone() {
    let folder = folder("1\n2\nx\n3\n");
    folder.run("status").code(1).says("no process runs a pipeline of the state directory `.millstream`");
    let mut running = Running::start(&folder, "run p.yaml");
    running.line("at least once");
    until("the sink", || folder.read("out.txt").contains("\"n\":3"));
    let status = folder.run("status orders").code(0).silent();
    assert!(status.out.starts_with("orders: running, at least once; epoch "), "{}", status.out);
    assert!(status.out.contains(&format!("({})", running.pid())), "{}", status.out);
    let row = |name: &str| status.out.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let cells: Vec<String> = row("double").split_whitespace().map(str::to_owned).collect();
    assert_eq!((&cells[1][..], &cells[2][..], &cells[3][..], &cells[cells.len() - 1][..]), ("map", "4", "3", "1"));
    let json: serde_json::Value = serde_json::from_str(&folder.run("status --json").code(0).out).unwrap();
    assert_eq!(json[0]["pid"], running.pid());
    assert_eq!(json[0]["stages"][1]["totals"]["dead"], 1);
    let top = folder.run("top").code(0).silent();
    assert!(top.out.contains("STAGE") && top.out.contains("double"), "a plain table in a pipe: {}", top.out);
    assert!(!top.out.contains('\u{1b}'), "no escapes in a pipe");
    folder.run(&format!("status --pid {}", running.pid())).code(0);
    folder.run("status --pid 1").code(1).says("process 1 runs no pipeline");
    folder.run("status orderz").code(1).says("orders");

    let socket = folder.path(&format!(".millstream/.control/{}.sock", running.pid()));
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    running.drain().code(0);
    assert!(!folder.path(".millstream/.control").exists());
}

#[test]
fn a_killed_process_is_no_longer_asked_and_its_socket_is_swept() {
    let folder = folder("1\n");
    let mut running = Running::start(&folder, "run p.yaml");
    running.line("at least once");
    let socket = folder.path(&format!(".millstream/.control/{}.sock", running.pid()));
    assert!(socket.exists());
    drop(running);
    folder.run("status").code(1).says("no process runs");
    let mut running = Running::start(&folder, "run p.yaml");
    running.line("at least once");
    assert!(!socket.exists());
    running.drain().code(0);
}

#[test]
fn state_and_dead_letters_are_read_while_the_pipeline_runs_and_a_second_runner_is_told_who_runs_it() {
    let folder = folder("1\n2\nx\n3\n");
    let mut running = Running::start(&folder, "run p.yaml");
    running.line("at least once");
    until("the state", || folder.run("state show orders").out.contains("\"count\": 3"));
    let shown: serde_json::Value = serde_json::from_str(&folder.run("state show orders").code(0).out).unwrap();
    assert_eq!((&shown["summary"]["running"], &shown["summary"]["pid"]), (&true.into(), &running.pid().into()));
    assert_eq!(shown["stages"][0]["stage"], "counts");
    assert!(shown["summary"]["checkpoint"]["epoch"].as_u64().unwrap() >= 1, "{shown:#}");
    let none = folder.run("state show orders --stage nobody").code(0);
    assert!(!none.out.contains("\"count\""), "{none:?}");
    until("the letter", || folder.run("dlq list").out.contains("orders"));
    folder.run("dlq list orders").code(0).silent();
    folder.run("state list").code(0).silent();

    let who = format!("process {}", running.pid());
    folder.run("run p.yaml").code(1).says(&who);
    folder.run("state reset orders").code(1).says(&who);
    append(&folder, "4\n");
    until("the run to go on", || folder.read("out.txt").contains("\"n\":4"));
    running.drain().code(0);
}

#[test]
fn a_tap_prints_what_passes_chosen_counted_and_in_every_format() {
    let folder = folder("");
    let mut running = Running::start(&folder, "run p.yaml");
    running.line("at least once");
    until("running", || folder.run("status").out.contains("orders: running"));
    let write = |from: u32| append(&folder, &(from..from + 10).map(|number| format!("{number}\n")).collect::<String>());
    let mut from = 0;
    let mut tap = |arguments: &[&str]| {
        let child = folder.command(arguments).spawn().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(finish(child)));
        let mut done = None;
        until("the tap", || {
            write(from);
            from += 10;
            done = receiver.recv_timeout(std::time::Duration::from_millis(20)).ok();
            done.is_some()
        });
        done.unwrap().code(0)
    };
    let raw = tap(&["tap", "double.in", "--count", "3", "--format", "raw"]);
    let numbers: Vec<u64> = raw.out.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.len() == 3 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{raw:?}");
    let doubled = tap(&["tap", "orders.double", "--where", "int!(.) > 100", "--count", "2", "--format", "raw"]);
    assert!(doubled.out.lines().all(|line| line.parse::<u64>().unwrap() > 100), "{doubled:?}");
    let ndjson = tap(&["tap", "out", "--count", "1", "--format", "ndjson", "--decode", "json"]);
    let record: serde_json::Value = serde_json::from_str(&ndjson.out).unwrap();
    assert!(record["value"]["n"].as_u64().unwrap() > 0, "{record}");
    let log = tap(&["tap", "file", "--count", "1"]);
    assert!(log.out.starts_with("[in.txt | "), "{log:?}");

    folder.run("tap doubel").code(1).says("double");
    folder.run("tap double --rate 0").code(2);
    folder.run("tap double --where nonsense(").code(2).says("--where:1:").says("hint");
    running.drain().code(0);
    folder.run("tap double").code(1).says("no process runs");
}

/// Ten taps that nobody reads, on a pipeline at full speed: it comes to the same end, and the taps end with it.
#[test]
fn taps_hold_nobody_up() {
    let folder = Folder::new();
    let records = budget(300_000, 5_000_000);
    folder.write(
        "p.yaml",
        format!(
            "name: fast\nsource: {{ generate: {{ count: {records} }} }}\nsteps: [ {{ name: same, filter: 'true' }} ]\n\
             sink: {{ drop: {{}} }}\nstate: {{ memory: {{}} }}\n"
        ),
    );
    let mut running = Running::start(&folder, "run p.yaml");
    let taps: Vec<Child> = (0..10)
        .map(|_| folder.command(["tap", "same"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    running.line(&format!("read {} =", thousands(records)));
    let child = running.child.take().unwrap();
    finish(child).code(0);
    // Those that came too late found nobody, or nothing.
    taps.into_iter().for_each(|tap| drop(finish(tap)));
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

#[test]
fn a_run_without_state_leaves_no_directory_behind() {
    let folder = Folder::new();
    folder.write("p.yaml", "source: { values: { values: [1] } }\nsink: { drop: {} }\nstate: { memory: {} }\n");
    folder.run("run p.yaml").code(0);
    assert!(!folder.path(".millstream").exists());
}

/// Records with keys, times and a variable: what a tap's expression can ask about beside the value.
const KEYED: &str = "\
name: keyed
vars: { wanted: { default: b } }
source: { file: { path: in.txt, follow: true, start: beginning, codec: ndjson } }
steps:
  - { name: keys, map: '%key = .k; %headers.colour = \"red\"; %time = t''2026-01-02T03:04:05Z''' }
sink: { name: out, file: { path: out.txt } }
checkpoint: { every: 50ms }
";

#[test]
fn a_tap_chooses_by_key_headers_origin_sequence_time_and_variables() {
    let folder = Folder::new();
    folder.write("p.yaml", KEYED);
    folder.write("in.txt", "");
    let mut running = Running::start(&folder, "run p.yaml");
    running.line("at least once");
    until("running", || folder.run("status").out.contains("keyed: running"));
    // Each leaves out about half of them, so that one that keeps all is found out.
    fn key(record: &serde_json::Value) -> bool {
        record["key"] == "b" && record["value"].as_str().unwrap().contains("\"b\"")
    }
    fn sequence(record: &serde_json::Value) -> bool {
        record["sequence"].as_u64().unwrap() % 2 == 1
    }
    type Fits = fn(&serde_json::Value) -> bool;
    let choices: [(&str, Fits); 6] = [
        ("%key == \"b\"", key),
        ("%key == %vars.wanted", key),
        ("mod(int!(%sequence), 2) == 1", sequence),
        ("%key == \"b\" && %stream == \"in.txt\" && %shard == 0", key),
        ("%key == \"b\" && %headers.colour == \"red\"", key),
        ("%key == \"b\" && to_unix_timestamp(timestamp!(%time)) == 1767323045", key),
    ];
    for (expression, fits) in choices {
        let arguments = ["tap", "keys", "--where", expression, "--count", "4", "--format", "ndjson"];
        let child = folder.command(arguments).spawn().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(finish(child)));
        let mut done = None;
        until(expression, || {
            append(&folder, "{\"k\":\"a\"}\n{\"k\": \"b\"}\n");
            done = receiver.recv_timeout(std::time::Duration::from_millis(20)).ok();
            done.is_some()
        });
        let done = done.unwrap().code(0).silent();
        let records: Vec<serde_json::Value> =
            done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(records.len() == 4 && records.iter().all(fits), "{expression}: {done:?}");
    }
    for (expression, place, hint) in [
        ("true &&\n  %kez == 1", "--where:2:", "did you mean `key`?"),
        ("%vars.wantet == \"b\"", "--where:1:", "did you mean `wanted`?"),
        (".k ==", "--where:1:", "expected one of"),
    ] {
        let refused = folder.run_all(&["tap", "keys", "--where", expression]).code(2);
        assert!(refused.err.contains(place) && refused.err.contains(hint), "{expression}: {}", refused.err);
    }
    running.drain().code(0);
}
