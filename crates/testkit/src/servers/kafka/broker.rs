//! One broker: its folder, its files, its process.

use std::{collections::hash_map::RandomState, fs, hash::BuildHasher, time::Duration};

use super::{
    BrokerPorts, PLAIN_USER,
    install::Install,
    settings::{self, Settings},
};
use crate::servers::{Certificates, keeper::Keeper};

/// What a broker prints when it takes requests.
const READY: &str = "Kafka Server started";

/// One takes 1.5 s where nothing else runs, and some more when its session from before it was killed has to end; three take
/// 4 s. On a machine that builds something meanwhile, a multiple of that.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A broker, running or not.
#[derive(Debug)]
pub(super) struct Broker {
    keeper: Keeper,
    node: usize,
}

impl Broker {
    /// Writes its files.
    pub(super) fn new(
        keeper: Keeper,
        node: usize,
        ports: &[BrokerPorts],
        certificates: &Certificates,
        extra: &[(String, String)],
    ) -> Broker {
        let parts = [&certificates.server_key, &certificates.server, &certificates.authority];
        let parts =
            parts.map(|path| fs::read_to_string(path).unwrap_or_else(|error| panic!("no certificate: {error}")));
        let keystore = keeper.write("keystore.pem", &parts.concat()).display().to_string();
        let data = keeper.folder().join("data").display().to_string();
        let settings = Settings { node, ports, data, certificates, keystore, plain_user: PLAIN_USER, extra };
        keeper.write("server.properties", &settings.text());
        keeper.write("log4j2.properties", settings::LOGGING);
        Broker { keeper, node }
    }

    /// Does what the format tool does, without the second that it takes.
    pub(super) fn format(&self, install: &Install, cluster: &str) {
        let data = self.keeper.folder().join("data");
        let copied = fs::create_dir(&data)
            .and_then(|()| fs::copy(install.bootstrap_checkpoint(), data.join("bootstrap.checkpoint")));
        if let Err(error) = copied {
            panic!("cannot format `{}`: {error}", data.display());
        }
        self.keeper.write("data/meta.properties", &settings::storage_ids(cluster, self.node, &new_id()));
    }

    pub(super) fn start(&self, install: &Install) {
        let logging =
            format!("-Dlog4j2.configurationFile={}", self.keeper.folder().join("log4j2.properties").display());
        let flags = ["-Xms64m", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true", &logging];
        let mut command = install.java("server", &flags);
        command.extend(["kafka.Kafka".to_owned(), "server.properties".to_owned()]);
        self.keeper.start(&command);
    }

    pub(super) fn wait_until_ready(&self) {
        self.keeper.wait_for(READY, READY_WITHIN);
    }

    pub(super) fn pause(&self) {
        self.keeper.pause();
    }

    pub(super) fn resume(&self) {
        self.keeper.resume();
    }

    pub(super) fn kill(&self) {
        self.keeper.kill();
    }

    pub(super) fn stop(&self) {
        self.keeper.stop();
    }

    pub(super) fn responds(&self) -> bool {
        self.keeper.responds()
    }

    pub(super) fn log(&self) -> String {
        self.keeper.log()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.keeper.pid()
    }
}

/// A new id as Kafka writes it: 128 bits in 22 letters, the last of which holds only two of them.
pub(super) fn new_id() -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // The standard library's only source of randomness.
    let [high, low] = [0, 1].map(|half| RandomState::new().hash_one(half));
    let bits = u128::from(high) << 64 | u128::from(low);
    // An id must not begin like an option.
    let letter = |place: u32| char::from(LETTERS[(bits >> (6 * place)) as usize & 63]);
    let last = char::from(LETTERS[(bits >> 120) as usize & 0x30]);
    std::iter::once('M').chain((0..20).map(letter)).chain([last]).collect()
}
