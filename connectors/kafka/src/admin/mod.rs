//! Questions of an administrator to a cluster, and setting a group back: what `millstream kafka` shows and does.
//!
//! ```no_run
//! # async fn example() -> millstream_core::Result<()> {
//! let admin = millstream_kafka::admin::KafkaAdmin::new(&serde_json::json!({"url": "kafka://localhost:9092"}))?;
//! for partition in admin.lag("billing", &[]).await? {
//!     println!("{}/{}: {:?} behind", partition.topic, partition.partition, partition.lag);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here joins a group. Each call connects anew, fails within the option `timeout` where nobody answers, and is
//! finished on a thread of its own if its future is dropped.

mod groups;
mod reset;
mod topics;

use millstream_core::{Error, ErrorKind, Result, parse_options};
use serde_json::Value;

pub use groups::{Group, Groups, Member, PartitionLag};
pub use reset::{PartitionReset, ResetOf};
pub use topics::{PartitionInfo, TopicInfo};

use crate::{
    client::{Cluster, blocking},
    options::{Address, KafkaSourceOptions, wrong},
    properties::{self, Access},
};

/// A cluster, as an administrator sees it.
#[derive(Clone, Debug)]
pub struct KafkaAdmin {
    access: Access,
    topics: Vec<String>,
    pattern: Option<regex::Regex>,
}

impl KafkaAdmin {
    /// From options of the source `kafka`, of which only those count that say where the cluster is and how to talk to it;
    /// the URL may name topics, and need not. No I/O.
    pub fn new(options: &Value) -> Result<Self> {
        let options: KafkaSourceOptions = parse_options(options)?;
        let address = Address::parse(options.url.expose()).map_err(|error| error.within("url"))?;
        address.validate(&options.tls, &options.auth, options.timeout)?;
        options.property.validate()?;
        let pattern = options.pattern.as_deref().map(|pattern| {
            regex::Regex::new(pattern).map_err(|error| {
                wrong("pattern", format!("`{pattern}` is no regular expression"), "see docs.rs/regex").caused_by(error)
            })
        });
        let (pattern, topics) = (pattern.transpose()?, address.topics.clone());
        // Nobody is to become a member here.
        let options = KafkaSourceOptions { group: None, ..options };
        let (access, _) = properties::source(&options, &address)?;
        Ok(KafkaAdmin { access, topics, pattern })
    }

    /// The URL for people.
    pub fn shown(&self) -> &str {
        &self.access.shown
    }

    /// The topics that the URL names.
    pub fn topics_of_url(&self) -> &[String] {
        &self.topics
    }

    /// Connects, in the name of a group where one is asked about, and works on a thread that may block.
    async fn with<T: Send + 'static>(
        &self,
        group: Option<&str>,
        work: impl FnOnce(&Cluster) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut config = self.access.client();
        // As Kafka's own tools count: up to the newest record, also of transactions that are open.
        config.set("isolation.level", "read_uncommitted").set("enable.auto.commit", "false");
        // No request outlasts what a person waits for; librdkafka wants more than a second.
        let patience = self.access.timeout.as_millis().max(2000);
        config.set("socket.timeout.ms", patience.to_string());
        // A consumer needs a name, even one that commits nothing.
        config.set("group.id", group.unwrap_or("millstream-admin"));
        let access = self.access.clone();
        blocking(move || {
            let cluster = Cluster::new(&access, &config)?;
            cluster.connect()?;
            work(&cluster)
        })
        .await?
    }
}

/// There is no such group.
fn no_group(group: &str, shown: &str, known: &[String]) -> Error {
    let error = Error::new(ErrorKind::NotFound, format!("there is no group `{group}` at {shown}"));
    let hint = millstream_core::suggest(group, known);
    error.hint(hint.unwrap_or_else(|| "`millstream kafka groups URL` lists those that are there".to_owned()))
}
