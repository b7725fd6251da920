//! `millstream redis trim URL`

use clap::{ArgGroup, Args};
use millstream::{
    admin::redis::{Depth, RedisAdmin, StreamKey},
    core::{Result, Timestamp},
};
use serde_json::json;

use super::Streams;
use crate::{
    count::thousands,
    exit::{Exit, Outcome},
    output,
    stream::readable,
    system,
    table::Table,
};

/// Remove old entries, but none that a group still needs
///
/// Prints how many are gone, for each key. Nothing at all is removed if it takes an entry that a group has not read or has
/// pending: the groups are named. With --maxlen and a group that is behind, the entries up to the cut have to be read.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("depth").required(true).args(["maxlen", "minid", "before"]))]
pub(super) struct Trim {
    #[command(flatten)]
    streams: Streams,
    /// Keep the newest N entries of each key
    #[arg(long, value_name = "N")]
    maxlen: Option<u64>,
    /// Keep entries with this id (`ms-seq`, or `ms`) or a newer one
    #[arg(long, value_name = "ID")]
    minid: Option<String>,
    /// Keep entries of this time (RFC 3339) or later
    #[arg(long, value_name = "TIME", value_parser = |text: &str| {
        Timestamp::parse(text).map(|_| text.to_owned()).map_err(readable)
    })]
    before: Option<String>,
    /// Remove only what can be removed cheaply, and so leave some more
    #[arg(long)]
    approximate: bool,
    /// Remove also what groups have not read or have pending: they lose it
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Trim {
    pub(super) fn execute(self) -> Outcome {
        let mut admin = self.streams.admin()?;
        let depth = match (self.maxlen, self.minid.as_ref().or(self.before.as_ref())) {
            (_, Some(text)) => admin.since(text)?,
            // The parser wants one of the three.
            (count, None) => Depth::newest(count.unwrap_or(u64::MAX)),
        };
        let mut removed = Vec::new();
        let trimmed = system::wait(self.trim(&mut admin, &depth, &mut removed))?;
        // What is gone is told, also if not everything could be trimmed.
        if trimmed.is_ok() || !removed.is_empty() {
            output::print(&self.shown(&removed))?;
        }
        trimmed?;
        Ok(Exit::Done)
    }

    async fn trim(&self, admin: &mut RedisAdmin, depth: &Depth, removed: &mut Vec<(StreamKey, u64)>) -> Result<()> {
        let keys = admin.keys().await?;
        if !self.force {
            // All or nothing: a stream that is cut in some shards only helps nobody.
            for key in &keys {
                let needs = admin.needed(key, depth).await?;
                if !needs.is_empty() {
                    return Err(admin.refusal(key, &needs));
                }
            }
        }
        for key in keys {
            let count = admin.trim(&key, depth, self.approximate, self.force).await?;
            removed.push((key, count));
        }
        Ok(())
    }

    fn shown(&self, removed: &[(StreamKey, u64)]) -> String {
        if self.json {
            let each = removed.iter().map(|(key, count)| {
                json!({ "key": &*key.name, "stream": &*key.stream, "shard": key.shard, "removed": count })
            });
            return format!("{:#}", each.collect::<serde_json::Value>());
        }
        let mut table = Table::new(&["KEY", ">REMOVED"]);
        removed.iter().for_each(|(key, count)| table.row([key.name.to_string(), thousands(*count)]));
        table.render()
    }
}
