use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use millstream_testkit::servers::{Flow, Proxy, wait_until};

const LIMIT: Duration = Duration::from_secs(20);

/// A server that sends back what it gets, and the address that it listens at.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().map(Result::unwrap) {
            thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Sends bytes, and reads as many.
fn there_and_back(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    back
}

#[test]
fn it_carries_both_directions_and_their_ends() {
    let proxy = Proxy::start(&echo());
    let mut stream = connect(&proxy);
    let sent: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
    let mut reader = stream.try_clone().unwrap();
    let read = thread::spawn(move || {
        let mut back = Vec::new();
        reader.read_to_end(&mut back).map(|_| back)
    });
    stream.write_all(&sent).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(read.join().unwrap().unwrap() == sent);
    assert_eq!(
        (proxy.accepted(), proxy.passed(Flow::ToServer), proxy.passed(Flow::ToClient)),
        (1, 1_000_000, 1_000_000)
    );
    wait_until("closed", LIMIT, || proxy.open() == 0);
}

#[test]
fn a_cut_ends_all_connections_and_lets_new_ones_through() {
    let proxy = Proxy::start(&echo());
    let mut streams = [connect(&proxy), connect(&proxy)];
    streams.iter_mut().for_each(|stream| assert_eq!(there_and_back(stream, b"a"), b"a"));
    assert_eq!(proxy.open(), 2);
    proxy.cut();
    assert_eq!(proxy.open(), 0);
    streams.iter_mut().for_each(|stream| assert_eq!(stream.read(&mut [0]).unwrap(), 0));
    assert_eq!(there_and_back(&mut connect(&proxy), b"b"), b"b");
    proxy.reset();
    let mut stream = connect(&proxy);
    assert_eq!(there_and_back(&mut stream, b"c"), b"c");
    proxy.reset();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_cut_may_come_in_the_middle_of_a_write() {
    let proxy = Proxy::start(&echo());
    let mut stream = connect(&proxy);
    assert_eq!(there_and_back(&mut stream, b"before"), b"before");
    proxy.cut_after(Flow::ToClient, 4);
    stream.write_all(b"whole").unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert_eq!(back, b"whol");
    // Once only.
    assert_eq!(there_and_back(&mut connect(&proxy), b"whole"), b"whole");
    assert_eq!(proxy.passed(Flow::ToClient), 15);
}

#[test]
fn one_byte_is_corrupted() {
    let proxy = Proxy::start(&echo());
    let mut stream = connect(&proxy);
    proxy.corrupt(Flow::ToServer, 7);
    assert_eq!(there_and_back(&mut stream, b"aaaaa"), b"aaaaa");
    assert_eq!(there_and_back(&mut stream, b"aaaaa"), b"aa`aa");
    assert_eq!(there_and_back(&mut stream, b"aaaaa"), b"aaaaa");
}

#[test]
fn who_is_refused_finds_no_server() {
    let proxy = Proxy::start(&echo());
    let mut stream = connect(&proxy);
    assert_eq!(there_and_back(&mut stream, b"a"), b"a");
    proxy.refuse();
    assert_eq!(TcpStream::connect(proxy.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(there_and_back(&mut stream, b"b"), b"b");
    proxy.accept();
    assert_eq!(there_and_back(&mut connect(&proxy), b"c"), b"c");
}

#[test]
fn what_stalls_arrives_later() {
    let proxy = Proxy::start(&echo());
    let mut stream = connect(&proxy);
    assert_eq!(there_and_back(&mut stream, b"a"), b"a");
    proxy.stall();
    stream.write_all(b"b").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    proxy.resume();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut back = [0];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"b");
}

#[test]
fn it_may_be_slow() {
    let proxy = Proxy::start(&echo());
    let mut stream = connect(&proxy);
    proxy.delay(Duration::from_millis(60));
    let began = Instant::now();
    there_and_back(&mut stream, b"a");
    assert!(began.elapsed() >= Duration::from_millis(120));
    proxy.heal();
    proxy.limit(Some(10_000));
    let began = Instant::now();
    there_and_back(&mut stream, &[0; 2_000]);
    assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());
}

#[test]
fn without_a_server_a_connection_ends_at_once() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = Proxy::start(&nobody.to_string());
    assert!(matches!(connect(&proxy).read(&mut [0]), Err(_) | Ok(0)));
}

#[tokio::test]
async fn it_can_be_used_from_async_tests() {
    let proxy = Proxy::start(&echo());
    let stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
    proxy.cut();
    stream.readable().await.unwrap();
    assert_eq!(stream.try_read(&mut [0]).unwrap(), 0);
}
