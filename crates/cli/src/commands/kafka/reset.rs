//! `millstream kafka reset URL --group G --to WHERE`

use clap::Args;
use millstream::{
    admin::kafka::{PartitionReset, ResetOf},
    core::SeekTo,
};
use serde_json::{Value, json};

use super::{Cluster, signed};
use crate::{
    exit::{Exit, Outcome},
    output,
    stream::readable,
    system,
    table::Table,
    talk::Talk,
};

/// Let a group go on elsewhere; shows the plan, and does it with --yes
///
/// Without --yes nothing is changed. Refused while the group has members. Without a topic it is about all partitions of which the group has committed
/// something. With topics a group that is not there yet is made, so that it begins there.
#[derive(Debug, Args)]
pub(super) struct Reset {
    #[command(flatten)]
    cluster: Cluster,
    /// The group
    #[arg(long, value_name = "NAME")]
    group: String,
    /// Where to: `beginning`, `end`, an offset, or a time in RFC 3339 (its first record, or the first one later)
    #[arg(long, value_name = "WHERE", value_parser = |text: &str| text.parse::<SeekTo>().map_err(readable))]
    to: SeekTo,
    /// Only this topic, beside those of the URL; may be given several times
    #[arg(long, value_name = "NAME")]
    topic: Vec<String>,
    /// Only this partition; may be given several times
    #[arg(long, value_name = "N")]
    partition: Vec<i32>,
    /// Do it; without this only the plan is printed
    #[arg(long)]
    yes: bool,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

impl Reset {
    pub(super) fn execute(self, talk: &Talk) -> Outcome {
        let admin = self.cluster.admin()?;
        let of = ResetOf { topics: self.topic.clone(), partitions: self.partition.clone() };
        let plan = system::wait(admin.plan_reset(&self.group, &self.to, &of))??;
        self.warn_of_missing(&plan, talk);
        if self.yes {
            system::wait(admin.reset(&self.group, &plan))??;
        }
        output::print(&match self.json {
            true => format!("{:#}", plan.iter().map(object).collect::<Value>()),
            false => table(&plan).render(),
        })?;
        talk.say(&match self.yes {
            true => format!("{}: goes on there", self.group),
            false => format!("{}: nothing is changed; the same with --yes does it", self.group),
        });
        Ok(Exit::Done)
    }

    fn warn_of_missing(&self, plan: &[PartitionReset], talk: &Talk) {
        let SeekTo::At(asked) = self.to else { return };
        for part in plan.iter().filter(|part| u128::try_from(part.to) != Ok(asked)) {
            let place = format!("{}/{}", part.topic, part.partition);
            talk.warn(&format!("{place} has no offset {asked}, but those from {} to {}", part.low, part.high));
        }
    }
}

fn table(plan: &[PartitionReset]) -> Table {
    let mut table = Table::new(&["TOPIC", ">PARTITION", ">FROM", ">TO", ">LOW", ">HIGH"]);
    for part in plan {
        table.row([
            part.topic.clone(),
            part.partition.to_string(),
            part.from.map_or("none".to_owned(), signed),
            signed(part.to),
            signed(part.low),
            signed(part.high),
        ]);
    }
    table
}

fn object(part: &PartitionReset) -> Value {
    json!({
        "topic": part.topic,
        "partition": part.partition,
        "from": part.from,
        "to": part.to,
        "low": part.low,
        "high": part.high,
    })
}
