//! `millstream kafka topics URL [TOPIC...]`

use clap::Args;
use millstream::admin::kafka::{PartitionInfo, TopicInfo};
use serde_json::{Value, json};

use super::{Cluster, signed};
use crate::{
    count::thousands,
    exit::{Exit, Outcome},
    output,
    system::{self, or_unknown},
    table::Table,
};

/// Topics: partitions, replicas, offsets, records
///
/// A line for each topic, with the REPLICAS and IN-SYNC of the partition that is worst off; of topics that are named a line for
/// each partition. LOW and HIGH are the first offset that is there and the one behind the newest record. RECORDS is what lies between;
/// compaction and transactions leave gaps, so that fewer may be readable.
#[derive(Debug, Args)]
pub(super) struct Topics {
    #[command(flatten)]
    cluster: Cluster,
    /// Topics, beside those of the URL; without any: all
    #[arg(value_name = "TOPIC")]
    topics: Vec<String>,
    /// A line for each partition, of all topics too
    #[arg(long)]
    partitions: bool,
    /// Also those that Kafka keeps for itself, such as `__consumer_offsets`
    #[arg(long)]
    internal: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Topics {
    pub(super) fn execute(self) -> Outcome {
        let admin = self.cluster.admin()?;
        let topics = system::wait(admin.topics(&self.topics, self.internal))??;
        let named = !self.topics.is_empty() || !admin.topics_of_url().is_empty();
        output::print(&match (self.json, named || self.partitions) {
            (true, _) => format!("{:#}", topics.iter().map(object).collect::<Value>()),
            (false, true) => by_partition(&topics).render(),
            (false, false) => by_topic(&topics).render(),
        })?;
        Ok(Exit::Done)
    }
}

fn by_topic(topics: &[TopicInfo]) -> Table {
    let mut table = Table::new(&["TOPIC", ">PARTITIONS", ">REPLICAS", ">IN-SYNC", ">RECORDS"]);
    for topic in topics {
        // Of several partitions the one that is worst off.
        let least = |count: fn(&PartitionInfo) -> usize| topic.partitions.iter().map(count).min().unwrap_or(0) as u64;
        let records = topic.partitions.iter().map(PartitionInfo::records).sum::<Option<u64>>();
        table.row([
            topic.name.clone(),
            thousands(topic.partitions.len() as u64),
            thousands(least(|partition| partition.replicas.len())),
            thousands(least(|partition| partition.in_sync.len())),
            or_unknown(records),
        ]);
    }
    table
}

fn by_partition(topics: &[TopicInfo]) -> Table {
    let heads = ["TOPIC", ">PARTITION", ">LEADER", "REPLICAS", "IN-SYNC", ">LOW", ">HIGH", ">RECORDS"];
    let mut table = Table::new(&heads);
    let list = |brokers: &[i32]| brokers.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    for topic in topics {
        for partition in &topic.partitions {
            let offset = |offset: Option<i64>| offset.map_or("?".to_owned(), signed);
            table.row([
                topic.name.clone(),
                partition.partition.to_string(),
                partition.leader.map_or("none".to_owned(), |leader| leader.to_string()),
                list(&partition.replicas),
                list(&partition.in_sync),
                offset(partition.offsets.map(|(low, _)| low)),
                offset(partition.offsets.map(|(_, high)| high)),
                or_unknown(partition.records()),
            ]);
        }
    }
    table
}

fn object(topic: &TopicInfo) -> Value {
    let partitions = topic.partitions.iter().map(|partition| {
        json!({
            "partition": partition.partition,
            "leader": partition.leader,
            "replicas": partition.replicas,
            "in_sync": partition.in_sync,
            "low": partition.offsets.map(|(low, _)| low),
            "high": partition.offsets.map(|(_, high)| high),
            "records": partition.records(),
        })
    });
    json!({ "topic": topic.name, "partitions": partitions.collect::<Vec<_>>() })
}
