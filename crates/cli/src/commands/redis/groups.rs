//! `millstream redis groups URL`

use std::time::Duration;

use clap::Args;
use millstream::{
    admin::redis::{Group, RedisAdmin, StreamKey},
    core::{Result, Span},
};
use serde_json::{Value, json};

use super::Streams;
use crate::{
    count::thousands,
    exit::{Exit, Outcome},
    output,
    system::{self, or_unknown},
    table::Table,
};

/// Groups: members, what is pending, how far they are behind
///
/// LAG is what a group has not been handed yet, `?` where Redis does not know (before 7.0, or after deletions). IDLE is how long
/// no member has shown up.
#[derive(Debug, Args)]
pub(super) struct Groups {
    #[command(flatten)]
    streams: Streams,
    /// A line for each member
    #[arg(long)]
    members: bool,
    /// Print JSON, with all members
    #[arg(long)]
    json: bool,
}

impl Groups {
    pub(super) fn execute(self) -> Outcome {
        let mut admin = self.streams.admin()?;
        let found = system::wait(all(&mut admin))??;
        output::print(&match (self.json, self.members) {
            (true, _) => format!("{:#}", found.iter().map(|(key, group)| object(key, group)).collect::<Value>()),
            (false, true) => by_member(&found).render(),
            (false, false) => by_group(&found).render(),
        })?;
        Ok(Exit::Done)
    }
}

async fn all(admin: &mut RedisAdmin) -> Result<Vec<(StreamKey, Group)>> {
    let mut all = Vec::new();
    for key in admin.keys().await? {
        all.extend(admin.groups(&key).await?.into_iter().map(|group| (key.clone(), group)));
    }
    Ok(all)
}

fn by_group(found: &[(StreamKey, Group)]) -> Table {
    let mut table = Table::new(&["KEY", "GROUP", ">MEMBERS", ">PENDING", ">LAG", ">IDLE", "LAST-DELIVERED"]);
    for (key, group) in found {
        table.row([
            key.name.to_string(),
            group.name.clone(),
            thousands(group.members.len() as u64),
            thousands(group.pending),
            or_unknown(group.lag),
            group.idle().map_or("-".to_owned(), idle),
            group.last_delivered.clone(),
        ]);
    }
    table
}

fn by_member(found: &[(StreamKey, Group)]) -> Table {
    let mut table = Table::new(&["KEY", "GROUP", "MEMBER", ">PENDING", ">IDLE"]);
    for (key, group) in found {
        for member in &group.members {
            table.row([
                key.name.to_string(),
                group.name.clone(),
                member.name.clone(),
                thousands(member.pending),
                idle(member.idle),
            ]);
        }
    }
    table
}

/// To a second, but for less than that.
fn idle(time: Duration) -> String {
    let rounded = if time.as_secs() > 0 { Duration::from_secs(time.as_secs()) } else { time };
    Span(rounded).to_string()
}

fn object(key: &StreamKey, group: &Group) -> Value {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let members = group
        .members
        .iter()
        .map(|member| json!({ "name": member.name, "pending": member.pending, "idle_ms": ms(member.idle) }));
    json!({
        "key": &*key.name,
        "stream": &*key.stream,
        "shard": key.shard,
        "group": group.name,
        "members": members.collect::<Vec<_>>(),
        "pending": group.pending,
        "lag": group.lag,
        "idle_ms": group.idle().map(ms),
        "last_delivered": group.last_delivered,
    })
}
