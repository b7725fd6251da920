//! Cutting off old entries, but none that a group still needs.

use std::fmt;

use millstream_core::{Error, ErrorKind, Result};

use super::{
    RedisAdmin, StreamKey,
    range::{after, bound, fitting},
};
use crate::{
    client::Request,
    error::{refused, unexpected},
    id::EntryId,
    resp::{Item, Reply},
};

/// What a group still needs: the oldest entry that it has not read, and the oldest one that is pending and still there; looked
/// for below `upper`. Then, in the same step, the cut: nobody can become a member in between.
///
/// Arguments: `MAXLEN` or `MINID`, its bound, `~` or `=`, `check` or `force`, `cut` or `look`.
/// Answers: `cut` and how many; `needed` and for each group its name, `unread` or `pending`, and an id; `ambiguous` where groups
/// need something, and only counting can tell whether it lies before the bound.
const SCRIPT: &str = "local key, how, bound = KEYS[1], ARGV[1], ARGV[2] \
    local needed = {'needed'} \
    if ARGV[4] == 'check' then \
    if how == 'MAXLEN' and redis.call('XLEN', key) <= tonumber(bound) then return {'cut', 0} end \
    local upper = '+' \
    if how == 'MINID' then upper = '(' .. bound end \
    local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1] \
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do \
    local group = {} \
    for i = 1, #info, 2 do group[info[i]] = info[i + 1] end \
    local function need(what, id) \
    needed[#needed + 1] = group.name needed[#needed + 1] = what needed[#needed + 1] = id end \
    local unread = redis.pcall('XRANGE', key, '(' .. group['last-delivered-id'], upper, 'COUNT', 1)[1] \
    if unread then need('unread', unread[1]) end \
    local from = group.pending > 0 and first and first[1] \
    while from do \
    local page = redis.call('XPENDING', key, group.name, from, upper, 100) \
    from = #page == 100 and '(' .. page[100][1] \
    for _, entry in ipairs(page) do \
    if redis.call('XRANGE', key, entry[1], entry[1])[1] then need('pending', entry[1]) from = false break end \
    end end end end \
    if #needed > 1 then \
    if how == 'MAXLEN' then needed[1] = 'ambiguous' end \
    return needed end \
    if ARGV[5] == 'look' then return {'cut', 0} end \
    return {'cut', redis.call('XTRIM', key, how, ARGV[3], bound)}";

/// How much is kept; see also [`RedisAdmin::since`].
#[derive(Clone, Debug)]
pub struct Depth(Cut);

impl Depth {
    /// So many of the newest entries of each key.
    pub fn newest(count: u64) -> Self {
        Depth(Cut::MaxLen(count))
    }
}

/// What a group needs of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The group.
    pub group: String,
    /// It was handed out, and not acknowledged; else it was not handed out yet.
    pub pending: bool,
    /// The oldest such entry.
    pub id: String,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pending {
            true => write!(f, "the group `{}` has not acknowledged {}", self.group, self.id),
            false => write!(f, "the group `{}` has not read {}", self.group, self.id),
        }
    }
}

/// What the server answers.
enum Answer {
    Cut(u64),
    Needed(Vec<Need>),
    Ambiguous,
}

/// The bound of a cut, as the server takes it.
#[derive(Clone, Copy, Debug)]
enum Cut {
    MaxLen(u64),
    MinId(EntryId),
}

impl RedisAdmin {
    /// Entries with this id (`ms-seq`, or `ms`) or a newer one; of a time in RFC 3339: of then or later.
    pub fn since(&self, text: &str) -> Result<Depth> {
        bound(text, 0, self.ids).map(|id| Depth(Cut::MinId(id)))
    }

    /// What groups need of what a cut would remove; it changes nothing. Empty: the cut may be made.
    pub async fn needed(&mut self, key: &StreamKey, depth: &Depth) -> Result<Vec<Need>> {
        let cut = depth.0;
        match self.ask(key, &cut, '=', "check", "look").await? {
            Answer::Cut(_) => Ok(Vec::new()),
            Answer::Needed(needs) => Ok(needs),
            Answer::Ambiguous => {
                let cut = self.resolved(key, &cut).await?;
                match self.ask(key, &cut, '=', "check", "look").await? {
                    Answer::Needed(needs) => Ok(needs),
                    Answer::Cut(_) | Answer::Ambiguous => Ok(Vec::new()),
                }
            }
        }
    }

    /// Cuts off old entries of a key; answers how many. `approximate` cuts whole nodes of the server's tree only, which is
    /// cheap and leaves some more. Refused as [`ErrorKind::Rejected`] where a group needs one of them, unless `force`; what
    /// groups need is looked up in the same step as the cut. In steps of some thousand entries, so that the server is not held
    /// up: after an error some may be gone.
    pub async fn trim(&mut self, key: &StreamKey, depth: &Depth, approximate: bool, force: bool) -> Result<u64> {
        let mut cut = depth.0;
        let check = if force { "force" } else { "check" };
        let mut removed = 0;
        let mut exactly = '~';
        loop {
            match self.ask(key, &cut, exactly, check, "cut").await? {
                Answer::Cut(0) if exactly == '=' || approximate => return Ok(removed),
                Answer::Cut(0) => exactly = '=',
                Answer::Cut(count) => removed += count,
                Answer::Needed(needs) => return Err(self.refusal(key, &needs)),
                Answer::Ambiguous => cut = self.resolved(key, &cut).await?,
            }
        }
    }

    /// Why a key is not trimmed.
    pub fn refusal(&self, key: &StreamKey, needs: &[Need]) -> Error {
        let needs: Vec<String> = needs.iter().map(Need::to_string).collect();
        let message = format!("cannot trim `{}` at {}: {}", key.name, self.shown(), needs.join(", "));
        Error::new(ErrorKind::Rejected, message)
            .hint("keep more, let the group catch up, or lose what it has not done with --force")
    }

    async fn ask(&mut self, key: &StreamKey, cut: &Cut, exactly: char, check: &str, act: &str) -> Result<Answer> {
        let name = key.name.as_bytes();
        let (how, bound) = match cut {
            Cut::MaxLen(count) => ("MAXLEN", count.to_string()),
            // No entry is before these, and as an open end of a range the server does not take the first one.
            Cut::MinId(EntryId { ms: 0, seq: 0 | 1 }) => return Ok(Answer::Cut(0)),
            Cut::MinId(id) => ("MINID", id.to_string()),
        };
        let mut exact = [0; 4];
        let exact = exactly.encode_utf8(&mut exact);
        let words = [how, &bound, exact, check, act].map(str::as_bytes);
        let command: Vec<&[u8]> =
            [b"EVAL".as_slice(), SCRIPT.as_bytes(), b"1", name].into_iter().chain(words).collect();
        let what = format!("trim `{}`", key.name);
        let reply = self.router.once(&[Request::new(name, &command)]).await?.pop();
        let reply = reply.ok_or_else(|| unexpected(&what, self.router.server()))?;
        match reply.error() {
            Some(text) => Err(refused(&what, self.router.server(), text)),
            None => read_answer(&reply).ok_or_else(|| unexpected(&what, self.router.server())),
        }
    }

    /// The same cut as an id, found by counting from the nearer end. What is appended meanwhile stays, too.
    async fn resolved(&mut self, key: &StreamKey, cut: &Cut) -> Result<Cut> {
        let Cut::MaxLen(keep) = *cut else { return Ok(*cut) };
        let reply = self.command("look at", key, &[b"XLEN", key.name.as_bytes()]).await?;
        let all = reply.cursor().integer().and_then(|len| u64::try_from(len).ok()).unwrap_or(0);
        let remove = all.saturating_sub(keep);
        if remove == 0 {
            return Ok(Cut::MinId(EntryId::ZERO));
        }
        let id = if keep < remove {
            match keep {
                // All there are: what is behind the newest one stays.
                0 => self.nth(key, true, 1).await?.and_then(after),
                keep => self.nth(key, true, keep).await?,
            }
        } else {
            self.nth(key, false, remove.saturating_add(1)).await?
        };
        Ok(Cut::MinId(id.unwrap_or(EntryId::ZERO)))
    }

    /// The id of an entry by its place, from 1, from the front or from the back; none where there are fewer.
    async fn nth(&mut self, key: &StreamKey, from_back: bool, place: u64) -> Result<Option<EntryId>> {
        let (mut left, mut page, mut start) = (place, fitting(1024, 1), None);
        loop {
            let count = left.min(page).to_string();
            let name = key.name.as_bytes();
            let begin = start.map(|id: EntryId| format!("({id}"));
            let words: [&[u8]; 6] = match from_back {
                true => {
                    let begin = begin.as_deref().unwrap_or("+").as_bytes();
                    [b"XREVRANGE", name, begin, b"-", b"COUNT", count.as_bytes()]
                }
                false => {
                    let begin = begin.as_deref().unwrap_or("-").as_bytes();
                    [b"XRANGE", name, begin, b"+", b"COUNT", count.as_bytes()]
                }
            };
            let reply = self.command("count entries of", key, &words).await?;
            let Some((entries, last)) = last_id(&reply) else {
                return Err(unexpected("count entries", self.router.server()));
            };
            left = left.saturating_sub(entries);
            if left == 0 || last.is_none() {
                return Ok(last.filter(|_| left == 0));
            }
            (start, page) = (last, fitting(reply.data().len(), entries));
        }
    }
}

/// How many entries an answer holds, and the id of its last one.
fn last_id(reply: &Reply) -> Option<(u64, Option<EntryId>)> {
    let mut cursor = reply.cursor();
    let entries = cursor.array()?;
    let mut last = None;
    for _ in 0..entries {
        cursor.array()?;
        last = Some(EntryId::parse(cursor.text()?)?);
        cursor.skip();
    }
    Some((entries as u64, last))
}

fn read_answer(reply: &Reply) -> Option<Answer> {
    let mut cursor = reply.cursor();
    let parts = cursor.array()?;
    match cursor.text()? {
        b"cut" => match cursor.next()? {
            Item::Integer(count) => u64::try_from(count).ok().map(Answer::Cut),
            _ => None,
        },
        b"ambiguous" => Some(Answer::Ambiguous),
        b"needed" => {
            let mut needs = Vec::new();
            for _ in 0..parts.saturating_sub(1) / 3 {
                let group = String::from_utf8_lossy(cursor.text()?).into_owned();
                let pending = cursor.text()? == b"pending";
                let id = String::from_utf8_lossy(cursor.text()?).into_owned();
                needs.push(Need { group, pending, id });
            }
            Some(Answer::Needed(needs))
        }
        _ => None,
    }
}
