//! Names of the keys that are ours.

use std::collections::HashMap;

use crate::client::slot;

/// Keys of what one sink stages in one epoch.
#[derive(Clone, Debug)]
pub(crate) struct Staging {
    store: String,
    /// Tells this opening of the sink from all others.
    owner: String,
    /// Counts epochs of this opening.
    number: u64,
    cluster: bool,
    names: HashMap<u16, Vec<u8>>,
}

impl Staging {
    pub(crate) fn new(store: &str, owner: String, cluster: bool) -> Self {
        Staging { store: store.to_owned(), owner, number: 0, cluster, names: HashMap::new() }
    }

    /// The list for keys of a slot.
    pub(crate) fn list(&mut self, slot: u16) -> &[u8] {
        let Staging { store, owner, number, cluster, names } = self;
        names.entry(slot).or_insert_with(|| {
            let tag = if *cluster { tag(slot) } else { "0".to_owned() };
            staged(&tag, store, owner, &number.to_string())
        })
    }

    /// From here on it is the next epoch.
    pub(crate) fn next(&mut self) {
        self.number += 1;
        self.names.clear();
    }
}

fn staged(tag: &str, store: &str, owner: &str, what: &str) -> Vec<u8> {
    format!("{{{tag}}}:millstream:{store}:staged:{owner}:{what}").into_bytes()
}

/// Where the host of a pipeline keeps its things: the tag, and what stands before their names.
#[derive(Clone, Debug, Default)]
pub(super) struct HostKeys {
    tag: String,
    prefix: String,
}

impl HostKeys {
    /// In a slot of a cluster; without one anywhere.
    pub(super) fn new(pipeline: &str, slot: Option<u16>) -> Self {
        match slot.map(tag) {
            Some(tag) => HostKeys { prefix: format!("{{{tag}}}:millstream:{pipeline}"), tag },
            None => HostKeys { prefix: format!("{{{pipeline}}}:millstream"), tag: pipeline.to_owned() },
        }
    }

    /// Who has taken over last.
    pub(super) fn owner(&self) -> String {
        format!("{}:owner", self.prefix)
    }

    /// What was decided last.
    pub(super) fn checkpoint(&self) -> String {
        format!("{}:checkpoint", self.prefix)
    }

    /// Acknowledgements of one epoch that are too many for one command.
    pub(super) fn acks(&self, store: &str, owner: &str, number: u64) -> Vec<u8> {
        staged(&self.tag, store, owner, &format!("acks-{number}"))
    }
}

/// What all lists of a store match.
pub(super) fn pattern(store: &str) -> String {
    let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '\\' | '^');
    let store: String = store.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect();
    format!("*:millstream:{store}:staged:*")
}

/// Beside the lists of a slot: the newest epoch that was moved.
pub(super) fn marker(list: &[u8], store: &str) -> Vec<u8> {
    let tag = list.iter().position(|byte| *byte == b'}').and_then(|end| list.get(..=end)).unwrap_or_default();
    [tag, b":millstream:", store.as_bytes(), b":epoch"].concat()
}

/// The smallest number that, as a hash tag, lies in a slot. Found by trying, once a slot and epoch.
fn tag(wanted: u16) -> String {
    // Numbers below 2^20 hit every slot, many times over.
    let found = (0u32..1 << 20).map(|number| number.to_string()).find(|text| slot(text.as_bytes()) == wanted);
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_tag_and_lists_lie_in_it() {
        for wanted in (0..16_384).step_by(500) {
            let mut staging = Staging::new("s", "o".into(), true);
            let list = staging.list(wanted).to_vec();
            assert_eq!(slot(&list), wanted);
            assert_eq!(slot(&marker(&list, "s")), wanted);
            let host = HostKeys::new("p", Some(wanted));
            for key in [host.owner().into_bytes(), host.checkpoint().into_bytes(), host.acks("s", "o", 1)] {
                assert_eq!(slot(&key), wanted);
            }
        }
    }
}
