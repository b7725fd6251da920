use std::{net::TcpStream, time::Duration};

use millstream_testkit::{
    servers::{Redis, wait_until},
    started,
};

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn one_is_shared_by_all_threads() {
    let ports = std::thread::scope(|scope| {
        let port = || Redis::shared().map(Redis::port);
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(port)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let port = started!(ports[0].clone());
    assert!(ports.iter().all(|other| *other == Ok(port)));
    assert_eq!(started!(Redis::shared()).cli(&["PING"]), "PONG");
}

#[test]
fn it_can_be_paused_killed_and_started_again() {
    let redis = started!(Redis::setup().persistent().start());
    assert_eq!(redis.url(), format!("redis://127.0.0.1:{}", redis.port()));
    redis.cli(&["SET", "key", "kept"]);
    redis.pause();
    assert!(TcpStream::connect(redis.address()).is_ok());
    redis.resume();
    assert_eq!(redis.cli(&["GET", "key"]), "kept");
    redis.kill();
    assert!(TcpStream::connect(redis.address()).is_err());
    redis.restart();
    assert_eq!(redis.cli(&["GET", "key"]), "kept");
    redis.stop();
    assert!(redis.log().contains("ready to exit"));
    redis.restart();
    assert_eq!(redis.cli(&["GET", "key"]), "kept");
}

#[test]
fn without_persistence_it_forgets() {
    let redis = started!(Redis::start());
    redis.cli(&["SET", "key", "lost"]);
    redis.restart();
    assert_eq!(redis.cli(&["GET", "key"]), "");
}

#[test]
fn it_speaks_tls() {
    let redis = started!(Redis::setup().client_certificates().password("secret").start());
    assert_eq!(redis.url(), format!("rediss://:secret@127.0.0.1:{}", redis.port()));
    assert_eq!(redis.cli(&["PING"]), "PONG");
    assert!(redis.certificates().unwrap().client_key.is_file());
}

#[test]
fn it_has_users_and_limits() {
    let redis = started!(
        Redis::setup()
            .acl("user default on nopass ~* +@all")
            .acl("user alice on >secret ~a* +get")
            .max_memory("3mb")
            .start()
    );
    assert_eq!(redis.cli(&["--user", "alice", "--pass", "secret", "--no-auth-warning", "GET", "ab"]), "");
    assert_eq!(redis.cli(&["CONFIG", "GET", "maxmemory"]), "maxmemory\n3145728");
}

#[test]
#[should_panic(expected = "bad-option")]
fn one_that_does_not_start_says_why() {
    let started = Redis::setup().argument("--bad-option", "1").start();
    // Without a server nothing can be wrong with it.
    if let Err(missing) = started {
        println!("skipped: {missing}");
        panic!("bad-option");
    }
}

#[test]
fn it_is_gone_when_dropped() {
    let redis = started!(Redis::start());
    let (pid, address) = (redis.pid().unwrap(), redis.address());
    drop(redis);
    assert!(TcpStream::connect(address).is_err());
    wait_until("gone", LIMIT, || !std::path::Path::new(&format!("/proc/{pid}")).exists());
}
