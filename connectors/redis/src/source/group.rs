//! The group's side of a source: acknowledging, staying alive, and leaving.

use std::{collections::BTreeMap, sync::Arc};

use millstream_core::{Result, Resume, ShardKey};
use serde::{Deserialize, Serialize};

use super::reading::Member;
use crate::{
    client::{Request, Router},
    error::refused,
    id::EntryId,
};

/// Ids that one `XACK` names.
const ACK_IDS: usize = 10_000;

/// Makes all that is pending under our name young again, where it still is under our name. In pages, and in one step, so
/// that what another member has claimed in between stays there.
const KEEP_ALIVE: &str = "local from = '-' \
    while true do \
    local page = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', 1000, ARGV[2]) \
    if #page == 0 then return 0 end \
    local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0} \
    for i, entry in ipairs(page) do claim[#claim + 1] = entry[1] end \
    claim[#claim + 1] = 'JUSTID' \
    redis.call(unpack(claim)) \
    if #page < 1000 then return 0 end \
    from = '(' .. page[#page][1] \
    end";

/// Gives back all that is pending under our name, as old as if nobody had ever cared for it: others may claim it at once. What
/// the arguments name had been handed over and keeps its count; of the rest it is taken back that it was handed out.
const RELEASE: &str = "local far = 315360000000 \
    local function give(id, ...) redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, id, 'IDLE', far, 'JUSTID', ...) end \
    for i = 4, #ARGV do \
    if redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])[1] then give(ARGV[i]) end \
    end \
    local from = '-' \
    while true do \
    local page = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', 1000, ARGV[2]) \
    for i, entry in ipairs(page) do give(entry[1], 'RETRYCOUNT', math.max(entry[4] - 1, 0)) end \
    if #page < 1000 then return 0 end \
    from = '(' .. page[#page][1] \
    end";

/// The same of what the arguments name alone, where it still is under our name: nobody has worked on it.
const GIVE_BACK: &str = "local far = 315360000000 \
    for i = 4, #ARGV do \
    local entry = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])[1] \
    if entry then redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i], 'IDLE', far, \
    'RETRYCOUNT', math.max(entry[4] - 1, 0), 'JUSTID') end \
    end return 0";

/// Deletes our name, if nothing is pending under it: Redis would drop that too.
pub(super) const LEAVE: &str = "if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then \
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end return 0";

/// Ids that one script names: it holds up the server.
const SCRIPT_IDS: usize = 10_000;

/// Where a shard of a group stands: behind so many that this run of the source has read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupMark {
    pub(super) run: String,
    pub(super) read: u64,
}

/// What names begin with that are made up for one run.
pub(super) const MADE_UP: &str = "millstream-";

/// Nobody's name: what was given back waits under it, so that those who have gone leave no name behind. Whoever takes over
/// the last of it deletes it, as any name that was made up.
pub(super) const RETURNED: &str = "millstream-returned";

/// Keys of the shards.
pub(super) type Names = BTreeMap<ShardKey, Arc<str>>;

/// Our name in a group: the same for each run of a pipeline with the same store, and for no one else.
pub(super) fn member_name(written: Option<&str>, resume: &Resume) -> String {
    match (written.or(resume.member.as_deref()), &resume.stamp) {
        (Some(name), _) => name.to_owned(),
        (None, Some(stamp)) => format!("{}-{}", stamp.pipeline, stamp.store_id),
        (None, None) => format!("{MADE_UP}{}", crate::unique()),
    }
}

/// Acknowledges ids of shards: one `XACK` for each.
pub(super) async fn acknowledge(
    router: &mut Router,
    member: &Member,
    names: &Names,
    shards: &[(ShardKey, Vec<EntryId>)],
) -> Result<()> {
    let mut requests = Vec::new();
    let mut text = Vec::new();
    for (shard, ids) in shards {
        let Some(name) = names.get(shard) else { continue };
        for ids in ids.chunks(ACK_IDS) {
            let mut request = Request::new(name.as_bytes(), &[]);
            request.command = Default::default();
            request.command.begin(3 + ids.len());
            request.command.word(b"XACK");
            request.command.word(name.as_bytes());
            request.command.word(member.group.name.as_bytes());
            for id in ids {
                id.write(&mut text);
                request.command.word(&text);
            }
            requests.push(request);
        }
    }
    if requests.is_empty() {
        return Ok(());
    }
    let replies = router.all(requests).await?;
    check(router, "acknowledge records", replies.iter().filter_map(|reply| reply.error()))
}

/// Renews our claim on all that is pending under our name.
pub(super) async fn keep_alive(router: &mut Router, member: &Member, names: &Names) -> Result<()> {
    each_key(router, member, names, KEEP_ALIVE, "renew claims").await
}

/// Leaves the group on each key, if nothing of ours is left there.
pub(super) async fn leave(router: &mut Router, member: &Member, names: &Names) -> Result<()> {
    each_key(router, member, names, LEAVE, "leave the group").await
}

async fn each_key(router: &mut Router, member: &Member, names: &Names, script: &str, what: &str) -> Result<()> {
    let (group, ours) = (member.group.name.as_bytes(), member.name.as_bytes());
    let request = |name: &Arc<str>| {
        let name = name.as_bytes();
        Request::new(name, &[b"EVAL", script.as_bytes(), b"1", name, group, ours])
    };
    let replies = router.all(names.values().map(request).collect()).await?;
    check(router, what, replies.iter().filter_map(|reply| reply.error()))
}

/// Gives back all that is pending under our name; `handed` is what had been handed over. Where that is too much for one
/// script, all of it stays and waits for `claim_idle`.
pub(super) async fn release(
    router: &mut Router,
    member: &Member,
    names: &Names,
    handed: impl Fn(&ShardKey) -> Vec<EntryId>,
) -> Result<()> {
    // What our lanes had asked for before they ended has been done when this is answered.
    each_key(router, member, names, "return 0", "leave the group").await?;
    let all = names.iter().map(|(shard, name)| (name, handed(shard)));
    let few = all.filter(|(_, ids)| ids.len() <= SCRIPT_IDS);
    let requests = few.map(|(name, ids)| returning(member, name, RELEASE, &ids)).collect();
    hand_back(router, requests).await
}

/// Gives back these ids of shards, as if they had never been handed out.
pub(super) async fn give_back(
    router: &mut Router,
    member: &Member,
    names: &Names,
    shards: &[(ShardKey, Vec<EntryId>)],
) -> Result<()> {
    let named = shards.iter().filter_map(|(shard, ids)| Some((names.get(shard)?, ids)));
    let chunks = named.flat_map(|(name, ids)| ids.chunks(SCRIPT_IDS).map(move |ids| (name, ids)));
    let requests = chunks.map(|(name, ids)| returning(member, name, GIVE_BACK, ids)).collect();
    hand_back(router, requests).await
}

/// A script that gives back what is pending on a key.
fn returning(member: &Member, name: &Arc<str>, script: &str, ids: &[EntryId]) -> Request {
    let ids: Vec<String> = ids.iter().map(EntryId::to_string).collect();
    let (key, group, ours) = (name.as_bytes(), member.group.name.as_bytes(), member.name.as_bytes());
    let mut words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), b"1", key, group, ours, RETURNED.as_bytes()];
    words.extend(ids.iter().map(String::as_bytes));
    Request::new(key, &words)
}

async fn hand_back(router: &mut Router, requests: Vec<Request>) -> Result<()> {
    let replies = router.all(requests).await?;
    check(router, "give records back", replies.iter().filter_map(|reply| reply.error()))
}

/// The first error, except that there is no such group any more: then nothing of ours is in it.
fn check<'a>(router: &Router, what: &str, mut errors: impl Iterator<Item = &'a str>) -> Result<()> {
    match errors.find(|text| !text.contains("NOGROUP")) {
        Some(text) => Err(refused(what, router.server(), text)),
        None => Ok(()),
    }
}
