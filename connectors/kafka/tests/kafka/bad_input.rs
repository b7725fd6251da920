use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, Resume};
use millstream_testkit::servers::{Listener, PLAIN_USER, SCRAM_USER};
use serde_json::{Value, json};

use crate::support::{kafka, read_to_end, sink_plan, source_plan, texts, topic, values, write_all};

/// What a reader and a writer with these options say within ten seconds.
async fn refused(options: Value) -> [Error; 2] {
    let since = Instant::now();
    let mut source = source_plan(&options).unwrap().create().unwrap();
    let mut sink = sink_plan(&options).unwrap().create().unwrap();
    let within = Duration::from_secs(10);
    let read =
        async { tokio::time::timeout(within, source.open(&Resume::default())).await.expect("an answer").unwrap_err() };
    let write = async { tokio::time::timeout(within, sink.open(&[])).await.expect("an answer").unwrap_err() };
    let both = tokio::join!(read, write);
    assert!(since.elapsed() < within);
    both.into()
}

fn at(listener: Listener, scheme: &str, login: &str, topic: &str) -> String {
    format!("{scheme}://{login}{}/{topic}", kafka().bootstrap_of(listener))
}

fn authority() -> Value {
    json!({"ca": kafka().certificates().authority})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_works() {
    let topic = topic(1);
    let certificates = kafka().certificates();
    let (user, password) = PLAIN_USER;
    let (scram_user, scram_password) = SCRAM_USER;
    let login = format!("{user}:{password}@");
    let own = json!({"ca": certificates.authority, "cert": certificates.client, "key": certificates.client_key});
    let scram = |mechanism: &str| json!({"mechanism": mechanism, "user": scram_user, "password": scram_password});
    let doors = [
        json!({"url": at(Listener::Sasl, "kafka", &login, &topic)}),
        json!({"url": at(Listener::Sasl, "kafka", "", &topic), "auth": scram("scram-sha-256")}),
        json!({"url": at(Listener::Sasl, "kafka", "", &topic), "auth": scram("scram-sha-512")}),
        json!({"url": at(Listener::Tls, "kafka+tls", "", &topic), "tls": authority()}),
        json!({"url": at(Listener::Tls, "kafka", "", &topic), "tls": own}),
        json!({"url": at(Listener::Tls, "kafka+tls", "", &topic), "tls": {"verify": false}}),
        json!({"url": at(Listener::SaslTls, "kafka+tls", &login, &topic), "tls": authority()}),
    ];
    for (i, door) in doors.iter().enumerate() {
        write_all(&topic, door.clone(), &values(i, i + 1)).await;
        assert_eq!(texts(&read_to_end(&topic, door.clone()).await), texts(&values(0, i + 1)), "{door}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_key_may_have_a_password_and_a_wrong_one_says_so() {
    let (topic, folder) = (topic(1), tempfile::tempdir().unwrap());
    let (certificates, locked) = (kafka().certificates(), folder.path().join("locked.key"));
    let lock = std::process::Command::new("openssl")
        .args(["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:opens", "-in"])
        .args([&certificates.client_key, std::path::Path::new("-out"), &locked])
        .status();
    assert!(lock.unwrap().success());
    let with = |password: &str| {
        let tls = json!({
            "ca": certificates.authority, "cert": certificates.client, "key": locked, "key_password": password,
        });
        json!({"url": at(Listener::Tls, "kafka+tls", "", &topic), "tls": tls})
    };
    write_all(&topic, with("opens"), &values(0, 1)).await;
    assert_eq!(texts(&read_to_end(&topic, with("opens")).await), ["0"]);
    for error in refused(with("wr0ng")).await {
        assert!(!error.facts().retry && error.hint_text().is_some(), "{error:?}");
        assert!(!error.chain().contains("wr0ng"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_at_once() {
    let topic = topic(1);
    for listener in [Listener::Sasl, Listener::SaslTls] {
        let scheme = if listener == Listener::Sasl { "kafka" } else { "kafka+tls" };
        let mut options = json!({"url": at(listener, scheme, "alice:wrong-secret@", &topic)});
        if listener == Listener::SaslTls {
            options["tls"] = authority();
        }
        for error in refused(options).await {
            assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
            let text = format!("{error:?}");
            assert!(
                text.contains("alice:***@") && !text.contains("wrong-secret") && error.hint_text().is_some(),
                "{text}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_there_is_named() {
    for error in refused(json!({"url": at(Listener::Plain, "kafka", "", "no-such-topic")})).await {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.message().contains("no-such-topic") && error.hint_text().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_the_address_is_said_in_time() {
    for url in ["kafka://127.0.0.1:1/t", "kafka://no-such-host.invalid/t", "kafka+tls://127.0.0.1:1/t"] {
        for error in refused(json!({"url": url, "timeout": "2s"})).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            assert!(error.message().contains(url) && error.hint_text().is_some(), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_at_a_port_without_it_says_so_and_the_other_way_round() {
    let topic = topic(1);
    for error in refused(json!({"url": at(Listener::Plain, "kafka+tls", "", &topic), "tls": authority()})).await {
        let text = format!("{error:?}");
        assert!(text.contains("TLS") && error.hint_text().is_some(), "{text}");
    }
    for error in refused(json!({"url": at(Listener::Tls, "kafka", "", &topic)})).await {
        assert!(error.hint_text().is_some_and(|hint| hint.contains("kafka+tls")), "{error:?}");
    }
    // A certificate that nobody has vouched for.
    for error in refused(json!({"url": at(Listener::Tls, "kafka+tls", "", &topic)})).await {
        assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("tls.ca")), "{error:?}");
    }
    // No user at a port that wants one.
    for error in refused(json!({"url": at(Listener::Sasl, "kafka", "", &topic)})).await {
        assert!(error.hint_text().is_some_and(|hint| hint.contains("auth")), "{error:?}");
    }
}

#[test]
fn wrong_options_are_refused_before_anything_is_opened() {
    let url = "kafka://a/t";
    let both: [(Value, &[&str]); 14] = [
        (json!({"url": ""}), &["url"]),
        (json!({"url": "redis://a/t"}), &["url"]),
        (json!({"url": "kafka://me@a/t"}), &["url"]),
        (json!({"url": url, "auth": {"user": "me"}}), &["auth", "password"]),
        (json!({"url": url, "auth": {"mechanism": "oauthbearer"}}), &["auth", "token"]),
        (json!({"url": url, "auth": {"mechanism": "plane"}}), &["auth", "mechanism", "plane"]),
        (json!({"url": url, "tls": {"cert": "x"}}), &["tls", "key"]),
        (json!({"url": url, "property": {"no.such.property": 1}}), &["property", "no.such.property"]),
        (json!({"url": url, "property": {"group": {"id": "x"}}}), &["property", "group.id"]),
        (json!({"url": url, "property": {"socket.timeout.ms": "soon"}}), &["property", "socket.timeout.ms"]),
        (json!({"url": url, "timeout": "0s"}), &["timeout"]),
        (json!({"url": url, "codec": "csv"}), &["codec"]),
        (json!({"url": "kafka://a/..", }), &["url"]),
        (json!({"url": url, "urll": 1}), &["urll"]),
    ];
    for (options, place) in &both {
        for error in [source_plan(options).unwrap_err(), sink_plan(options).unwrap_err()] {
            assert_eq!(error.place().unwrap().path, *place, "{options}: {error:?}");
        }
    }
    let sources: [(Value, &[&str]); 10] = [
        (json!({"url": "kafka://a"}), &["url"]),
        (json!({"url": url, "pattern": "^x"}), &["pattern"]),
        (json!({"url": "kafka://a", "pattern": "x"}), &["pattern"]),
        (json!({"url": "kafka://a", "pattern": "^("}), &["pattern"]),
        (json!({"url": url, "start": "committed"}), &["start"]),
        (json!({"url": url, "membership": {"instance": "x"}}), &["membership"]),
        (
            json!({"url": url, "group": "g", "membership": {"protocol": "consumer", "assignor": "range"}}),
            &["membership", "assignor"],
        ),
        (
            json!({"url": url, "group": "g", "membership": {"rebalance_timeout": "1s"}}),
            &["membership", "rebalance_timeout"],
        ),
        (json!({"url": url, "prefetch": "1B"}), &["prefetch"]),
        (json!({"url": url, "discover": "1ms"}), &["discover"]),
    ];
    for (options, place) in &sources {
        assert_eq!(source_plan(options).unwrap_err().place().unwrap().path, *place, "{options}");
    }
    let sinks: [(Value, &[&str]); 8] = [
        (json!({"url": "kafka://a/t,u"}), &["url"]),
        (json!({"url": url, "acks": 2}), &["acks"]),
        (json!({"url": url, "acks": 1, "idempotent": true}), &["idempotent"]),
        (json!({"url": url, "partition": "some"}), &["partition"]),
        (json!({"url": url, "batch": {"count": 0}}), &["batch", "count"]),
        (json!({"url": url, "buffer": "1KiB"}), &["buffer"]),
        (json!({"url": url, "transaction_timeout": "1ms"}), &["transaction_timeout"]),
        (json!({"url": url, "checkpoint_topic": "a b"}), &["checkpoint_topic"]),
    ];
    for (options, place) in &sinks {
        assert_eq!(sink_plan(options).unwrap_err().place().unwrap().path, *place, "{options}");
    }
}

#[test]
fn nothing_shows_a_secret() {
    let options = json!({
        "url": "kafka://me:hidden-1@a/t", "tls": {"cert": "c", "key": "k", "key_password": "hidden-2"},
        "property": {"ssl.key.pem": "hidden-3"},
    });
    let plan = source_plan(&options);
    let text = format!("{plan:?} {:?}", plan.as_ref().map(|plan| plan.describe()));
    assert!(!text.contains("hidden-"), "{text}");
    let plan = sink_plan(&options);
    let text = format!(
        "{plan:?} {:?} {:?}",
        plan.as_ref().map(|plan| plan.describe()),
        plan.as_ref().map(|plan| plan.transaction())
    );
    assert!(!text.contains("hidden-"), "{text}");
}

/// An unsecured JWT, which a broker without more settings takes.
fn token(seconds: u64) -> String {
    let base64 = |text: String| {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let digits = |chunk: &[u8]| {
            let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            (0..=chunk.len()).map(move |i| DIGITS[(bits >> (18 - 6 * i)) as usize & 63] as char).collect::<Vec<_>>()
        };
        text.as_bytes().chunks(3).flat_map(digits).collect::<String>()
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({"sub": "alice", "iat": now, "exp": now + seconds});
    format!("{}.{}.", base64(json!({"alg": "none"}).to_string()), base64(claims.to_string()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bearer_token_comes_from_a_file_or_a_command() {
    let login = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"x\";";
    let kafka = millstream_testkit::servers::Kafka::setup()
        .property("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER")
        .property("listener.name.sasl.oauthbearer.sasl.jaas.config", login)
        .property("listener.name.sasl_tls.oauthbearer.sasl.jaas.config", login)
        .start()
        .unwrap();
    kafka.create_topic("tokens", 1, &[]);
    let url = format!("kafka://{}/tokens", kafka.bootstrap_of(Listener::Sasl));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), token(600)).unwrap();
    let from = [json!({"file": file.path()}), json!({"command": ["cat", file.path()]})];
    for (i, from) in from.iter().enumerate() {
        let door = json!({"url": url, "auth": {"token": from}});
        write_all("tokens", door.clone(), &values(i, i + 1)).await;
        assert_eq!(texts(&read_to_end("tokens", door).await), texts(&values(0, i + 1)));
    }
    for from in
        [json!({"command": ["echo", "no token of theirs"]}), json!({"command": ["false"]}), json!({"file": "/nowhere"})]
    {
        for error in refused(json!({"url": url, "auth": {"token": from}})).await {
            assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
        }
    }
}
