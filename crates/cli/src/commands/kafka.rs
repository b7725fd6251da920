//! `millstream kafka topics|groups|lag|reset URL`

mod groups;
mod lag;
mod reset;
mod topics;

use clap::{Args, Subcommand};
use millstream::{admin::kafka::KafkaAdmin, core::Result};

use crate::{exit::Outcome, system, talk::Talk};

/// Look at topics and groups of Kafka or Redpanda, and set groups back.
#[derive(Debug, Args)]
pub(crate) struct KafkaCommand {
    #[command(subcommand)]
    what: What,
}

/// Each tells in its own file what it does.
#[derive(Debug, Subcommand)]
enum What {
    Topics(topics::Topics),
    Groups(groups::Groups),
    Lag(lag::Lag),
    Reset(reset::Reset),
}

/// Which cluster.
#[derive(Debug, Args)]
struct Cluster {
    /// The cluster: `kafka://[user:password@]host[:9092][,host...]`, with or without `/topic[,topic]`; TLS as `kafka+tls:`
    url: String,
    /// An option of the connection, such as `-o tls.ca=ca.pem` or `-o auth.mechanism=scram-sha-512`
    #[arg(short, value_name = "NAME=VALUE")]
    o: Vec<String>,
}

impl Cluster {
    fn admin(&self) -> Result<KafkaAdmin> {
        KafkaAdmin::new(&system::options("kafka", "kafka://host:9092/topic", &self.url, &self.o)?)
    }
}

impl KafkaCommand {
    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        match self.what {
            What::Topics(command) => command.execute(),
            What::Groups(command) => command.execute(talk),
            What::Lag(command) => command.execute(talk),
            What::Reset(command) => command.execute(talk),
        }
    }
}

/// A number that may be negative.
fn signed(number: i64) -> String {
    let digits = crate::count::thousands(number.unsigned_abs());
    if number < 0 { format!("-{digits}") } else { digits }
}
