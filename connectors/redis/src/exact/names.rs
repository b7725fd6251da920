//! Names of the keys that are ours.

use std::{collections::HashMap, sync::LazyLock};

use serde::{Deserialize, Serialize};

use crate::client::{SLOTS, slot};

/// Whose keys they are. What one sink has prepared is none of the others' business: they may be opened before it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SinkKeys {
    /// The store of the pipeline.
    pub(crate) store: String,
    /// The sink's name in it.
    pub(crate) sink: String,
}

impl SinkKeys {
    fn list(&self, tag: &str, owner: &str, number: u64) -> Vec<u8> {
        let SinkKeys { store, sink } = self;
        format!("{{{tag}}}:millstream:{store}:{sink}:staged:{owner}:{number}").into_bytes()
    }

    /// What all lists match, whoever staged them.
    pub(super) fn pattern(&self) -> String {
        let special = |c: char| matches!(c, '*' | '?' | '[' | ']' | '\\' | '^');
        let plain = |name: &str| -> String {
            name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
        };
        format!("*:millstream:{}:{}:staged:*", plain(&self.store), plain(&self.sink))
    }

    /// Beside the lists of a slot: the newest epoch that was moved.
    pub(super) fn marker(&self, list: &[u8]) -> Vec<u8> {
        let tag = list.iter().position(|byte| *byte == b'}').and_then(|end| list.get(..=end)).unwrap_or_default();
        [tag, b":millstream:", self.store.as_bytes(), b":", self.sink.as_bytes(), b":epoch"].concat()
    }
}

/// Keys of what one sink stages in one epoch.
#[derive(Clone, Debug)]
pub(crate) struct Staging {
    of: SinkKeys,
    /// Tells this opening of the sink from all others.
    owner: String,
    /// Counts epochs of this opening.
    number: u64,
    cluster: bool,
    names: HashMap<u16, Vec<u8>>,
}

impl Staging {
    pub(crate) fn new(of: SinkKeys, owner: String, cluster: bool) -> Self {
        Staging { of, owner, number: 0, cluster, names: HashMap::new() }
    }

    /// The list for keys of a slot.
    pub(crate) fn list(&mut self, slot: u16) -> &[u8] {
        let Staging { of, owner, number, cluster, names } = self;
        names.entry(slot).or_insert_with(|| {
            let tag = if *cluster { tag(slot) } else { "0".to_owned() };
            of.list(&tag, owner, *number)
        })
    }

    /// From here on it is the next epoch.
    pub(crate) fn next(&mut self) {
        self.number += 1;
        self.names.clear();
    }
}

/// Where the host of a pipeline keeps its things: what stands before their names.
#[derive(Clone, Debug, Default)]
pub(super) struct HostKeys {
    prefix: String,
}

impl HostKeys {
    /// In a slot of a cluster; without one anywhere.
    pub(super) fn new(pipeline: &str, slot: Option<u16>) -> Self {
        match slot.map(tag) {
            Some(tag) => HostKeys { prefix: format!("{{{tag}}}:millstream:{pipeline}") },
            None => HostKeys { prefix: format!("{{{pipeline}}}:millstream") },
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
    pub(super) fn acks(&self) -> String {
        format!("{}:acks", self.prefix)
    }
}

/// The smallest number that, as a hash tag, lies in a slot.
fn tag(wanted: u16) -> String {
    TAGS.get(usize::from(wanted)).copied().unwrap_or_default().to_string()
}

/// For each slot. Found by trying, which takes some milliseconds: once, and not in each epoch.
static TAGS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let mut tags = vec![None; usize::from(SLOTS)];
    let mut missing = tags.len();
    // Numbers below 2^20 hit every slot, many times over.
    for number in 0u32..1 << 20 {
        let place = tags.get_mut(usize::from(slot(number.to_string().as_bytes())));
        if let Some(place @ None) = place {
            *place = Some(number);
            missing -= 1;
        }
        if missing == 0 {
            break;
        }
    }
    tags.into_iter().map(Option::unwrap_or_default).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_tag_and_lists_lie_in_it() {
        let of = SinkKeys { store: "s".into(), sink: "out".into() };
        for wanted in (0..SLOTS).step_by(7) {
            let mut staging = Staging::new(of.clone(), "o".into(), true);
            let list = staging.list(wanted).to_vec();
            assert_eq!(slot(&list), wanted);
            assert_eq!(slot(&of.marker(&list)), wanted);
            let host = HostKeys::new("p", Some(wanted));
            for key in [host.owner(), host.checkpoint(), host.acks()] {
                assert_eq!(slot(key.as_bytes()), wanted);
            }
        }
    }
}
