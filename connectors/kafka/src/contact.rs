//! Brokers for a client that has none left.
//!
//! A cluster that has just come back may say for a moment that it has no brokers. librdkafka 2.12 then lets go of those that it
//! knows, and its way back to the bootstrap servers has races: it may ask nobody any more, for ever (its issue 5301, open). So
//! whoever serves a client looks after it: one that has lost all its brokers gets the bootstrap servers again.

use std::{
    ffi::CString,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::client::Client;

use crate::{
    context::{Context, lock},
    native,
};

/// Between two looks at a client that has lost its brokers: at first, and at most. Seldom in the end, because librdkafka keeps
/// the bootstrap servers once more each time that it is given them.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(30);
/// So many looks in a row have to find a broker: an answer that is on its way may still say that there is none.
const LOOKS: u32 = 10;

/// Whether a client still has brokers.
pub(crate) struct Contact {
    /// The bootstrap servers; none if they cannot be named.
    servers: Option<CString>,
    /// It has lost them, and has not had some again for a while. The rest says more, under its lock.
    lost: AtomicBool,
    /// It has lost them at least once.
    once: AtomicBool,
    search: Mutex<Search>,
}

struct Search {
    look_at: Instant,
    wait: Duration,
    /// Looks in a row that have found a broker.
    found: u32,
}

impl Contact {
    pub(crate) fn new(servers: &str) -> Self {
        let search = Search { look_at: Instant::now(), wait: LOOK, found: 0 };
        let (lost, once) = (AtomicBool::new(false), AtomicBool::new(false));
        Contact { servers: CString::new(servers).ok(), lost, once, search: Mutex::new(search) }
    }

    /// The client says that all its brokers are down, or that it has none.
    pub(crate) fn lose(&self) {
        self.once.store(true, Ordering::Release);
        if !self.lost.swap(true, Ordering::AcqRel) {
            *lock(&self.search) = Search { look_at: Instant::now(), wait: LOOK, found: 0 };
        }
    }

    /// Whether the client has ever lost its brokers: then it may still know of some that are no more.
    pub(crate) fn was_lost(&self) -> bool {
        self.once.load(Ordering::Acquire)
    }

    /// Looks after the client: to be called by whoever serves its events, as often as that comes round. Waits for nothing.
    pub(crate) fn keep(&self, client: &Client<Context>) {
        if !self.lost.load(Ordering::Acquire) {
            return;
        }
        let (mut search, now) = (lock(&self.search), Instant::now());
        if now < search.look_at {
            return;
        }
        if native::has_broker(client) {
            (search.found, search.wait) = (search.found + 1, LOOK);
            search.look_at = now + LOOK;
            if search.found >= LOOKS {
                self.lost.store(false, Ordering::Release);
            }
        } else {
            search.look_at = now + search.wait;
            (search.found, search.wait) = (0, (search.wait * 2).min(LOOK_MAX));
            if let Some(servers) = &self.servers {
                native::add_brokers(client, servers);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        config::FromClientConfigAndContext as _,
        consumer::{BaseConsumer, Consumer as _},
        mocking::MockCluster,
    };
    use serde_json::json;

    use super::*;
    use crate::{
        options::{Address, KafkaSourceOptions},
        properties,
    };

    /// A client that knows only a server that is not there stands for one that has been told to forget the others.
    #[test]
    fn a_client_that_has_lost_its_brokers_finds_the_bootstrap_servers() {
        let cluster = MockCluster::new(1).unwrap();
        let url = format!("kafka://{}/x", cluster.bootstrap_servers());
        let options: KafkaSourceOptions = serde_json::from_value(json!({"url": url})).unwrap();
        let (access, mut config) = properties::source(&options, &Address::parse(&url).unwrap()).unwrap();
        config.set("bootstrap.servers", "127.0.0.1:1");
        let client = BaseConsumer::from_config_and_context(&config, Context::new(&access)).unwrap();
        let contact = &client.context().contact;
        let (client, began) = (&client, Instant::now());
        let turn = || {
            client.poll(Duration::from_millis(10));
            assert!(began.elapsed() < Duration::from_secs(60), "no contact");
        };
        while !contact.was_lost() {
            contact.keep(client.client());
            assert!(!native::has_broker(client.client()), "nobody is there");
            turn();
        }
        while !native::has_broker(client.client()) {
            contact.keep(client.client());
            turn();
        }
        // It is looked at for a while, and then left alone.
        while contact.lost.load(Ordering::Acquire) {
            contact.keep(client.client());
            turn();
        }
        assert!(lock(&contact.search).found >= LOOKS && native::has_broker(client.client()));
    }
}
