//! The web server of the example answers 202 after the commit, and 503 when it is full.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Orders that may wait.
const ROOM: usize = 2;

/// Ends the server also when the test fails.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
    }
}

/// Status line and body of the answer to a request.
fn post(address: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = "Host: test\r\nConnection: close\r\nContent-Type: application/json";
    write!(stream, "POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (status, body) = (answer.lines().next().unwrap(), answer.split_once("\r\n\r\n").unwrap().1);
    format!("{} {}", status.split(' ').nth(1).unwrap(), body.trim())
}

fn order(n: usize) -> String {
    format!(r#"{{"customer":"c{n}","total":1.5}}"#)
}

#[test]
fn the_example_answers_202_after_the_commit_and_503_when_it_is_full() {
    // Built with this test, beside it.
    let example = std::env::current_exe().unwrap().parent().unwrap().join("../examples/collector_web");
    let mut command = Command::new(example);
    command.args(["127.0.0.1:0", &ROOM.to_string()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Server(command.spawn().unwrap());
    let mut says = BufReader::new(server.0.stderr.take().unwrap());
    let mut line = String::new();
    says.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();

    assert_eq!(post(&address, "/orders", &order(0)), "202 committed");
    assert!(post(&address, "/orders", "no order").starts_with('4'));

    assert_eq!(post(&address, "/pause", ""), "200 ");
    let (answered, answers) = mpsc::channel();
    let (mut pushed, mut early) = (1, 0);
    // Some may still be read before the pause is heard of; then those wait for which there is room.
    loop {
        let (address, answered, n) = (address.clone(), answered.clone(), pushed);
        thread::spawn(move || answered.send((n, post(&address, "/orders", &order(n)))));
        pushed += 1;
        match answers.recv_timeout(Duration::from_millis(200)) {
            Ok((n, answer)) if answer.starts_with("503") => {
                assert_eq!((n, &*answer), (pushed - 1, "503 the channel is full"));
                break;
            }
            Ok((_, answer)) => {
                assert_eq!(answer, "202 committed");
                early += 1;
            }
            Err(_) => assert!(pushed < 100, "it is never full"),
        }
    }
    let waiting = pushed - 2 - early;
    assert_eq!(waiting, ROOM);
    assert_eq!(post(&address, "/resume", ""), "200 ");
    for _ in 0..waiting {
        assert_eq!(answers.recv_timeout(Duration::from_secs(60)).unwrap().1, "202 committed");
    }

    let stop = Command::new("kill").args(["-INT", &server.0.id().to_string()]).status().unwrap();
    assert!(stop.success());
    let mut said = String::new();
    says.read_to_string(&mut said).unwrap();
    assert!(server.0.wait().unwrap().success(), "{said}");
    assert_eq!(said.lines().last(), Some(&*format!("{} orders taken", pushed - 1)), "{said}");
    let mut written = String::new();
    server.0.stdout.take().unwrap().read_to_string(&mut written).unwrap();
    let mut lines: Vec<_> = written.lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, (0..pushed - 1).map(order).collect::<Vec<_>>());
}
