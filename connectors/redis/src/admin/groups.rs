//! Groups of a key, and who is in them.

use std::time::Duration;

use millstream_core::Result;

use super::{RedisAdmin, StreamKey};
use crate::{
    client::Request,
    error::{refused, unexpected},
    id::number,
    resp::{Cursor, Item, Reply},
};

/// A group of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// Who is in it.
    pub members: Vec<Member>,
    /// Entries that were handed out and are not acknowledged.
    pub pending: u64,
    /// Entries that were not handed out yet. None where the server does not know: before Redis 7, and where entries in
    /// between were deleted.
    pub lag: Option<u64>,
    /// The newest entry that was handed out.
    pub last_delivered: String,
}

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Entries that it was handed and has not acknowledged.
    pub pending: u64,
    /// How long it has not shown up.
    pub idle: Duration,
}

impl Group {
    /// How long no member has shown up; none where there are no members.
    pub fn idle(&self) -> Option<Duration> {
        self.members.iter().map(|member| member.idle).min()
    }
}

impl RedisAdmin {
    /// The groups of a key, in the server's order.
    pub async fn groups(&mut self, key: &StreamKey) -> Result<Vec<Group>> {
        let name = key.name.as_bytes();
        let reply = self.command("list the groups of", key, &[b"XINFO", b"GROUPS", name]).await?;
        let found = read_groups(&reply).ok_or_else(|| unexpected("list groups", self.router.server()))?;
        let mut groups = Vec::with_capacity(found.len());
        for (bytes, mut group) in found {
            let request = Request::new(name, &[b"XINFO", b"CONSUMERS", name, &bytes]);
            let unread = format!("({}", group.last_delivered);
            let newer = Request::new(name, &[b"XRANGE", name, unread.as_bytes(), b"+", b"COUNT", b"1"]);
            let replies = self.router.all(vec![request, newer]).await?;
            let [members, newer] = replies.as_slice() else {
                return Err(unexpected("list members", self.router.server()));
            };
            match members.error() {
                // Deleted in between.
                Some(text) if text.contains("NOGROUP") || text.contains("no such key") => continue,
                Some(text) => return Err(refused("list the members of a group", self.router.server(), text)),
                None => {}
            }
            group.members = read_members(members).ok_or_else(|| unexpected("list members", self.router.server()))?;
            if group.lag.is_none() && newer.cursor().array() == Some(0) {
                group.lag = Some(0);
            }
            groups.push(group);
        }
        Ok(groups)
    }
}

/// Reads answers that are lists of names and values.
fn each_pair<'a>(cursor: &mut Cursor<'a>, mut take: impl FnMut(&'a [u8], Item<'a>)) -> Option<()> {
    for _ in 0..cursor.array()? / 2 {
        let name = cursor.text()?;
        let mut ahead = *cursor;
        take(name, ahead.next()?);
        cursor.skip();
    }
    Some(())
}

fn count(item: Item<'_>) -> Option<u64> {
    match item {
        Item::Integer(number) => u64::try_from(number).ok(),
        Item::Text(text) => number(text),
        _ => None,
    }
}

fn text(item: Item<'_>) -> String {
    match item {
        Item::Text(text) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    }
}

fn read_groups(reply: &Reply) -> Option<Vec<(Vec<u8>, Group)>> {
    let mut cursor = reply.cursor();
    let groups = cursor.array()?;
    let mut all = Vec::new();
    for _ in 0..groups {
        let (mut bytes, mut group) = (Vec::new(), Group::default());
        each_pair(&mut cursor, |name, value| match name {
            b"name" => {
                group.name = text(value);
                if let Item::Text(name) = value {
                    bytes = name.to_vec();
                }
            }
            b"pending" => group.pending = count(value).unwrap_or(0),
            b"last-delivered-id" => group.last_delivered = text(value),
            b"lag" => group.lag = count(value),
            _ => {}
        })?;
        all.push((bytes, group));
    }
    Some(all)
}

/// The members of a group, in an answer to `XINFO CONSUMERS`.
pub(crate) fn read_members(reply: &Reply) -> Option<Vec<Member>> {
    let mut cursor = reply.cursor();
    let members = cursor.array()?;
    let mut all = Vec::new();
    for _ in 0..members {
        let mut member = Member::default();
        each_pair(&mut cursor, |name, value| match name {
            b"name" => member.name = text(value),
            b"pending" => member.pending = count(value).unwrap_or(0),
            b"idle" => member.idle = Duration::from_millis(count(value).unwrap_or(0)),
            _ => {}
        })?;
        all.push(member);
    }
    Some(all)
}
