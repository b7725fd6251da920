//! What is said of options and of servers that do not answer as they should.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use millstream_core::{Error, ErrorKind, Resume, Url};
use millstream_testkit::{servers::Redis, started};
use serde_json::{Value, json};

use crate::support::*;

#[test]
fn every_wrong_option_is_named() {
    let url = "redis://localhost/k";
    let sources = [
        (json!({}), ""),
        (json!({"url": "redis://localhost"}), "stream"),
        (json!({"url": "http://localhost/k"}), "url"),
        (json!({"url": url, "stream": "j"}), "stream"),
        (json!({"url": url, "start": "committed"}), "start"),
        (json!({"url": url, "group": {"name": "g", "max_deliveries": 0}}), "group.max_deliveries"),
        (json!({"url": url, "group": {"nme": "g"}}), "group.nme"),
        (json!({"url": url, "tls": {"ca": "x"}}), "tls"),
        (json!({"url": url, "key_field": "msg"}), "key_field"),
        (json!({"url": "redis://a,b/k?db=2"}), "db"),
        (json!({"url": url, "batch": {"count": 0}}), "batch.count"),
        (json!({"url": url, "codec": "csv"}), "codec"),
    ];
    for (options, path) in sources {
        let error = plan_source(&options).expect_err(&options.to_string());
        let place = error.place().map_or_else(String::new, |place| place.path.join("."));
        assert_eq!(place, path, "{options}: {error:?}");
        assert!(error.hint_text().is_some() || error.message().contains("missing"), "{error:?}");
    }
    let sinks = [
        (json!({"url": "redis://localhost", "stream": ""}), "stream"),
        (json!({"url": url, "sharder": "key"}), "sharder"),
        (json!({"url": url, "shards": 0}), "shards"),
        (json!({"url": url, "trim": {}}), "trim"),
        (json!({"url": url, "wait": {"replicas": 0}}), "wait"),
        (json!({"url": url, "wait": {"replicas": 1, "timeout": "0s"}}), "wait"),
        (json!({"url": url, "codec": "csv"}), "codec"),
    ];
    for (options, path) in sinks {
        let error = plan_sink(&options).expect_err(&options.to_string());
        assert_eq!(error.place().unwrap().path.join("."), path, "{options}: {error:?}");
    }
}

#[test]
fn a_url_says_all_that_options_say() {
    let url = Url::parse("redis://me:s3cret@a:1,b:2/x,y?group.name=g&group.max_deliveries=7&batch.count=10").unwrap();
    for component in millstream_redis::components() {
        let options = component.from_url.unwrap()(&url).unwrap();
        if component.role() == millstream_core::Role::Source {
            let plan = plan_source(&options).unwrap();
            assert_eq!(plan.describe(), "reading x,y of redis://me:***@a:1,b:2 in the group g");
            assert!(!format!("{plan:?}").contains("s3cret"));
        }
    }
}

async fn opening(options: Value) -> Error {
    let begun = Instant::now();
    let mut source = plan_source(&options).unwrap().create().unwrap();
    let error = source.open(&Resume::default()).await.expect_err("an error");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_clear(&options, &error);
    error
}

/// The error of the first write.
async fn writing(options: Value) -> Error {
    let begun = Instant::now();
    let mut sink = plan_sink(&options).unwrap().create().unwrap();
    let error = match sink.open(&[]).await {
        Err(error) => error,
        Ok(()) => match sink.write(value_batch(0..1)).await {
            Err(error) => error,
            Ok(_) => sink.flush().await.unwrap().rejected.pop().expect("a rejected record").2,
        },
    };
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_clear(&options, &error);
    error
}

/// It names the server without its password, and says what to do.
fn assert_clear(options: &Value, error: &Error) {
    let shown = Url::parse(options["url"].as_str().unwrap()).unwrap();
    let server = format!("{}://", shown.scheme);
    let chain = error.chain();
    assert!(chain.contains(&server) && shown.nodes.iter().all(|node| chain.contains(node)), "{error:?}");
    if let Some(password) = &shown.password {
        assert!(!format!("{error:?} {chain}").contains(&format!("{}@", password.expose())), "{error:?}");
    }
    assert!(error.hint_text().is_some(), "{error:?}");
}

/// It answers with the words of the command that it does not know.
#[tokio::test]
async fn a_password_is_not_said_by_a_server_that_does_not_know_auth() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("renamed.conf").display().to_string();
    std::fs::write(&file, "rename-command AUTH HIDDEN\n").unwrap();
    let redis = started!(Redis::setup().argument("--include", &file).start());
    for login in ["ann:s3cret", ":s3cret"] {
        let error = opening(json!({"url": format!("redis://{login}@{}/k", redis.address())})).await;
        let said = format!("{error:?} {}", error.chain());
        assert!(error.message().contains("unknown command") && !said.contains("s3cret"), "{said}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_said_without_saying_it() {
    let (redis, users) = (
        started!(Redis::setup().password("right").start()),
        started!(Redis::setup().acl("user ann on >ann ~a* +@all").start()),
    );
    for (login, kind) in
        [("", ErrorKind::Permission), (":wrong@", ErrorKind::Permission), ("ann:wrong@", ErrorKind::Permission)]
    {
        let error = opening(json!({"url": format!("redis://{login}{}/k", redis.address())})).await;
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.message().contains(&redis.address()), "{error:?}");
        assert!(!format!("{error:?}").contains("wrong@"), "{error:?}");
    }
    let error = opening(json!({"url": format!("redis://ann:ann@{}/k", users.address())})).await;
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(error.message().contains("NOPERM"), "{error:?}");
    redis.cli(&["XADD", "k", "*", "msg", "v"]);
    let mut source = source(&redis, json!({"stream": "k"})).await;
    assert_eq!(take(&mut *source, 1).await, ["v"]);
    let mut ann =
        plan_source(&json!({"url": format!("redis://ann:ann@{}/a1", users.address())})).unwrap().create().unwrap();
    ann.open(&Resume::default()).await.unwrap();
}

#[tokio::test]
async fn what_a_server_refuses_is_said_with_its_url_and_what_to_do() {
    let full = started!(Redis::setup().password("s3cret").max_memory("1mb").start());
    let url = format!("redis://:s3cret@{}/k", full.address());
    let error = writing(json!({ "url": url })).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("OOM") && error.hint_text().unwrap().contains("maxmemory"), "{error:?}");
    // Each record names its stream, so that opening the sink cannot know.
    let redis = started!(Redis::shared());
    redis.cli(&["SET", "in", "a string"]);
    let error = writing(json!({"url": redis.url()})).await;
    assert!(error.message().contains("WRONGTYPE"), "{error:?}");
    let error = writing(json!({"url": format!("redis://:wrong@{}/k", full.address())})).await;
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(writing(json!({"url": format!("redis://{free}/k")})).await.kind(), ErrorKind::Unavailable);
    let error = writing(json!({"url": format!("rediss://{}/k", redis.address()), "timeout": "1s"})).await;
    assert!(error.hint_text().unwrap().contains("TLS"), "{error:?}");
}

#[tokio::test]
async fn a_stream_that_becomes_something_else_is_said_to_its_readers() {
    let redis = started!(Redis::shared());
    let k = key();
    redis.cli(&["XADD", &k, "*", "msg", "v"]);
    let mut source = source(redis, json!({"stream": k})).await;
    take(&mut *source, 1).await;
    redis.cli(&["SET", &k, "a string"]);
    let error = tokio::time::timeout(Duration::from_secs(10), source.next()).await.unwrap().unwrap_err();
    assert!(error.message().contains("WRONGTYPE") && error.message().contains(&redis.address()), "{error:?}");
    assert!(error.hint_text().unwrap().contains("stream"), "{error:?}");
}

#[tokio::test]
async fn a_key_that_is_no_stream_is_named() {
    let redis = started!(Redis::shared());
    let k = key();
    redis.cli(&["SET", &k, "a string"]);
    let error = opening(options(redis, json!({"stream": k}))).await;
    assert!(error.message().contains(&format!("`{k}`")) && error.message().contains("string"), "{error:?}");
    let mut sink = plan_sink(&options(redis, json!({"stream": k}))).unwrap().create().unwrap();
    assert!(sink.open(&[]).await.unwrap_err().message().contains("not a stream"));
}

#[tokio::test]
async fn a_server_that_is_not_there_or_no_redis_is_said_in_time() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = opening(json!({"url": format!("redis://{free}/k")})).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let error = opening(json!({"url": format!("redis://{address}/k"), "timeout": "300ms"})).await;
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    let error = opening(json!({"url": "redis://no.such.host.invalid/k"})).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = opening(json!({"url": format!("redis://{address}/k")})).await;
    assert_eq!(error.kind(), ErrorKind::Option, "{error:?}");
}

#[tokio::test]
async fn tls_on_one_side_only_is_said() {
    let plain = started!(Redis::shared());
    let error = opening(json!({"url": format!("rediss://{}/k", plain.address()), "timeout": "1s"})).await;
    assert!(error.hint_text().unwrap().contains("TLS"), "{error:?}");
    let tls = started!(Redis::setup().tls().start());
    let error = opening(json!({"url": format!("redis://{}/k", tls.address()), "timeout": "1s"})).await;
    assert!(error.hint_text().unwrap().contains("rediss"), "{error:?}");
    let error = opening(json!({"url": format!("rediss://{}/k", tls.address())})).await;
    assert!(error.hint_text().unwrap().contains("tls.ca") && error.kind() == ErrorKind::Option, "{error:?}");
}

#[tokio::test]
async fn tls_works_with_a_certificate_of_ours_and_without() {
    let redis = started!(Redis::setup().client_certificates().start());
    let files = redis.certificates().unwrap();
    let ca = json!({"ca": files.authority});
    let error = opening(options(&redis, json!({"stream": "k", "tls": ca, "timeout": "2s"}))).await;
    assert!(error.hint_text().is_some(), "{error:?}");
    let tls = json!({"ca": files.authority, "cert": files.client, "key": files.client_key});
    let mut sink = sink(&redis, json!({"stream": "k", "tls": tls})).await;
    for i in 0..20 {
        sink.write(value_batch(i * 1000..(i + 1) * 1000)).await.unwrap();
    }
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    let mut source = source_at(&redis, json!({"stream": "k", "tls": tls}), until_end()).await;
    assert_eq!(all(&mut *source).await, numbered(0..20_000));
}

#[tokio::test]
async fn a_database_has_its_number() {
    let redis = started!(Redis::shared());
    let k = key();
    redis.cli(&["-n", "3", "XADD", &k, "*", "msg", "in three"]);
    let url = format!("{}/{k}?db=3", redis.url());
    let mut source = plan_source(&json!({"url": url})).unwrap().create().unwrap();
    source.open(&until_end()).await.unwrap();
    assert_eq!(all(&mut *source).await, ["in three"]);
    let error = opening(json!({"url": format!("{}/{k}?db=999", redis.url())})).await;
    assert_eq!(error.kind(), ErrorKind::Option);
}
