//! The control socket.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use millstream_core::{ErrorKind, Result};
use millstream_observe::{
    Observer,
    control::{Ask, Client, ControlSocket, Process, REQUEST_BYTES_MAX, processes},
};
use millstream_testkit::{FakeSink, FakeSource};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{observer, spec, start, start_with, until};

pub(crate) struct Serving(pub(crate) Process, JoinHandle<Result<()>>);

impl Serving {
    pub(crate) fn at(state_dir: &Path, observer: &Observer) -> Self {
        let socket = ControlSocket::bind(state_dir).unwrap();
        let process = Process { pid: std::process::id(), socket: socket.path().to_owned() };
        Serving(process, tokio::spawn(socket.serve(observer.clone())))
    }

    /// Asks on a thread of its own, as another process would.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Value> {
        let process = self.0.clone();
        tokio::task::spawn_blocking(move || Client::connect(&process)?.ask(&ask)).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.1.abort();
        let _ = self.1.await;
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_socket_is_the_owners_alone_and_goes_with_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = folder.path().join("state");
    let serving = Serving::at(&state_dir, &observer());
    let socket = serving.0.socket.clone();
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    assert_eq!(processes(&state_dir), std::slice::from_ref(&serving.0));
    serving.stop().await;
    assert!(!socket.exists() && !state_dir.exists(), "and so does what was made for it");
    assert!(processes(&state_dir).is_empty());
}

#[tokio::test]
async fn a_state_directory_that_holds_something_stays() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Serving::at(folder.path(), &observer());
    std::fs::create_dir(folder.path().join("orders")).unwrap();
    serving.stop().await;
    assert!(folder.path().join("orders").exists() && !folder.path().join(".control").exists());
}

#[tokio::test]
async fn what_a_killed_process_left_is_swept_and_what_others_listen_on_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join(".control");
    std::fs::create_dir(&control).unwrap();
    // A listener that is dropped leaves its file, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(control.join("1.sock")).unwrap());
    let other = std::os::unix::net::UnixListener::bind(control.join("2.sock")).unwrap();
    // Another container, whose process has the same number.
    let twin = std::os::unix::net::UnixListener::bind(control.join(format!("{}.sock", std::process::id()))).unwrap();
    let serving = Serving::at(folder.path(), &observer());
    let pids: Vec<u32> = processes(folder.path()).iter().map(|process| process.pid).collect();
    assert_eq!(pids, [2, std::process::id(), std::process::id()]);
    assert!(serving.0.socket.ends_with(format!("{}-2.sock", std::process::id())));
    assert!(serving.ask(Ask::Status).await.is_ok());
    serving.stop().await;
    drop((other, twin));
}

#[tokio::test]
async fn a_state_directory_with_a_long_path_has_a_socket_too() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = folder.path().join("a".repeat(120)).join("b".repeat(120));
    let serving = Serving::at(&state_dir, &observer());
    assert!(serving.ask(Ask::Status).await.is_ok());
    serving.stop().await;
}

#[tokio::test]
async fn a_process_that_is_gone_is_told_as_gone() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Serving::at(folder.path(), &observer());
    let process = serving.0.clone();
    serving.stop().await;
    assert_eq!(Client::connect(&process).unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_pipeline_is_paused_resumed_committed_and_drained_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    let (source, sink) = (FakeSource::live(), FakeSink::plain());
    let observer = observer();
    let mut running = start(&observer, &spec("orders", &source, &sink));
    running.handle().started().await;
    let serving = Serving::at(folder.path(), &observer);
    let phase = |observer: &Observer| observer.report().pipelines[0].phase.clone();
    let pipeline = || Some("orders".to_owned());

    serving.ask(Ask::Pause { pipeline: pipeline() }).await.unwrap();
    until("the pause", || phase(&observer) == "paused").await;
    source.push(None, "one");
    assert_eq!(sink.values().len(), 0);
    serving.ask(Ask::Resume { pipeline: None }).await.unwrap();
    until("the record", || sink.values() == ["one"]).await;
    let committed = serving.ask(Ask::Checkpoint { pipeline: None }).await.unwrap();
    assert!(committed["epoch"].as_u64().unwrap() >= 1, "{committed}");
    serving.ask(Ask::Concurrency { pipeline: None, step: "pass".into(), workers: 3 }).await.unwrap();
    until("three workers", || observer.report().pipelines[0].stages[1].workers == 3).await;
    let error = serving.ask(Ask::Concurrency { pipeline: None, step: "pass".into(), workers: 0 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option, "{error:?}");
    let change = Ask::Option { pipeline: None, step: "pass".into(), option: "x".into(), value: json!(1) };
    assert_eq!(serving.ask(change).await.unwrap_err().kind(), ErrorKind::Unsupported);
    serving.ask(Ask::Drain { pipeline: None, deadline_seconds: 5.0 }).await.unwrap();
    running.wait().await.unwrap();
    assert_eq!(phase(&observer), "over");
    let error = serving.ask(Ask::Checkpoint { pipeline: None }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_drain_from_outside_is_one_of_all_that_end_together() {
    let folder = tempfile::tempdir().unwrap();
    let (observer, (told, mut hears)) = (observer(), tokio::sync::mpsc::unbounded_channel());
    let drain = Arc::new(move |deadline| told.send(deadline).unwrap());
    let spec = spec("orders", &FakeSource::live(), &FakeSink::plain());
    let running = start_with(&observer, &spec, |observed| observed.with_drain(drain));
    let serving = Serving::at(folder.path(), &observer);
    serving.ask(Ask::Drain { pipeline: None, deadline_seconds: 5.0 }).await.unwrap();
    assert_eq!(hears.recv().await, Some(Duration::from_secs(5)));
    running.handle().stop();
}

#[tokio::test]
async fn of_several_pipelines_one_must_be_named_and_slips_are_mended() {
    let folder = tempfile::tempdir().unwrap();
    let observer = observer();
    let specs = ["orders", "clicks"].map(|name| spec(name, &FakeSource::live(), &FakeSink::plain()));
    let running = specs.each_ref().map(|spec| start(&observer, spec));
    let serving = Serving::at(folder.path(), &observer);
    let error = serving.ask(Ask::Pause { pipeline: None }).await.unwrap_err();
    assert!(error.message().contains("orders, clicks"), "{error:?}");
    let error = serving.ask(Ask::Pause { pipeline: Some("orderz".into()) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint_text().unwrap().contains("orders"), "{error:?}");
    running.iter().for_each(|running| running.handle().stop());
}

#[tokio::test]
async fn state_is_read_by_whoever_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let observer = observer();
    let spec = spec("orders", &FakeSource::live(), &FakeSink::plain());
    let running = start(&observer, &spec);
    let serving = Serving::at(folder.path(), &observer);
    let ask = || Ask::State { pipeline: None, stage: Some("count".into()), limit: 7 };
    assert_eq!(serving.ask(ask()).await.unwrap_err().kind(), ErrorKind::Unsupported);

    let other = Observer::new(Duration::from_secs(30), crate::steps::registry());
    let plan = millstream_runtime::Plan::new(&spec, &crate::steps::registry(), Default::default()).unwrap();
    let read = |stage: Option<&str>, limit: usize| Ok(json!([stage, limit]));
    let shape = millstream_observe::Shape::of(&plan);
    other.add(millstream_observe::Observed::new(shape, running.handle()).with_state(Arc::new(read)));
    let serving = Serving::at(folder.path(), &other);
    assert_eq!(serving.ask(ask()).await.unwrap(), json!(["count", 7]));
    running.handle().stop();
}

/// Sends lines as they are, and reads as many answers.
async fn raw(serving: &Serving, lines: &'static [&'static str]) -> Vec<Value> {
    let socket = serving.0.socket.clone();
    let ask = move || {
        let mut stream = BufReader::new(UnixStream::connect(socket).unwrap());
        lines
            .iter()
            .map(|line| {
                stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
                let mut answer = String::new();
                stream.read_line(&mut answer).unwrap();
                serde_json::from_str(&answer).unwrap()
            })
            .collect()
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

#[tokio::test]
async fn the_protocol_answers_nonsense_with_errors_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Serving::at(folder.path(), &observer());
    let answers = raw(
        &serving,
        &[
            "nonsense",
            r#"{"v":2,"id":5,"ask":"status"}"#,
            r#"{"v":1,"id":6,"ask":"destroy"}"#,
            r#"{"v":1,"id":7,"ask":"stop"}"#,
            r#"{"v":1,"id":8,"ask":"tap","point":"x","rate":1}"#,
            r#"{"v":1,"id":9,"ask":"status","more":"from a newer client"}"#,
        ],
    )
    .await;
    let seen: Vec<_> =
        answers.iter().map(|answer| (answer["id"].as_u64().unwrap(), answer["error"]["code"].as_str())).collect();
    let expected = [
        (0, Some("E_SYNTAX")),
        (5, Some("E_VERSION")),
        (6, Some("E_SYNTAX")),
        (7, Some("E_NOT_FOUND")),
        (8, Some("E_NOT_FOUND")),
        (9, None),
    ];
    assert_eq!(seen, expected);
    assert_eq!(answers[5]["ok"]["pid"], std::process::id());
}

#[tokio::test]
async fn a_request_without_end_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Serving::at(folder.path(), &observer());
    let socket = serving.0.socket.clone();
    let flood = move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // Cut off while it is written, or behind it.
        let _ = stream.write_all(&vec![b'x'; 2 * REQUEST_BYTES_MAX]);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    assert!(tokio::task::spawn_blocking(flood).await.unwrap().is_empty());
    assert!(serving.ask(Ask::Status).await.is_ok());
}
