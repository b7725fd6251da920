//! Options of the source.

use std::time::Duration;

use millstream_codec::CodecOptions;
use millstream_core::{OnMissing, Result, Secret, SeekTo, Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Address, KafkaAuth, KafkaTls, Properties, timeout, wrong};

/// Options of the source `kafka`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSourceOptions {
    /// The brokers and topics: `kafka://host:9092[,host:9092...]/topic[,topic...]`, or `kafka+tls://` for TLS.
    pub url: Secret<String>,
    /// A regular expression that names topics, instead of those in the URL: `^orders\..*`. New ones that match are found.
    pub pattern: Option<String>,
    /// Share the topics with the other members of this consumer group; it remembers the position. Without it all
    /// partitions are read here, and our checkpoint remembers.
    pub group: Option<String>,
    /// How this member takes part in its group.
    #[serde(default)]
    pub membership: KafkaMembership,
    /// Where to begin without a saved position: `beginning`, `end`, an offset, or a time such as 2026-01-02T03:04:05Z.
    pub start: Option<SeekTo>,
    /// What to do when the records at the saved position have expired or been cut off.
    #[serde(default)]
    pub on_missing: OnMissing,
    /// Whether to see records of transactions that are not committed.
    #[serde(default)]
    pub isolation: Isolation,
    /// How often to look for new partitions, new topics that match `pattern`, and topics that are gone.
    #[serde(default = "discover")]
    pub discover: Span,
    /// How much to read ahead.
    #[serde(default = "prefetch")]
    pub prefetch: Size,
    /// Whether to read headers. Librdkafka looks for them at a cost in each record, also where there are none.
    #[serde(default = "headers")]
    pub headers: bool,
    /// What the values are. By default `bytes`.
    pub codec: Option<CodecOptions>,
    /// How long to wait for a connection, and for an answer.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// TLS.
    pub tls: Option<KafkaTls>,
    /// Authentication.
    pub auth: Option<KafkaAuth>,
    /// Any property of librdkafka that has no option of its own.
    #[serde(default)]
    pub property: Properties,
}

/// How a member takes part in its group.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaMembership {
    /// The protocol. `consumer` is that of KIP-848: Kafka 4.0 or newer.
    #[serde(default)]
    pub protocol: MembershipProtocol,
    /// How partitions are shared out. By default `cooperative`, and with the protocol `consumer` what the broker says.
    pub assignor: Option<Assignor>,
    /// A name of this member that outlives it (static membership): its partitions wait for it over a restart.
    pub instance: Option<String>,
    /// How long the group waits for a member that is silent. By default 45 s; with the protocol `consumer` the broker says.
    pub session_timeout: Option<Span>,
    /// How long a member may take to give partitions away: to bring what it has read to an epoch. Then they go as they are, and
    /// what was read of them since the last epoch comes again, at their next owner. By default 5 min.
    pub rebalance_timeout: Option<Span>,
}

impl KafkaMembership {
    pub(crate) fn rebalance_timeout(&self) -> Duration {
        self.rebalance_timeout.map_or(Duration::from_secs(300), |timeout| timeout.0)
    }
}

/// A protocol of groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MembershipProtocol {
    /// A member shares the partitions out.
    #[default]
    Classic,
    /// The broker does (KIP-848).
    Consumer,
}

/// How partitions are shared out in the classic protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Assignor {
    /// Evenly, and only those that move are given away (`cooperative-sticky`).
    Cooperative,
    /// Neighbouring partitions of each topic; all are given away at each rebalance.
    Range,
    /// One after the other; all are given away at each rebalance.
    RoundRobin,
}

/// Whether to see records of transactions that are not committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Only those that are committed.
    #[default]
    ReadCommitted,
    /// All, also those that are aborted later.
    ReadUncommitted,
}

/// Often enough for a person who has just added a partition, and nothing to a broker.
fn discover() -> Span {
    Span(Duration::from_secs(30))
}

/// What librdkafka takes by default, too: half a second of a fast network.
fn prefetch() -> Size {
    Size(64 << 20)
}

/// Nothing of a record is left out unless somebody says so.
fn headers() -> bool {
    true
}

impl KafkaSourceOptions {
    /// What can be said without connecting.
    pub(crate) fn validate(&self) -> Result<Address> {
        let address = Address::parse(self.url.expose()).map_err(|error| error.within("url"))?;
        match (&self.pattern, address.topics.is_empty()) {
            (None, true) => {
                return Err(wrong("url", "no topic is named", "write `kafka://host:9092/topic`, or give a `pattern`"));
            }
            (Some(_), false) => {
                return Err(wrong("pattern", "topics are named twice", "leave `pattern` or the topics of the URL out"));
            }
            (Some(pattern), true) if !pattern.starts_with('^') => {
                return Err(wrong("pattern", "a pattern begins with `^`", "write `^orders\\..*`, say"));
            }
            (Some(pattern), true) => {
                regex::Regex::new(pattern).map_err(|error| {
                    wrong("pattern", format!("`{pattern}` is no regular expression"), "see docs.rs/regex")
                        .caused_by(error)
                })?;
            }
            (None, false) => {}
        }
        self.validate_group()?;
        if self.discover.0 < Duration::from_millis(100) {
            return Err(wrong(
                "discover",
                "looking more often than every 100 ms only burdens the brokers",
                "write `30s`, say",
            ));
        }
        if self.prefetch.0 < 1 << 20 || self.prefetch.0 > 2 << 30 {
            return Err(wrong("prefetch", "reading ahead takes from 1 MiB to 2 GiB", "write `64MiB`, say"));
        }
        address.validate(&self.tls, &self.auth, self.timeout)?;
        self.property.validate()?;
        Ok(address)
    }

    fn validate_group(&self) -> Result<()> {
        let membership = &self.membership;
        let given = membership.assignor.is_some()
            || membership.instance.is_some()
            || membership.session_timeout.is_some()
            || membership.rebalance_timeout.is_some()
            || membership.protocol != MembershipProtocol::Classic;
        match &self.group {
            None if given => return Err(wrong("membership", "there is no group to take part in", "give `group`")),
            None if self.start == Some(SeekTo::Committed) => {
                return Err(wrong(
                    "start",
                    "only a group knows what was committed",
                    "give `group`, or leave `start` out",
                ));
            }
            Some(group) if group.is_empty() || group.contains('\0') => {
                return Err(wrong("group", "the name of the group is empty", "name the group"));
            }
            _ => {}
        }
        if membership.protocol == MembershipProtocol::Consumer {
            let wrong = |option: &str| {
                let hint = "leave it out; a broker's `group.consumer.*` settings say it for the protocol `consumer`";
                Err(wrong(option, "here the broker decides", hint).within("membership"))
            };
            if membership.assignor.is_some() {
                return wrong("assignor");
            }
            if membership.session_timeout.is_some() {
                return wrong("session_timeout");
            }
        }
        Ok(())
    }
}
