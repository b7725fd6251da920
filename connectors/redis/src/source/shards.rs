//! Which keys are the shards of a stream.

use std::{collections::BTreeMap, sync::Arc};

use millstream_core::{Error, ErrorKind, Result, ShardKey};

use crate::{
    client::{Request, Router},
    error::{refused, unexpected},
    id::number,
    resp::{Commands, Item},
};

/// Numbers behind the highest known shard that are looked at for new ones: producers add shards one after the other.
const WINDOW: u64 = 16;

/// A database with no more keys than this is scanned each time, so that a shard with any number is found at once.
const SCANNED_KEYS_MAX: i64 = 50_000;

/// Keys that one step of a scan looks at.
const SCAN_COUNT: &[u8] = b"1000";

/// A shard and the key that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) key: ShardKey,
    pub(crate) name: Arc<str>,
}

/// Finds the shards of streams.
#[derive(Debug)]
pub(crate) struct Finder {
    streams: Vec<String>,
    /// Key of each shard.
    known: BTreeMap<ShardKey, Arc<str>>,
    /// The same of shards that are not there any more, in case they come back.
    gone: BTreeMap<ShardKey, Arc<str>>,
}

impl Finder {
    pub(crate) fn new(streams: Vec<String>) -> Self {
        Finder { streams, known: BTreeMap::new(), gone: BTreeMap::new() }
    }

    /// The shards that are known.
    pub(crate) fn known(&self) -> Vec<Shard> {
        self.known.iter().map(|(key, name)| Shard { key: key.clone(), name: name.clone() }).collect()
    }

    /// Streams of which no shard is known.
    pub(crate) fn missing(&self) -> Vec<String> {
        let has = |stream: &String| self.known.keys().any(|shard| *shard.stream == **stream);
        self.streams.iter().filter(|stream| !has(stream)).cloned().collect()
    }

    /// Takes it that a stream will be a plain key.
    pub(super) fn assume_plain(&mut self, stream: &str) -> Shard {
        let (key, name): (_, Arc<str>) = (ShardKey::new(stream, 0), stream.into());
        self.known.insert(key.clone(), name.clone());
        Shard { key, name }
    }

    /// A shard is not there any more: it is looked for again.
    pub(super) fn lose(&mut self, shard: &ShardKey) {
        self.gone.extend(self.known.remove_entry(shard));
    }

    /// The shards that were not known; `whole`: with a scan of all keys, however many there are.
    pub(crate) async fn find(&mut self, router: &mut Router, whole: bool) -> Result<Vec<Shard>> {
        let mut names = self.window();
        for node in router.topology().await?.nodes() {
            let size = router.ask_node(&node, &Commands::one(&[b"DBSIZE"])).await?;
            let size = size.first().and_then(|reply| reply.cursor().integer()).unwrap_or(i64::MAX);
            if whole || size <= SCANNED_KEYS_MAX {
                self.scan(router, &node, &mut names).await?;
            }
        }
        names.sort();
        names.dedup();
        let requests = names.iter().map(|(_, name)| Request::new(name.as_bytes(), &[b"TYPE", name.as_bytes()]));
        let replies = router.all(requests.collect()).await?;
        let mut found = Vec::new();
        for ((key, name), reply) in names.into_iter().zip(replies) {
            match reply.first() {
                Item::Text(b"stream") => found.extend(self.add(key, name)?),
                Item::Text(b"none") => {}
                Item::Text(kind) if self.streams.contains(&name) => {
                    let kind = String::from_utf8_lossy(kind).into_owned();
                    return Err(Error::new(
                        ErrorKind::Option,
                        format!("`{name}` of {} is a {kind}, not a stream", router.server()),
                    )
                    .hint("name a stream")
                    .within("stream"));
                }
                // A number behind a colon does not make every key a shard.
                Item::Text(_) => {}
                Item::Error(text) => {
                    let text = String::from_utf8_lossy(text).into_owned();
                    return Err(refused(&format!("look at `{name}`"), router.server(), &text));
                }
                _ => return Err(unexpected("look at a key", router.server())),
            }
        }
        Ok(found)
    }

    /// Names that are looked at each time.
    fn window(&self) -> Vec<(ShardKey, String)> {
        let mut names: Vec<_> = self.gone.iter().map(|(shard, name)| (shard.clone(), name.to_string())).collect();
        for stream in &self.streams {
            let highest = self.known.keys().filter(|shard| *shard.stream == **stream).map(|shard| shard.shard).max();
            let first = highest.map_or(0, |highest| highest.saturating_add(1));
            names.push((ShardKey::new(stream.as_str(), 0), stream.clone()));
            names.push((ShardKey::new(stream.as_str(), 0), format!("{stream}:0")));
            let numbers = first.max(1)..first.saturating_add(WINDOW);
            names.extend(numbers.map(|shard| (ShardKey::new(stream.as_str(), shard), format!("{stream}:{shard}"))));
        }
        names
    }

    async fn scan(&self, router: &mut Router, node: &Arc<str>, names: &mut Vec<(ShardKey, String)>) -> Result<()> {
        for stream in &self.streams {
            let pattern = format!("{}:[0-9]*", escaped(stream));
            let mut cursor = b"0".to_vec();
            loop {
                let command = Commands::one(&[b"SCAN", &cursor, b"MATCH", pattern.as_bytes(), b"COUNT", SCAN_COUNT]);
                let replies = router.ask_node(node, &command).await?;
                let reply = replies.first().ok_or_else(|| unexpected("list keys", router.server()))?;
                if let Some(text) = reply.error() {
                    return Err(refused("list keys", router.server(), text));
                }
                let mut items = reply.cursor();
                let next = items.array().and_then(|_| items.text());
                cursor = next.ok_or_else(|| unexpected("list keys", router.server()))?.to_vec();
                for _ in 0..items.array().unwrap_or_default() {
                    let name = items.text().and_then(|name| std::str::from_utf8(name).ok());
                    names.extend(name.and_then(|name| Some((shard_of(stream, name)?, name.to_owned()))));
                }
                if cursor == b"0" {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Notes a shard; nothing if it is known.
    fn add(&mut self, key: ShardKey, name: String) -> Result<Option<Shard>> {
        let plain = |name: &str| *key.stream == *name;
        let sharded = |name: &str| shard_of(&key.stream, name).is_some();
        let of_stream = self.known.iter().filter(|(shard, _)| shard.stream == key.stream);
        for (_, other) in of_stream {
            if **other == *name {
                return Ok(None);
            }
            if (plain(&name) && sharded(other)) || (sharded(&name) && plain(other)) {
                let (plain, sharded) = if plain(&name) { (&*name, &**other) } else { (&**other, &*name) };
                return Err(Error::new(
                    ErrorKind::Option,
                    format!("the stream `{}` is there twice: as `{plain}`, and in shards as `{sharded}`", key.stream),
                )
                .hint("delete or rename the one that is not meant")
                .within("stream"));
            }
        }
        let name: Arc<str> = name.into();
        self.gone.remove(&key);
        self.known.insert(key.clone(), name.clone());
        Ok(Some(Shard { key, name }))
    }
}

/// The shard that a key holds: `k:3` of the stream `k`, but not `k:03` or `k:meta`.
fn shard_of(stream: &str, name: &str) -> Option<ShardKey> {
    let digits = name.strip_prefix(stream)?.strip_prefix(':')?;
    let shard = number(digits.as_bytes()).filter(|_| digits == "0" || !digits.starts_with('0'))?;
    Some(ShardKey::new(stream, shard))
}

/// A name in a pattern of `SCAN`.
fn escaped(name: &str) -> String {
    let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '\\' | '^');
    name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_shards() {
        let of = |name| shard_of("k", name).map(|shard| shard.shard);
        assert_eq!([of("k:0"), of("k:17")], [Some(0), Some(17)]);
        for other in ["k", "k:", "k:meta", "k:1:2", "k:01", "kk:1", "k:-1", "k:+1", "k:18446744073709551616"] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(escaped("a*[b]"), "a\\*\\[b\\]");
    }

    #[test]
    fn a_stream_is_plain_or_sharded() {
        let mut finder = Finder::new(vec!["k".into()]);
        assert!(finder.add(ShardKey::new("k", 0), "k".into()).unwrap().is_some());
        assert!(finder.add(ShardKey::new("k", 0), "k".into()).unwrap().is_none());
        let error = finder.add(ShardKey::new("k", 3), "k:3".into()).unwrap_err();
        assert!(error.message().contains("`k`") && error.message().contains("`k:3`"), "{error}");
    }
}
