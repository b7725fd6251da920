//! The books in words: what became of everything that was read.

use std::collections::BTreeMap;

use millstream::{
    core::Role,
    runtime::{Plan, StageFigures},
};

use crate::count::thousands;

/// Sums over all stages of a pipeline. `read + created` is the sum of all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) read: u64,
    pub(crate) read_bytes: u64,
    pub(crate) created: u64,
    pub(crate) wrote: u64,
    pub(crate) absorbed: u64,
    pub(crate) filtered: u64,
    pub(crate) dropped: u64,
    pub(crate) dead: u64,
    pub(crate) returned: u64,
    pub(crate) parked: u64,
}

/// The stages of a plan by name, for sums after it has started.
#[derive(Clone, Debug)]
pub(crate) struct Stages(Vec<(String, Role)>);

impl Stages {
    pub(crate) fn of(plan: &Plan) -> Self {
        Stages(plan.nodes.iter().map(|node| (node.name.clone(), node.role())).collect())
    }

    /// The books from the figures of all stages.
    pub(crate) fn books(&self, figures: &BTreeMap<String, StageFigures>) -> Books {
        let mut books = Books::default();
        for (name, role) in &self.0 {
            let Some(stage) = figures.get(name) else { continue };
            match role {
                Role::Source => {
                    books.read += stage.records_in;
                    books.read_bytes += stage.bytes_in;
                }
                Role::Sink => books.wrote += stage.records_out,
                Role::Step => {}
            }
            books.created += stage.created;
            books.absorbed += stage.absorbed;
            books.filtered += stage.filtered;
            books.dropped += stage.dropped;
            books.dead += stage.dead;
            books.returned += stage.returned;
            books.parked += stage.parked;
        }
        books
    }
}

impl Books {
    /// What has come to no end: under way when the run was stopped, and to be done again.
    pub(crate) fn in_flight(&self) -> i64 {
        let ended = self.wrote + self.absorbed + self.filtered + self.dropped + self.dead + self.returned + self.parked;
        (self.read + self.created) as i64 - ended as i64
    }
}

/// `read 1,000 + created 5 = wrote 995 + filtered 8 + dead 2`; categories of none are left out.
impl std::fmt::Display for Books {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "read {}", thousands(self.read))?;
        if self.created > 0 {
            write!(f, " + created {}", thousands(self.created))?;
        }
        write!(f, " = wrote {}", thousands(self.wrote))?;
        let rest = [
            ("absorbed", self.absorbed),
            ("filtered", self.filtered),
            ("dropped", self.dropped),
            ("dead", self.dead),
            ("returned", self.returned),
            ("parked", self.parked),
            ("under way", u64::try_from(self.in_flight()).unwrap_or(0)),
        ];
        rest.iter()
            .filter(|(_, count)| *count > 0)
            .try_for_each(|(name, count)| write!(f, " + {name} {}", thousands(*count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_equation_is_true_and_short() {
        let books = Books { read: 1000, wrote: 990, filtered: 8, dead: 2, ..Books::default() };
        assert_eq!(books.to_string(), "read 1,000 = wrote 990 + filtered 8 + dead 2");
        let books = Books { read: 10, created: 3, wrote: 2, absorbed: 10, ..Books::default() };
        assert_eq!(books.to_string(), "read 10 + created 3 = wrote 2 + absorbed 10 + under way 1");
    }
}
