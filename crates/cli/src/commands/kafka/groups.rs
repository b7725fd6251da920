//! `millstream kafka groups URL`

use clap::Args;
use millstream::admin::kafka::{Group, Member};
use serde_json::{Value, json};

use super::Cluster;
use crate::{
    count::thousands,
    exit::{Exit, Outcome},
    output, system,
    table::Table,
    talk::Talk,
};

/// Groups: state, members, protocol
///
/// The protocol is `classic`, or `consumer` (KIP-848).
#[derive(Debug, Args)]
pub(super) struct Groups {
    #[command(flatten)]
    cluster: Cluster,
    /// A line for each member
    #[arg(long)]
    members: bool,
    /// Print JSON, with all members
    #[arg(long)]
    json: bool,
}

impl Groups {
    pub(super) fn execute(self, talk: &Talk) -> Outcome {
        let admin = self.cluster.admin()?;
        let found = system::wait(admin.groups())??;
        if found.silent_brokers > 0 {
            talk.warn(&format!("{} brokers did not say which groups they look after", found.silent_brokers));
        }
        let groups = found.groups;
        output::print(&match (self.json, self.members) {
            (true, _) => format!("{:#}", groups.iter().map(object).collect::<Value>()),
            (false, true) => by_member(&groups).render(),
            (false, false) => by_group(&groups).render(),
        })?;
        Ok(Exit::Done)
    }
}

fn by_group(groups: &[Group]) -> Table {
    let mut table = Table::new(&["GROUP", "STATE", ">MEMBERS", "PROTOCOL", "ASSIGNOR"]);
    for group in groups {
        let members = thousands(group.members.len() as u64);
        table.row([group.name.clone(), group.state.clone(), members, group.protocol.clone(), group.assignor.clone()]);
    }
    table
}

fn by_member(groups: &[Group]) -> Table {
    let mut table = Table::new(&["GROUP", "MEMBER", "CLIENT", "HOST", ">PARTITIONS"]);
    for group in groups {
        for member in &group.members {
            let partitions = thousands(member.partitions.len() as u64);
            let [id, client, host] = [&member.id, &member.client, &member.host].map(Clone::clone);
            table.row([group.name.clone(), id, client, host, partitions]);
        }
    }
    table
}

fn object(group: &Group) -> Value {
    json!({
        "group": group.name,
        "state": group.state,
        "protocol": group.protocol,
        "assignor": group.assignor,
        "members": group.members.iter().map(member).collect::<Vec<_>>(),
    })
}

/// A member, with its partitions as `topic/number`.
pub(super) fn member(member: &Member) -> Value {
    let partitions: Vec<String> = member.partitions.iter().map(|(topic, number)| format!("{topic}/{number}")).collect();
    json!({ "id": member.id, "client": member.client, "host": member.host, "partitions": partitions })
}
