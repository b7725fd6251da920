//! Options as properties of librdkafka.

use std::{path::Path, time::Duration};

use millstream_core::{Error, ErrorKind, OnMissing, Result};
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};

use crate::options::{
    Acks, Address, Assignor, Isolation, KafkaAuth, KafkaSinkOptions, KafkaSourceOptions, KafkaTls, Mechanism,
    MembershipProtocol, PartitionBy, Properties, TokenFrom,
};

/// So long a record waits for others at most, unless somebody says how long: more than one request takes where much is written.
/// librdkafka 2.12 spins on a core as long as records are older than this and cannot be sent (its issues 2565 and 3692).
pub(crate) const GATHER_MAX: Duration = Duration::from_millis(50);

/// How a cluster is reached, out of any component's options.
#[derive(Clone)]
pub(crate) struct Access {
    /// The URL for people.
    pub(crate) shown: String,
    /// How long to wait for it.
    pub(crate) timeout: Duration,
    /// Where bearer tokens come from.
    pub(crate) token: Option<TokenFrom>,
    config: ClientConfig,
    property: Properties,
}

/// Shows the URL.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Access {
    fn new(
        address: &Address,
        tls: &Option<KafkaTls>,
        auth: &Option<KafkaAuth>,
        property: &Properties,
        timeout: Duration,
    ) -> Self {
        let auth = address.auth(auth);
        let encrypted = address.tls || tls.is_some();
        let mut config = ClientConfig::new();
        // Whoever names parts of the library to be watched sees what they say, at our own level `debug`.
        let watched = property.iter().any(|(name, _)| name == "debug");
        config.set_log_level(if watched { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        config.set("bootstrap.servers", &address.brokers).set("client.id", "millstream");
        config.set(
            "security.protocol",
            match (encrypted, auth.is_some()) {
                (false, false) => "plaintext",
                (true, false) => "ssl",
                (false, true) => "sasl_plaintext",
                (true, true) => "sasl_ssl",
            },
        );
        if encrypted {
            set_tls(&mut config, &tls.clone().unwrap_or(KafkaTls { verify: true, ..KafkaTls::default() }));
        }
        if let Some(auth) = &auth {
            config.set("sasl.mechanism", auth.mechanism().name());
            if auth.mechanism() != Mechanism::Oauthbearer {
                config.set("sasl.username", auth.user.clone().unwrap_or_default());
                config.set(
                    "sasl.password",
                    auth.password.as_ref().map(|secret| secret.expose().clone()).unwrap_or_default(),
                );
            }
        }
        // Seen quickly, tried again for ever.
        config.set("socket.connection.setup.timeout.ms", "5000").set("reconnect.backoff.max.ms", "2000");
        config.set("socket.nagle.disable", "true").set("socket.keepalive.enable", "true");
        let token = auth.and_then(|auth| auth.token);
        Access { shown: address.shown.clone(), timeout, token, config, property: property.clone() }
    }

    /// The bootstrap servers, as librdkafka wants them.
    pub(crate) fn brokers(&self) -> &str {
        self.config.get("bootstrap.servers").unwrap_or_default()
    }

    /// The properties common to all clients, with those that users gave and that suit any.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = self.config.clone();
        self.apply("", &mut config);
        config
    }

    /// Sets the properties that users gave, over our own; `role` is `consumer`, `producer` or neither.
    fn apply(&self, role: &str, config: &mut ClientConfig) {
        for (name, value) in self.property.iter().filter(|(name, _)| suits(name, role)) {
            config.set(name, value);
        }
    }

    /// Checks all of it without connecting.
    fn check(config: &ClientConfig) -> Result<()> {
        config.create_native_config().map(drop).map_err(|error| {
            let what = match &error {
                rdkafka::error::KafkaError::ClientConfig(_, what, name, _) => format!("`{name}` cannot be set: {what}"),
                other => other.to_string(),
            };
            Error::new(ErrorKind::Option, what)
        })
    }
}

/// Properties of the other role only give warnings; a client for metadata takes those that are neither's.
fn suits(name: &str, role: &str) -> bool {
    let of_producer = [
        "queue.buffering.",
        "linger",
        "batch",
        "compression",
        "transaction",
        "request.timeout.ms",
        "retries",
        "message.send.max.retries",
        "retry.backoff",
        "sticky.",
        "delivery",
        "max.in.flight",
    ];
    let of_consumer = [
        "fetch.",
        "queued.",
        "auto.commit",
        "heartbeat",
        "check.crcs",
        "max.partition",
        "coordinator.query",
        "group.",
        "consume.",
        "session.",
    ];
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    match role {
        "consumer" => !begins(&of_producer),
        "producer" => !begins(&of_consumer),
        _ => !begins(&of_producer) && !begins(&of_consumer),
    }
}

fn set_tls(config: &mut ClientConfig, tls: &KafkaTls) {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    // Without a file, the places where the operating system may keep its authorities are searched.
    config.set("ssl.ca.location", tls.ca.as_deref().map_or("probe".to_owned(), text));
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        config.set("ssl.certificate.location", text(cert)).set("ssl.key.location", text(key));
    }
    if let Some(password) = &tls.key_password {
        config.set("ssl.key.password", password.expose());
    }
    config.set("enable.ssl.certificate.verification", tls.verify.to_string());
    config.set("ssl.endpoint.identification.algorithm", if tls.verify { "https" } else { "none" });
}

fn ms(time: Duration) -> String {
    time.as_millis().to_string()
}

/// The consumer of a source, and how to reach its cluster.
pub(crate) fn source(options: &KafkaSourceOptions, address: &Address) -> Result<(Access, ClientConfig)> {
    let access = Access::new(address, &options.tls, &options.auth, &options.property, options.timeout.0);
    let mut config = access.config.clone();
    config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    config.set("enable.partition.eof", "true");
    // As Java's client does; librdkafka's own default hands out what it got.
    config.set("check.crcs", "true");
    config.set(
        "auto.offset.reset",
        match options.on_missing {
            OnMissing::Fail => "error",
            OnMissing::Beginning => "earliest",
            OnMissing::End => "latest",
        },
    );
    config.set("isolation.level", isolation(options.isolation));
    config.set("queued.max.messages.kbytes", (options.prefetch.0 / 1024).to_string());
    // A record costs about 200 bytes besides its own: so many that those are bounded like the records; but more than
    // librdkafka's own 100,000 were no faster.
    config.set("queued.min.messages", (options.prefetch.0 / 200).clamp(1000, 100_000).to_string());
    // By default a full queue is looked at again only after a second, in which we could have read it dozens of times.
    config.set("fetch.queue.backoff.ms", "10");
    config.set("topic.metadata.refresh.interval.ms", ms(options.discover.0));
    config.set("fetch.error.backoff.ms", "100");
    match &options.group {
        // Assigning partitions by hand takes a group in name only: nothing is ever committed to it.
        None => {
            config.set("group.id", "millstream-assigned");
        }
        Some(group) => {
            let membership = &options.membership;
            config.set("group.id", group);
            match membership.protocol {
                MembershipProtocol::Consumer => {
                    config.set("group.protocol", "consumer");
                }
                MembershipProtocol::Classic => {
                    config.set(
                        "partition.assignment.strategy",
                        match membership.assignor {
                            None | Some(Assignor::Cooperative) => "cooperative-sticky",
                            Some(Assignor::Range) => "range",
                            Some(Assignor::RoundRobin) => "roundrobin",
                        },
                    );
                    if let Some(timeout) = membership.session_timeout {
                        config.set("session.timeout.ms", ms(timeout.0));
                        config.set("heartbeat.interval.ms", ms((timeout.0 / 3).min(Duration::from_secs(3))));
                    }
                }
            }
            if let Some(instance) = &membership.instance {
                config.set("group.instance.id", instance);
            }
            let session = membership.session_timeout.map_or(Duration::from_secs(45), |timeout| timeout.0);
            let rebalance = membership.rebalance_timeout();
            if membership.protocol == MembershipProtocol::Classic && rebalance < session {
                return Err(Error::new(ErrorKind::Option, "giving partitions away may not take less than the session")
                    .hint("make `rebalance_timeout` at least as long as `session_timeout` (45 s if not given)")
                    .within("rebalance_timeout")
                    .within("membership"));
            }
            config.set("max.poll.interval.ms", ms(rebalance));
        }
    }
    access.apply("consumer", &mut config);
    Access::check(&config)?;
    Ok((access, config))
}

pub(crate) fn isolation(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "read_committed",
        Isolation::ReadUncommitted => "read_uncommitted",
    }
}

/// The producer of a sink, and how to reach its cluster.
pub(crate) fn sink(options: &KafkaSinkOptions, address: &Address) -> Result<(Access, ClientConfig)> {
    let access = Access::new(address, &options.tls, &options.auth, &options.property, options.timeout.0);
    let mut config = access.config.clone();
    config.set("acks", options.acks.name());
    config.set("enable.idempotence", options.idempotent().to_string());
    if !options.idempotent() {
        // Without idempotence a retry could overtake.
        config.set("max.in.flight.requests.per.connection", if options.acks == Acks::None { "1000" } else { "1" });
    }
    config.set(
        "partitioner",
        match options.partition {
            PartitionBy::Key => "murmur2_random",
            _ => "random",
        },
    );
    config.set("compression.type", options.compression.name());
    let linger = options.batch.linger.map_or(GATHER_MAX, |linger| linger.0);
    config.set("linger.ms", (linger.as_secs_f64() * 1e3).to_string());
    config.set("batch.num.messages", options.batch.count.to_string());
    config.set("batch.size", options.batch.bytes.0.to_string());
    config.set("queue.buffering.max.kbytes", (options.buffer.0 / 1024).to_string());
    // A record costs about 200 bytes besides its own: so many that those are bounded like the records.
    config.set("queue.buffering.max.messages", (options.buffer.0 / 200).max(1000).to_string());
    config.set("message.timeout.ms", ms(options.delivery_timeout.0));
    // Unknown topics are an error that a person should see, and they come soon.
    config.set("topic.metadata.propagation.max.ms", "10000");
    access.apply("producer", &mut config);
    Access::check(&config)?;
    Ok((access, config))
}
