//! Which node of a cluster has which keys.

use std::sync::Arc;

use crate::{id::number, resp::Reply};

/// Number of hash slots of a cluster.
pub(crate) const SLOTS: u16 = 16_384;

/// The hash slot of a key: that of its tag `{...}` if it has one.
pub(crate) fn slot(key: &[u8]) -> u16 {
    crc16(tag(key).unwrap_or(key)) % SLOTS
}

/// The hash slot of all keys that begin like this, if its tag says so.
pub(crate) fn tagged_slot(prefix: &[u8]) -> Option<u16> {
    tag(prefix).map(|tag| crc16(tag) % SLOTS)
}

fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let rest = key.get(open + 1..)?;
    let close = rest.iter().position(|byte| *byte == b'}')?;
    rest.get(..close).filter(|tag| !tag.is_empty())
}

/// CRC-16/XMODEM. An epoch asks for the slot of each piece that it stages, hence the table.
fn crc16(bytes: &[u8]) -> u16 {
    // The index is a byte.
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)])
}

/// What each byte adds.
static CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// All on one server, in no cluster.
    One(Arc<str>),
    /// By slot: first, last, master; ascending.
    Cluster(Vec<(u16, u16, Arc<str>)>),
}

impl Topology {
    /// Reads the answer to `CLUSTER SLOTS` of `asked`.
    pub(crate) fn read(reply: &Reply, asked: &Arc<str>) -> Option<Self> {
        let mut cursor = reply.cursor();
        let ranges = cursor.array()?;
        let mut all = Vec::new();
        for _ in 0..ranges {
            let nodes = cursor.array()?.checked_sub(2)?;
            let (first, last) = (cursor.integer()?, cursor.integer()?);
            for i in 0..nodes {
                if i > 0 {
                    cursor.skip();
                    continue;
                }
                let parts = cursor.array()?.checked_sub(2)?;
                let host = match cursor.next()? {
                    crate::resp::Item::Text(host) => std::str::from_utf8(host).ok()?,
                    _ => "",
                };
                let port = cursor.integer()?;
                (0..parts).for_each(|_| cursor.skip());
                all.push((u16::try_from(first).ok()?, u16::try_from(last).ok()?, node(host, port, asked)));
            }
        }
        all.sort();
        Some(Topology::Cluster(all))
    }

    /// The node that has the keys of a slot; none while nobody has them.
    pub(crate) fn node(&self, slot: u16) -> Option<&Arc<str>> {
        match self {
            Topology::One(node) => Some(node),
            Topology::Cluster(ranges) => {
                let at = ranges.partition_point(|(_, last, _)| *last < slot);
                ranges.get(at).filter(|(first, ..)| *first <= slot).map(|(.., node)| node)
            }
        }
    }

    /// All masters.
    pub(crate) fn nodes(&self) -> Vec<Arc<str>> {
        match self {
            Topology::One(node) => vec![node.clone()],
            Topology::Cluster(ranges) => {
                let mut nodes: Vec<_> = ranges.iter().map(|(.., node)| node.clone()).collect();
                nodes.sort();
                nodes.dedup();
                nodes
            }
        }
    }

    /// Whether keys of different slots are apart.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Topology::Cluster(_))
    }

    /// Notes where a slot has moved to.
    pub(crate) fn moved(&mut self, slot: u16, to: &Arc<str>) {
        let Topology::Cluster(ranges) = self else { return };
        let mut all = Vec::with_capacity(ranges.len() + 2);
        for (first, last, node) in ranges.drain(..) {
            if slot < first || slot > last {
                all.push((first, last, node));
                continue;
            }
            if first < slot {
                all.push((first, slot - 1, node.clone()));
            }
            if slot < last {
                all.push((slot + 1, last, node));
            }
        }
        all.push((slot, slot, to.clone()));
        all.sort();
        *ranges = all;
    }
}

/// An empty host is the one that was asked.
fn node(host: &str, port: i64, asked: &str) -> Arc<str> {
    let host = match host {
        "" | "?" => asked.rsplit_once(':').map_or(asked, |(host, _)| host),
        host => host,
    };
    let bare = host.contains(':') && !host.starts_with('[');
    if bare { format!("[{host}]:{port}").into() } else { format!("{host}:{port}").into() }
}

/// A server's error that says who to ask instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Redirect {
    /// From now on.
    Moved(u16, Arc<str>),
    /// This time.
    Ask(Arc<str>),
}

impl Redirect {
    /// Reads `MOVED slot node` and `ASK slot node`.
    pub(crate) fn read(text: &str, asked: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (kind, slot, to) = (words.next()?, words.next()?, words.next()?);
        let (host, port) = to.rsplit_once(':')?;
        let to = node(host, i64::try_from(number(port.as_bytes())?).ok()?, asked);
        match kind {
            "MOVED" => Some(Redirect::Moved(u16::try_from(number(slot.as_bytes())?).ok()?, to)),
            "ASK" => Some(Redirect::Ask(to)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // As `CLUSTER KEYSLOT` says.
        let known = [("123456789", 12_739), ("foo", 12_182), ("{foo}:1", 12_182), ("a{foo}b{c}", 12_182)];
        known.iter().for_each(|(key, expected)| assert_eq!(slot(key.as_bytes()), *expected, "{key}"));
        assert_eq!(slot(b"{}a"), crc16(b"{}a") % SLOTS);
        assert_eq!(tagged_slot(b"x{foo}"), Some(slot(b"foo")));
        assert_eq!([tagged_slot(b"foo"), tagged_slot(b"{fo"), tagged_slot(b"{}foo")], [None; 3]);
    }

    #[test]
    fn redirects_name_a_node() {
        assert_eq!(Redirect::read("MOVED 3 10.0.0.1:7", "h:1"), Some(Redirect::Moved(3, "10.0.0.1:7".into())));
        assert_eq!(Redirect::read("ASK 3 :7", "h:1"), Some(Redirect::Ask("h:7".into())));
        assert_eq!(Redirect::read("MOVED 3 ::1:7", "h:1"), Some(Redirect::Moved(3, "[::1]:7".into())));
        assert_eq!(Redirect::read("ERR MOVED", "h:1"), None);
    }

    #[test]
    fn a_moved_slot_is_found_at_its_new_node() {
        let mut topology = Topology::Cluster(vec![(0, 9, "a:1".into()), (20, 29, "b:1".into())]);
        assert_eq!(topology.node(15), None);
        topology.moved(5, &"c:1".into());
        let of = |slot| topology.node(slot).map(|node| node.to_string());
        assert_eq!(
            [of(4), of(5), of(6), of(20), of(30)].map(|n| n.unwrap_or_default()),
            ["a:1", "c:1", "a:1", "b:1", ""]
        );
    }
}
