//! Kafka's own programs.

use std::{path::Path, process::Command};

use super::Kafka;
use crate::servers::{Missing, redis::printed};

/// The programs that Kafka is shipped with, and the class that each runs.
const PROGRAMS: [(&str, &str); 11] = [
    ("kafka-acls", "org.apache.kafka.tools.AclCommand"),
    ("kafka-configs", "kafka.admin.ConfigCommand"),
    ("kafka-console-consumer", "org.apache.kafka.tools.consumer.ConsoleConsumer"),
    ("kafka-console-producer", "org.apache.kafka.tools.ConsoleProducer"),
    ("kafka-consumer-groups", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"),
    ("kafka-delete-records", "org.apache.kafka.tools.DeleteRecordsCommand"),
    ("kafka-get-offsets", "org.apache.kafka.tools.GetOffsetShell"),
    ("kafka-leader-election", "org.apache.kafka.tools.LeaderElectionCommand"),
    ("kafka-reassign-partitions", "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"),
    ("kafka-topics", "org.apache.kafka.tools.TopicCommand"),
    ("kafka-transactions", "org.apache.kafka.tools.TransactionsCommand"),
];

impl Kafka {
    /// Runs one of Kafka's programs, by its name or its class, and answers what it prints; it gets the addresses of the brokers,
    /// unless the arguments name some. Fails the test when it fails. Takes a second, most of it for Java: for topics there are
    /// [`Kafka::create_topic`] and [`Kafka::delete_topic`].
    ///
    /// ```no_run
    /// # let kafka = millstream_testkit::servers::Kafka::start()?;
    /// kafka.tool("kafka-consumer-groups", &["--describe", "--group", "mine"]);
    /// # Ok::<(), millstream_testkit::servers::Missing>(())
    /// ```
    #[track_caller]
    pub fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let class = PROGRAMS.iter().find(|(name, _)| *name == program).map_or(program, |(_, class)| class);
        let logging = format!("-Dlog4j2.configurationFile={}", self.tool_logging.display());
        let words = self.install.java("tools", &["-Xmx128m", "-XX:TieredStopAtLevel=1", &logging]);
        let mut tool = Command::new(&words[0]);
        tool.args(&words[1..]).arg(class).args(arguments);
        if !arguments.contains(&"--bootstrap-server") {
            tool.args(["--bootstrap-server", &self.bootstrap()]);
        }
        printed(&mut tool)
    }

    /// Runs a program in Java, given as one file of source, with Kafka's own client at hand; answers what it prints. Its first
    /// argument is the addresses of the brokers. Fails the test when it fails; `Missing` where there is no compiler.
    #[track_caller]
    pub fn java(&self, source: &Path, arguments: &[&str]) -> Result<String, Missing> {
        Missing::unless_installed("javac", "default-jdk-headless")?;
        let logging = format!("-Dlog4j2.configurationFile={}", self.tool_logging.display());
        let words = self.install.java("tools", &["-Xmx256m", "-XX:TieredStopAtLevel=1", &logging]);
        let mut java = Command::new(&words[0]);
        java.args(&words[1..]).arg(source).arg(self.bootstrap()).args(arguments);
        Ok(printed(&mut java))
    }
}
