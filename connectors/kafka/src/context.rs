//! What librdkafka tells a client beside the records: errors, rebalances, delivery reports, and the wish for a token.

use std::{
    collections::VecDeque,
    iter,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_core::{Error, ErrorKind};
use rdkafka::{
    ClientContext, TopicPartitionList,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::DeliveryResult,
    producer::ProducerContext,
    types::RDKafkaRespErr,
    util::Timeout,
};

use crate::{
    contact::Contact, error::coded, native::Message, options::TokenFrom, properties::Access, sink::ledger::Ledgers,
    token,
};

/// As long as that, trouble that says more is not replaced by trouble that says less.
const RECENT: Duration = Duration::from_secs(10);
/// How many partitions may change hands before we have answered the first change.
const REBALANCES_MAX: usize = 1024;

/// The one context of all our clients.
pub(crate) struct Context {
    shown: String,
    token: Option<TokenFrom>,
    /// How long the command for a token may take.
    timeout: Duration,
    trouble: Mutex<Option<Trouble>>,
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// Nobody is there to answer rebalances.
    closing: AtomicBool,
    pub(crate) contact: Contact,
    /// Where delivery reports go.
    pub(crate) ledgers: Arc<Ledgers>,
}

/// The newest trouble with the connection.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    code: Code,
    reason: String,
    at: Instant,
    /// No broker is left that could make up for it.
    all_down: bool,
}

/// Partitions that come, or go.
pub(crate) enum Rebalance {
    Assign(TopicPartitionList),
    Revoke(TopicPartitionList),
}

impl Context {
    pub(crate) fn new(access: &Access) -> Self {
        Context::sharing(access, Arc::default())
    }

    /// One whose delivery reports go into books that are there.
    pub(crate) fn sharing(access: &Access, ledgers: Arc<Ledgers>) -> Self {
        Context {
            shown: access.shown.clone(),
            token: access.token.clone(),
            timeout: access.timeout,
            trouble: Mutex::default(),
            rebalances: Mutex::default(),
            closing: AtomicBool::new(false),
            contact: Contact::new(access.brokers()),
            ledgers,
        }
    }

    /// The newest trouble that is not older than `age`, as an error.
    pub(crate) fn trouble(&self, age: Duration) -> Option<Error> {
        let trouble = lock(&self.trouble).clone()?;
        (trouble.at.elapsed() <= age).then(|| trouble.error(&self.shown))
    }

    /// Takes the newest trouble, so that it is told once; that of one broker, which others may make up for, is none.
    pub(crate) fn take_trouble(&self) -> Option<Error> {
        let trouble = lock(&self.trouble).take_if(|trouble| trouble.all_down || trouble.weight() > 1)?;
        Some(trouble.error(&self.shown))
    }

    /// Takes the oldest rebalance that is not answered.
    pub(crate) fn take_rebalance(&self) -> Option<Rebalance> {
        lock(&self.rebalances).pop_front()
    }

    /// From now on partitions are given away at once.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trouble {
    /// What does not get better by waiting says more than what does, and that more than that nobody is there.
    fn weight(&self) -> u8 {
        match self.code {
            Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL => 2,
            Code::AllBrokersDown => 0,
            _ => 1,
        }
    }

    fn error(&self, shown: &str) -> Error {
        let reason = std::io::Error::other(self.reason.clone());
        let says = |text: &str| self.reason.to_ascii_lowercase().contains(text);
        let what = format!("cannot connect to {shown}");
        match self.code {
            Code::SSL if says("wrong version number") || says("packet length too long") || says("plaintext") => {
                Error::new(ErrorKind::Option, what).hint("there is no TLS at that port: use `kafka://` without `tls`, or another port")
            }
            Code::SSL | Code::BrokerTransportFailure if says("certificate verify failed") || says("certificate") => {
                Error::new(ErrorKind::Permission, what)
                    .hint("give the authority that has signed the broker's certificate as `tls.ca`; check the broker's name")
            }
            Code::Authentication | Code::SaslAuthenticationFailed => {
                coded(what, Code::Authentication)
            }
            _ if says("plaintext broker listener") => Error::new(ErrorKind::Unavailable, what)
                .hint("the broker hung up: is there TLS at that port? If not, use `kafka://` without `tls`"),
            _ if says("security.protocol") || says("incorrect security") => {
                Error::new(ErrorKind::Unavailable, what)
                    .hint("the broker hung up at once: is it a port with TLS (`kafka+tls://`), or one that wants a user (`auth`)?")
            }
            Code::Resolve => Error::new(ErrorKind::Unavailable, what).hint("check the names of the brokers"),
            // They took the connection, and hung up.
            Code::AllBrokersDown | Code::BrokerTransportFailure if !says("refused") && !says("timed out") => Error::new(ErrorKind::Unavailable, what).hint(
                "check that the brokers run; one that hangs up at once may want TLS (`kafka+tls://`) or a user (`auth`)",
            ),
            code => coded(what, code),
        }
        .caused_by(reason)
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(url = self.shown, "librdkafka: {fac} {message}");
            }
            // What matters of these comes as an error, too.
            _ => tracing::debug!(url = self.shown, "librdkafka: {fac} {message}"),
        }
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(url = self.shown, %error, reason, "trouble");
        let Some(code) = error.rdkafka_error_code() else { return };
        let of_connection = matches!(
            code,
            Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::SSL
                | Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
        );
        if !of_connection {
            return;
        }
        let all_down = code == Code::AllBrokersDown;
        if all_down {
            self.contact.lose();
        }
        let trouble = Trouble { code, reason: reason.to_owned(), at: Instant::now(), all_down };
        let mut newest = lock(&self.trouble);
        match newest.as_mut().filter(|old| old.weight() > trouble.weight() && old.at.elapsed() < RECENT) {
            Some(old) => old.all_down |= all_down,
            None => *newest = Some(trouble),
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let from = self.token.as_ref().ok_or("no token is configured")?;
        token::read(from, self.timeout).map_err(|reason| {
            self.error(KafkaError::Global(Code::Authentication), &reason);
            reason.into()
        })
    }
}

impl ConsumerContext for Context {
    /// Only takes note: the thread that polls answers, a partition that goes when what was read of it is committed.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let mut rebalances = lock(&self.rebalances);
        let assigned = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) || rebalances.len() >= REBALANCES_MAX {
            rebalances.clear();
            let given = match (assigned, consumer.rebalance_protocol()) {
                (true, RebalanceProtocol::Cooperative) => Ok(()),
                (false, RebalanceProtocol::Cooperative) => consumer.incremental_unassign(partitions),
                _ => consumer.unassign(),
            };
            if let Err(error) = given {
                tracing::debug!(url = self.shown, %error, "giving partitions away failed");
            }
            return;
        }
        rebalances.push_back(match assigned {
            true => Rebalance::Assign(partitions.clone()),
            false => Rebalance::Revoke(partitions.clone()),
        });
    }

    fn main_queue_min_poll_interval(&self) -> Timeout {
        Timeout::After(Duration::from_millis(100))
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    /// Only while rdkafka itself waits for all of them.
    fn delivery(&self, result: &DeliveryResult<'_>, _: usize) {
        self.ledgers.settle(iter::once(Message::reported(result)));
    }
}
