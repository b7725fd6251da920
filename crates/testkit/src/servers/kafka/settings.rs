//! The files that a broker starts from.

use std::fmt::Write as _;

use super::{BrokerPorts, Listener};
use crate::servers::Certificates;

/// What prints the broker's log, where we wait for the line that says it is ready.
pub(super) const LOGGING: &str = "\
status=error
appender.c.type=Console
appender.c.name=C
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=[%d] %p %m (%c{1})%n
rootLogger.level=INFO
rootLogger.appenderRef.c.ref=C
";

/// The same for tools: what they say on standard output is the answer.
pub(super) const TOOL_LOGGING: &str = "\
status=error
appender.c.type=Console
appender.c.name=C
appender.c.target=SYSTEM_ERR
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=WARN
rootLogger.appenderRef.c.ref=C
";

/// What does not depend on the node. Leaders change within 4 s of a broker's end, a start waits for nothing, little is allocated
/// for topics that are small, and records stay, also those whose time is years ago.
const FIXED: &str = "\
process.roles=broker,controller
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,SASL_TLS:SASL_SSL
num.partitions=1
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=1
auto.create.topics.enable=true
delete.topic.enable=true
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=1
log.cleaner.dedupe.buffer.size=16777216
log.index.size.max.bytes=1048576
log.segment.bytes=268435456
log.retention.ms=-1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
controlled.shutdown.max.retries=1
controller.quorum.election.timeout.ms=500
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
";

/// What a broker's properties are made of.
pub(super) struct Settings<'a> {
    /// From 1.
    pub(super) node: usize,
    /// Of all brokers.
    pub(super) ports: &'a [BrokerPorts],
    /// Where the broker keeps its log.
    pub(super) data: String,
    pub(super) certificates: &'a Certificates,
    /// The broker's key and certificates in one file.
    pub(super) keystore: String,
    /// Name and password of a user of PLAIN.
    pub(super) plain_user: (&'a str, &'a str),
    /// Properties that come last, and so win.
    pub(super) extra: &'a [(String, String)],
}

impl Settings<'_> {
    /// The text of `server.properties`.
    pub(super) fn text(&self) -> String {
        let own = &self.ports[self.node - 1];
        let mut text = FIXED.to_owned();
        let mut set = |name: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}={value}");
        };
        let voters = self.ports.iter().enumerate();
        let voters: Vec<_> = voters.map(|(i, ports)| format!("{}@{}", i + 1, ports.controller.address())).collect();
        let mut listens = vec![format!("CONTROLLER://{}", own.controller.address())];
        let mut advertised = Vec::new();
        for (listener, port) in &own.listeners {
            listens.push(format!("{}://{}", listener.name(), port.address()));
            advertised.push(format!("{}://{}", listener.name(), own.advertised(*listener).address()));
        }
        set("node.id", self.node.to_string());
        set("controller.quorum.voters", voters.join(","));
        set("listeners", listens.join(","));
        set("advertised.listeners", advertised.join(","));
        set("log.dirs", self.data.clone());

        let copies = self.ports.len().min(3);
        let in_sync = if copies > 2 { 2 } else { 1 };
        for topic in ["offsets.topic", "transaction.state.log", "share.coordinator.state.topic", "default"] {
            set(&format!("{topic}.replication.factor"), copies.to_string());
        }
        for topic in ["transaction.state.log", "share.coordinator.state.topic"] {
            set(&format!("{topic}.min.isr"), in_sync.to_string());
        }
        set("min.insync.replicas", in_sync.to_string());

        let (user, password) = self.plain_user;
        for listener in [Listener::Sasl, Listener::SaslTls].map(|listener| listener.name().to_lowercase()) {
            let module = "org.apache.kafka.common.security";
            let plain = format!("{module}.plain.PlainLoginModule required user_{user}=\"{password}\";");
            set(&format!("listener.name.{listener}.plain.sasl.jaas.config"), plain);
            for bits in [256, 512] {
                let scram = format!("{module}.scram.ScramLoginModule required;");
                set(&format!("listener.name.{listener}.scram-sha-{bits}.sasl.jaas.config"), scram);
            }
        }
        for listener in [Listener::Tls, Listener::SaslTls].map(|listener| listener.name().to_lowercase()) {
            let mut tls =
                |name: &str, value: &str| set(&format!("listener.name.{listener}.ssl.{name}"), value.to_owned());
            tls("keystore.type", "PEM");
            tls("keystore.location", &self.keystore);
            tls("truststore.type", "PEM");
            tls("truststore.location", &self.certificates.authority.display().to_string());
            tls("client.auth", "requested");
        }
        for (name, value) in self.extra {
            set(name, value.clone());
        }
        text
    }
}

/// `meta.properties`: the ids of a formatted storage. `cluster` and `folder` are ids of 22 letters.
pub(super) fn storage_ids(cluster: &str, node: usize, folder: &str) -> String {
    format!("version=1\ncluster.id={cluster}\nnode.id={node}\ndirectory.id={folder}\n")
}
