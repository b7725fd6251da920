//! Making topics, deleting them, and asking who leads them.

use std::{io, time::Duration};

use super::{
    Kafka, Listener,
    requests::{self, Leader, NewTopic},
};
use crate::servers::wait_until;

/// What a broker says of a topic that is there already.
const TOPIC_EXISTS: i16 = 36;

/// What a broker says when the controller is about to change: ask again.
const TRY_AGAIN: [i16; 3] = [7, 41, 5];

/// How long the cluster may take to agree.
const AGREED_WITHIN: Duration = Duration::from_secs(30);

impl Kafka {
    /// Makes a topic with these settings (`[("cleanup.policy", "compact")]`), with a copy on each of up to three brokers. All
    /// running brokers know it when this returns.
    pub fn create_topic(&self, name: &str, partitions: usize, configs: &[(&str, &str)]) {
        let topic = NewTopic::new(name, partitions);
        self.create_topics(&[configs.iter().fold(topic, |topic, (name, value)| topic.config(name, value))]);
    }

    /// Makes several topics at once.
    pub fn create_topics(&self, topics: &[NewTopic]) {
        let copies = self.brokers.len().min(3);
        let complete = |topic: &NewTopic| if topic.copies < 0 { topic.clone().copies(copies) } else { topic.clone() };
        let topics: Vec<_> = topics.iter().map(complete).collect();
        // Made by a request before that was not answered in time.
        let mut again = false;
        self.asked("create topics", |broker| {
            let mut failed = requests::create_topics(broker, &topics)?;
            failed.retain(|(_, code)| !(again && *code == TOPIC_EXISTS));
            again = true;
            Ok(failed)
        });
        for topic in &topics {
            self.wait_for_topic(&topic.name, |leaders| {
                leaders.len() as i32 == topic.partitions && leaders.iter().all(|leader| leader.leader > 0)
            });
        }
    }

    /// Deletes a topic. No running broker knows it when this returns.
    pub fn delete_topic(&self, name: &str) {
        self.asked("delete a topic", |broker| requests::delete_topics(broker, &[name]));
        self.wait_for_topic(name, <[Leader]>::is_empty);
    }

    /// The broker that leads a partition, if there is one now.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<usize> {
        let leaders = self.leaders(topic).into_iter();
        let leader = leaders.filter(|leader| leader.partition == partition).map(|leader| leader.leader).next()?;
        usize::try_from(leader).ok()
    }

    /// Waits until a partition is led by another broker than `old`; answers which.
    pub fn wait_for_leader_other_than(&self, old: usize, topic: &str, partition: i32) -> usize {
        let mut new = None;
        wait_until("led by another broker", AGREED_WITHIN, || {
            new = self.leader(topic, partition).filter(|leader| *leader != old);
            new.is_some()
        });
        // The wait has ended well.
        new.unwrap_or(old)
    }

    /// Waits until each partition of a topic has a leader, and so many copies in sync.
    pub fn wait_for_in_sync(&self, topic: &str, copies: usize) {
        self.wait_for_topic(topic, |leaders| {
            !leaders.is_empty() && leaders.iter().all(|leader| leader.leader > 0 && leader.in_sync >= copies)
        });
    }

    /// As the first broker that answers knows it.
    fn leaders(&self, topic: &str) -> Vec<Leader> {
        self.running().find_map(|broker| requests::leaders(&broker, topic).ok()).unwrap_or_default()
    }

    fn wait_for_topic(&self, topic: &str, agreed: impl Fn(&[Leader]) -> bool) {
        wait_until(&format!("agreed about `{topic}`"), AGREED_WITHIN, || {
            self.running().all(|broker| requests::leaders(&broker, topic).is_ok_and(|leaders| agreed(&leaders)))
        });
    }

    /// Asks the brokers in turn until one does it.
    fn asked(&self, what: &str, mut ask: impl FnMut(&str) -> io::Result<Vec<(String, i16)>>) {
        let mut said = None;
        wait_until(&format!("able to {what}"), AGREED_WITHIN, || {
            self.running().any(|broker| match ask(&broker) {
                Ok(failed) if failed.iter().any(|(_, code)| TRY_AGAIN.contains(code)) => false,
                Ok(failed) => {
                    said = Some(failed);
                    true
                }
                Err(_) => false,
            })
        });
        let failed = said.unwrap_or_default();
        assert!(failed.is_empty(), "cannot {what}: {failed:?} (topic and Kafka's error code)");
    }

    fn running(&self) -> impl Iterator<Item = String> {
        self.brokers
            .iter()
            .zip(1..)
            .filter(|(broker, _)| broker.responds())
            .map(|(_, node)| self.address(node, Listener::Plain))
    }
}
