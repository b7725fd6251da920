//! `millstream kafka lag URL --group G`

use clap::Args;
use millstream::admin::kafka::PartitionLag;
use serde_json::{Value, json};

use super::{Cluster, signed};
use crate::{
    count::thousands,
    exit::{Exit, Outcome},
    output,
    system::{self, or_unknown},
    table::Table,
    talk::Talk,
};

/// How far a group is behind, by partition
///
/// Of all topics that it has committed something of or that its members read; of all partitions of a topic that is named.
#[derive(Debug, Args)]
pub(super) struct Lag {
    #[command(flatten)]
    cluster: Cluster,
    /// The group
    #[arg(long, value_name = "NAME")]
    group: String,
    /// Only this topic; may be given several times
    #[arg(long, value_name = "NAME")]
    topic: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Lag {
    pub(super) fn execute(self, talk: &Talk) -> Outcome {
        let admin = self.cluster.admin()?;
        let lags = system::wait(admin.lag(&self.group, &self.topic))??;
        output::print(&match self.json {
            true => format!("{:#}", lags.iter().map(object).collect::<Value>()),
            false => table(&lags).render(),
        })?;
        if !self.json {
            let behind: u64 = lags.iter().filter_map(|partition| partition.lag).sum();
            talk.say(&format!("{}: {} records behind", self.group, thousands(behind)));
        }
        Ok(Exit::Done)
    }
}

fn table(lags: &[PartitionLag]) -> Table {
    let mut table = Table::new(&["TOPIC", ">PARTITION", ">COMMITTED", ">END", ">LAG", "MEMBER"]);
    for partition in lags {
        table.row([
            partition.topic.clone(),
            partition.partition.to_string(),
            partition.committed.map_or("none".to_owned(), signed),
            signed(partition.end),
            or_unknown(partition.lag),
            partition.member.as_ref().map_or(String::new(), |member| format!("{} at {}", member.client, member.host)),
        ]);
    }
    table
}

fn object(partition: &PartitionLag) -> Value {
    json!({
        "topic": partition.topic,
        "partition": partition.partition,
        "committed": partition.committed,
        "end": partition.end,
        "lag": partition.lag,
        "member": partition.member.as_ref().map(super::groups::member),
    })
}
