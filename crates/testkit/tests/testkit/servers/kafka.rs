use std::{
    fs,
    io::Write,
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use millstream_testkit::{
    servers::{Flow, Kafka, Listener, Missing, NewTopic, PLAIN_USER, SCRAM_USER},
    started,
};

/// A foreign client.
struct Kcat<'a>(&'a Kafka, Listener, &'a [&'a str]);

impl Kcat<'_> {
    fn run(&self, arguments: &[&str], input: &str) -> String {
        let Kcat(kafka, listener, options) = self;
        let mut kcat = Command::new("kcat");
        kcat.args(["-b", &kafka.bootstrap_of(*listener)]).args(*options).args(arguments);
        let mut child = kcat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "kcat failed");
        String::from_utf8(output.stdout).unwrap()
    }

    fn produce(&self, topic: &str, lines: &str) {
        self.run(&["-P", "-t", topic, "-X", "message.timeout.ms=20000"], lines);
    }

    fn consume(&self, topic: &str) -> String {
        self.run(&["-C", "-q", "-e", "-o", "beginning", "-t", topic], "")
    }
}

fn kcat() -> Result<(), Missing> {
    Missing::unless_installed("kcat", "kcat")
}

#[test]
fn what_is_written_at_one_door_is_read_at_all() {
    started!(kcat());
    let kafka = started!(Kafka::shared());
    kafka.create_topic("doors", 1, &[]);
    Kcat(kafka, Listener::Plain, &[]).produce("doors", "a\nb\n");
    let authority = format!("ssl.ca.location={}", kafka.certificates().authority.display());
    let (user, password) = (format!("sasl.username={}", PLAIN_USER.0), format!("sasl.password={}", PLAIN_USER.1));
    let sasl = ["-X", "sasl.mechanism=PLAIN", "-X", &user, "-X", &password, "-X", &authority, "-X"];
    let with = |protocol| [sasl.as_slice(), &[protocol]].concat();
    assert_eq!(Kcat(kafka, Listener::Sasl, &with("security.protocol=sasl_plaintext")).consume("doors"), "a\nb\n");
    assert_eq!(Kcat(kafka, Listener::SaslTls, &with("security.protocol=sasl_ssl")).consume("doors"), "a\nb\n");
    let tls = ["-X", "security.protocol=ssl", "-X", &authority];
    assert_eq!(Kcat(kafka, Listener::Tls, &tls).consume("doors"), "a\nb\n");
}

#[test]
fn scram_lets_in_who_knows_the_password() {
    let kafka = started!(Kafka::shared());
    // Debian's kcat cannot do it: its librdkafka adds the server's nonce twice, which brokers refuse since CVE-2024-56128.
    for bits in [256, 512] {
        let (user, password) = SCRAM_USER;
        let module = "org.apache.kafka.common.security.scram.ScramLoginModule";
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("client.properties");
        let text = format!(
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=SCRAM-SHA-{bits}\n\
             sasl.jaas.config={module} required username=\"{user}\" password=\"{password}\";\n"
        );
        fs::write(&config, text).unwrap();
        let sasl = kafka.bootstrap_of(Listener::Sasl);
        kafka.tool(
            "kafka-topics",
            &["--bootstrap-server", &sasl, "--command-config", config.to_str().unwrap(), "--list"],
        );
    }
}

#[test]
fn topics_are_made_and_deleted_in_no_time() {
    let kafka = started!(Kafka::shared());
    let began = Instant::now();
    let topics = ["one", "two"].map(|name| NewTopic::new(name, 3).config("cleanup.policy", "compact"));
    kafka.create_topics(&topics);
    assert_eq!(kafka.leader("one", 2), Some(1));
    kafka.delete_topic("one");
    assert_eq!(kafka.leader("one", 2), None);
    println!("{:?}", began.elapsed());
    let described = kafka.tool("kafka-topics", &["--describe", "--topic", "two"]);
    assert!(described.contains("PartitionCount: 3") && described.contains("cleanup.policy=compact"), "{described}");
    let began = Instant::now();
    assert!(kafka.tool("kafka-consumer-groups", &["--list"]).is_empty());
    println!("a tool: {:?}", began.elapsed());
}

#[test]
fn a_broker_can_be_killed_and_started_again() {
    started!(kcat());
    let kafka = started!(Kafka::start());
    kafka.create_topic("kept", 1, &[]);
    let kcat = Kcat(&kafka, Listener::Plain, &[]);
    kcat.produce("kept", "a\n");
    kafka.kill(1);
    assert!(TcpStream::connect(kafka.bootstrap()).is_err());
    let began = Instant::now();
    kafka.restart(1);
    println!("again after {:?}", began.elapsed());
    assert_eq!(kcat.consume("kept"), "a\n");
    kafka.pause(1);
    kafka.resume(1);
    kafka.stop(1);
    assert!(kafka.log(1).contains("shut down completed"), "{}", kafka.log(1));
}

#[test]
fn a_proxy_stands_between_a_broker_and_its_clients() {
    started!(kcat());
    let kafka = started!(Kafka::setup().proxied().start());
    kafka.create_topic("far", 1, &[]);
    let kcat = Kcat(&kafka, Listener::Proxied, &[]);
    kcat.produce("far", "a\nb\n");
    assert!(kafka.proxy(1).passed(Flow::ToServer) > 0);
    let known = kcat.run(&["-L"], "");
    assert!(known.contains(&format!("at {}", kafka.proxy(1).address())), "{known}");
    let before = kafka.proxy(1).passed(Flow::ToClient);
    assert_eq!(kcat.consume("far"), "a\nb\n");
    assert!(kafka.proxy(1).passed(Flow::ToClient) > before);
    kafka.proxy(1).refuse();
    assert!(TcpStream::connect(kafka.bootstrap_of(Listener::Proxied)).is_err());
    assert_eq!(Kcat(&kafka, Listener::Plain, &[]).consume("far"), "a\nb\n");
}

#[test]
fn three_brokers_change_their_leader() {
    started!(kcat());
    let began = Instant::now();
    let kafka = started!(Kafka::setup().brokers(3).start());
    println!("three after {:?}", began.elapsed());
    kafka.create_topic("led", 1, &[]);
    kafka.wait_for_in_sync("led", 3);
    let kcat = Kcat(&kafka, Listener::Plain, &[]);
    kcat.produce("led", "a\n");
    let old = kafka.leader("led", 0).unwrap();
    kafka.kill(old);
    let killed = Instant::now();
    let new = kafka.wait_for_leader_other_than(old, "led", 0);
    println!("led by {new} after {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(20));
    kcat.produce("led", "b\n");
    kafka.restart(old);
    kafka.wait_for_in_sync("led", 3);
    assert_eq!(kcat.consume("led"), "a\nb\n");
}

#[test]
fn it_is_gone_when_dropped() {
    let kafka = started!(Kafka::start());
    let (pid, address) = (kafka.pid(1).unwrap(), kafka.bootstrap());
    drop(kafka);
    assert!(TcpStream::connect(address).is_err());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
