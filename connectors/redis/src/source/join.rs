//! Joining a group, on each key that is there.

use millstream_core::{Error, ErrorKind, Result};

use super::{
    claim::Claims,
    group::RETURNED,
    lane::{Lane, News},
    link::Link,
    reading::Member,
    shards::Shard,
};
use crate::{
    admin::{self, read_members},
    error::{not_open, refused},
    resp::Commands,
};

/// What Redis says where there is no stream to make a group of.
const NO_KEY: &str = "requires the key to exist";

impl Lane {
    /// Joins the group on each key, and takes up what we had taken and not acknowledged in a former life.
    pub(super) async fn join(&mut self, link: &mut Link) -> Result<Claims> {
        // Before anything is taken up, which counts as handed out.
        self.check_alone(link).await?;
        let (keeps, claim_idle) = (self.member()?.keeps(), self.member()?.group.claim_idle.0);
        let mut gone = Vec::new();
        let joined = self.join_each(link, keeps, &mut gone).await;
        if !gone.is_empty() {
            self.tell(News::Gone(gone)).await?;
        }
        joined?;
        Ok(Claims::new(claim_idle))
    }

    /// With keyed state nobody else may read with the group: records of a key would be elsewhere, and its state with them.
    pub(super) async fn check_alone(&self, link: &mut Link) -> Result<()> {
        if !self.reading.keyed {
            return Ok(());
        }
        let Member { group, name: ours, .. } = self.member()?;
        for key in &self.keys {
            let (name, of) = (key.shard.name.as_bytes(), group.name.as_bytes());
            let reply = link.call(&Commands::one(&[b"XINFO", b"CONSUMERS", name, of])).await?;
            // Who may not look may still be allowed to read.
            let members = read_members(&reply).unwrap_or_default();
            let other = |member: &&admin::Member| member.name != *ours && member.name != RETURNED;
            if let Some(other) = members.iter().filter(other).find(|member| member.idle < group.claim_idle.0) {
                let (stream, group) = (&key.shard.name, &group.name);
                let what = format!(
                    "`{}` reads `{stream}` with the group `{group}`, too, and this pipeline keeps keyed state",
                    other.name
                );
                let hint = "each would have records of the same keys: let one of them read; it begins when the other has not shown up for \
                            `claim_idle`";
                return Err(Error::new(ErrorKind::Unavailable, what).hint(hint));
            }
        }
        Ok(())
    }

    /// Leaves out keys that are not there (any more): without them the others can be read.
    async fn join_each(&mut self, link: &mut Link, keeps: bool, gone: &mut Vec<Shard>) -> Result<()> {
        let mut key = 0;
        while key < self.keys.len() {
            if !self.make_group(link, key).await? {
                gone.push(self.keys.remove(key).shard);
                continue;
            }
            if keeps {
                self.take_own(link, key).await?;
            }
            key += 1;
        }
        Ok(())
    }

    /// Makes sure that there is the group; whether there is the stream.
    async fn make_group(&mut self, link: &mut Link, key: usize) -> Result<bool> {
        let reading = self.reading.clone();
        let (Some(key), Some(member)) = (self.keys.get_mut(key), &reading.member) else { return Err(not_open()) };
        let mut words: Vec<&[u8]> = vec![b"XGROUP", b"CREATE", key.shard.name.as_bytes(), member.group.name.as_bytes()];
        words.push(key.group_start.as_bytes());
        if member.group.mkstream {
            words.push(b"MKSTREAM");
        }
        let reply = link.call(&Commands::one(&words)).await?;
        match reply.error() {
            Some(text) if text.contains(NO_KEY) => return Ok(false),
            Some(text) if !text.starts_with("BUSYGROUP") => {
                let what = format!("make the group `{}` of `{}`", member.group.name, key.shard.name);
                return Err(refused(&what, link.server(), text));
            }
            _ => {}
        }
        key.group_was_there();
        Ok(true)
    }
}
