//! Kafka: one broker or three, in KRaft mode.

mod broker;
mod install;
mod requests;
mod settings;
mod tool;
mod topics;

use std::{path::PathBuf, sync::OnceLock};

use self::{broker::Broker, install::Install};
use super::{Certificates, Missing, Port, Proxy, keeper::Keeper};

pub use self::requests::NewTopic;

/// A user of SASL PLAIN, and the password.
pub const PLAIN_USER: (&str, &str) = ("alice", "alice-secret");

/// A user of SASL SCRAM-SHA-256 and SCRAM-SHA-512, and the password. As in `install.sh`.
pub const SCRAM_USER: (&str, &str) = ("bob", "bob-secret");

/// A door of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Plain text, no user.
    Plain,
    /// Plain text, and users with PLAIN or SCRAM.
    Sasl,
    /// TLS; a client may show its certificate.
    Tls,
    /// TLS, and users with PLAIN or SCRAM.
    SaslTls,
    /// Plain text, advertised at a [`Proxy`]; only with [`KafkaSetup::proxied`].
    Proxied,
}

impl Listener {
    fn name(self) -> &'static str {
        match self {
            Listener::Plain => "PLAINTEXT",
            Listener::Sasl => "SASL",
            Listener::Tls => "TLS",
            Listener::SaslTls => "SASL_TLS",
            Listener::Proxied => "PROXIED",
        }
    }
}

/// A cluster of Kafka brokers, which are its controllers too; numbered from 1. Ends when it is dropped, or when the test does.
///
/// ```no_run
/// # use millstream_testkit::{servers::Kafka, started};
/// let kafka = started!(Kafka::shared());
/// kafka.create_topic("orders", 3, &[]);
/// println!("bootstrap.servers={}", kafka.bootstrap());
/// ```
#[derive(Debug)]
pub struct Kafka {
    install: Install,
    brokers: Vec<Broker>,
    proxies: Vec<Proxy>,
    ports: Vec<BrokerPorts>,
    certificates: Certificates,
    tool_logging: PathBuf,
}

/// How a cluster is set up; the default is one broker.
#[derive(Clone, Debug)]
pub struct KafkaSetup {
    brokers: usize,
    proxied: bool,
    properties: Vec<(String, String)>,
}

/// The ports of a broker, which it keeps over restarts.
#[derive(Debug)]
struct BrokerPorts {
    controller: Port,
    listeners: Vec<(Listener, Port)>,
    /// Where the proxy listens, if there is one.
    proxy: Option<Port>,
}

impl BrokerPorts {
    fn claim(proxied: bool) -> BrokerPorts {
        let mut listeners = vec![Listener::Plain, Listener::Sasl, Listener::Tls, Listener::SaslTls];
        listeners.extend(proxied.then_some(Listener::Proxied));
        BrokerPorts {
            controller: Port::claim(),
            listeners: listeners.into_iter().map(|listener| (listener, Port::claim())).collect(),
            proxy: proxied.then(Port::claim),
        }
    }

    fn port(&self, listener: Listener) -> &Port {
        let found = self.listeners.iter().find(|(other, _)| *other == listener);
        found
            .map(|(_, port)| port)
            .unwrap_or_else(|| panic!("it has no proxies; start it with `Kafka::setup().proxied()`"))
    }

    /// Where clients should connect to.
    fn advertised(&self, listener: Listener) -> &Port {
        match (listener, &self.proxy) {
            (Listener::Proxied, Some(proxy)) => proxy,
            _ => self.port(listener),
        }
    }
}

impl Kafka {
    /// The one broker that all tests of this process share; use topics and groups of your own, and leave it running.
    pub fn shared() -> Result<&'static Kafka, Missing> {
        static SHARED: OnceLock<Result<Kafka, Missing>> = OnceLock::new();
        SHARED.get_or_init(|| Kafka::setup().patient().start()).as_ref().map_err(Clone::clone)
    }

    /// Starts one broker, for faults.
    pub fn start() -> Result<Kafka, Missing> {
        Kafka::setup().start()
    }

    /// Starts something else: `Kafka::setup().brokers(3).start()`.
    pub fn setup() -> KafkaSetup {
        KafkaSetup { brokers: 1, proxied: false, properties: Vec::new() }
    }

    /// The addresses of all brokers without TLS and users, for `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        self.bootstrap_of(Listener::Plain)
    }

    /// The addresses of all brokers at one of their doors, for `bootstrap.servers`.
    pub fn bootstrap_of(&self, listener: Listener) -> String {
        let addresses: Vec<_> = self.ports.iter().map(|ports| ports.advertised(listener).address()).collect();
        addresses.join(",")
    }

    /// `127.0.0.1:PORT` of one broker at one of its doors.
    pub fn address(&self, broker: usize, listener: Listener) -> String {
        self.ports[broker - 1].advertised(listener).address()
    }

    /// The certificates of the doors with TLS.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// The proxy in front of a broker, for faults between it and its clients; other brokers go around it.
    pub fn proxy(&self, broker: usize) -> &Proxy {
        let proxy = self.proxies.get(broker - 1);
        proxy.unwrap_or_else(|| panic!("it has no proxies; start it with `Kafka::setup().proxied()`"))
    }

    /// The numbers of its brokers.
    pub fn brokers(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.brokers.len()
    }

    /// What a broker has printed since it was last started.
    pub fn log(&self, broker: usize) -> String {
        self.broker(broker).log()
    }

    /// The process id of a broker, while it is running.
    pub fn pid(&self, broker: usize) -> Option<u32> {
        self.broker(broker).pid()
    }

    /// Makes a broker stand still (SIGSTOP): connections stay open, nothing answers, and after 3 s others lead its partitions
    /// (unless the controllers are [`patient`](KafkaSetup::patient)).
    pub fn pause(&self, broker: usize) {
        self.broker(broker).pause();
    }

    /// Lets a broker go on after `pause`.
    pub fn resume(&self, broker: usize) {
        self.broker(broker).resume();
    }

    /// Kills a broker (SIGKILL); when this returns, its ports refuse connections.
    pub fn kill(&self, broker: usize) {
        self.broker(broker).kill();
    }

    /// Ends a broker in good order (SIGTERM): it hands over what it leads first.
    pub fn stop(&self, broker: usize) {
        self.broker(broker).stop();
    }

    /// Kills a broker if it is running, and starts it again on the same ports and data; waits until it is ready, for
    /// which most of the brokers must be running.
    pub fn restart(&self, broker: usize) {
        let broker = self.broker(broker);
        broker.kill();
        broker.start(&self.install);
        broker.wait_until_ready();
    }

    /// Kills all brokers that are running, and starts all again: one alone would wait for the others.
    pub fn restart_all(&self) {
        self.brokers.iter().for_each(Broker::kill);
        self.brokers.iter().for_each(|broker| broker.start(&self.install));
        self.brokers.iter().for_each(Broker::wait_until_ready);
    }

    fn broker(&self, number: usize) -> &Broker {
        number.checked_sub(1).and_then(|index| self.brokers.get(index)).unwrap_or_else(|| {
            panic!("there is no broker {number}; they are numbered from 1 to {}", self.brokers.len())
        })
    }
}

impl KafkaSetup {
    /// With so many brokers: one or three.
    pub fn brokers(mut self, count: usize) -> Self {
        self.brokers = count;
        self
    }

    /// With a [`Proxy`] in front of each broker, at [`Listener::Proxied`].
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// With controllers that wait a minute before they take a broker for dead. One broker is its own controller: when it stands
    /// still, or has little of the machine, for longer than that, its partitions have no leader for a moment. Clients then lose
    /// all their brokers, and Kafka 4.3 forgets what a transaction that is committed at this moment has written ("these
    /// partitions are likely deleted already"). [`Kafka::restart`] takes as long, too.
    pub fn patient(self) -> Self {
        self.property("broker.session.timeout.ms", "60000")
    }

    /// With a property of the brokers: `property("message.max.bytes", "100000")`.
    pub fn property(mut self, name: &str, value: &str) -> Self {
        self.properties.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it, and waits until all brokers are ready.
    pub fn start(self) -> Result<Kafka, Missing> {
        Missing::any(&[("java", "default-jre-headless"), ("openssl", "openssl")])?;
        let install = Install::find()?;
        let ports: Vec<_> = (0..self.brokers).map(|_| BrokerPorts::claim(self.proxied)).collect();
        let keepers: Vec<_> = ports.iter().map(|_| Keeper::new("kafka")).collect();
        let certificates = Certificates::make(keepers[0].folder());
        let tool_logging = keepers[0].write("tool-log4j2.properties", settings::TOOL_LOGGING);
        let cluster = broker::new_id();
        let brokers: Vec<_> = keepers
            .into_iter()
            .zip(1..)
            .map(|(keeper, node)| {
                let broker = Broker::new(keeper, node, &ports, &certificates, &self.properties);
                broker.format(&install, &cluster);
                broker.start(&install);
                broker
            })
            .collect();
        brokers.iter().for_each(Broker::wait_until_ready);
        let proxied = ports.iter().filter_map(|ports| Some((ports.proxy.as_ref()?, ports.port(Listener::Proxied))));
        let proxies = proxied.map(|(proxy, target)| Proxy::at(proxy.number(), &target.address())).collect();
        Ok(Kafka { install, brokers, proxies, ports, certificates, tool_logging })
    }
}
