//! The end of a member that has no part in its group's work.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;

use super::{group::Group, reader::Reader};
use crate::native;

/// Between two questions, and how long one may take: the thread has nothing else to do.
const EVERY: Duration = Duration::from_secs(1);

impl Reader {
    /// Whether the group has shared out all its partitions, and none to us. Without partitions of its own nobody else can tell
    /// a member that is to end with them that there will be none.
    pub(super) fn has_no_part(&mut self) -> bool {
        let Reader { group: Some(group), table, .. } = self else { return false };
        let free = group.coming.is_none() && group.leaving.is_none() && table.len() == 0;
        if !free || group.asked_at.is_some_and(|at| at.elapsed() < EVERY) {
            return false;
        }
        group.asked_at = Some(Instant::now());
        let (Some(name), client) = (self.plan.options.group.clone(), self.cluster.consumer.client()) else {
            return false;
        };
        let Some(us) = native::member_id(client) else { return false };
        // An answer that does not come is asked for again.
        let answer = native::describe_groups(client, &[name], EVERY).unwrap_or_default();
        answer.iter().any(|described| group.is_shared_out(described, &us))
    }
}

impl Group {
    fn is_shared_out(&self, described: &native::GroupDescription, us: &str) -> bool {
        let all: usize = self.topics.values().map(|count| usize::try_from(*count).unwrap_or(0)).sum();
        let of = |member: &native::MemberDescription| {
            member.partitions.iter().filter(|(topic, _)| self.topics.contains_key(topic)).count()
        };
        let idle = described.members.iter().any(|member| member.id == us && of(member) == 0);
        described.state == "Stable" && idle && described.members.iter().map(of).sum::<usize>() >= all
    }
}
