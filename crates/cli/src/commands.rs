//! What each command does: one file per command.

mod buffer;
mod check;
mod clock;
mod completions;
mod consume;
mod dlq;
mod file;
mod graph;
mod kafka;
mod list;
mod man;
mod produce;
mod redis;
mod relay;
mod run;
mod schema;
mod state;
mod status;
mod tap;
mod top;

use clap::Subcommand;

use crate::{exit::Outcome, talk::Talk};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run pipelines until their sources end, or until a signal
    Run(run::Run),
    /// Check pipeline files without running them: syntax, options, types, and what they promise
    Check(check::Check),
    /// Show the plan of a pipeline file
    Graph(graph::Graph),
    /// Copy a stream: from any source URL to any sink URL
    Relay(relay::Relay),
    /// Write each line of standard input as a record
    Produce(produce::Produce),
    /// Print the records of a stream
    Consume(consume::Consume),
    /// Write one record a tick
    Clock(clock::Clock),
    /// Look into a `.ss` stream file, check it, repair it
    File(file::FileCommand),
    /// Look into Redis streams and their groups, and trim them
    Redis(redis::RedisCommand),
    /// Look at topics and groups of Kafka or Redpanda, and set groups back
    Kafka(kafka::KafkaCommand),
    /// Look into the buffer on disk of a sink, and check it
    Buffer(buffer::BufferCommand),
    /// Checkpoints, positions and state of pipelines
    State(state::StateCommand),
    /// Records that failed for good
    Dlq(dlq::DlqCommand),
    /// Watch running pipelines: rates, queues, and what limits them
    Top(top::Top),
    /// Show how running pipelines get on, once
    Status(status::StatusCommand),
    /// Print the records that pass a point of a running pipeline
    Tap(tap::Tap),
    /// What this build knows: sources, sinks, steps, codecs, errors
    List(list::List),
    /// JSON Schema of pipeline files, or of one component
    Schema(schema::SchemaCommand),
    /// A completion script for a shell
    Completions(completions::Completions),
    /// The manual page
    Man(man::Man),
}

pub(crate) fn execute(command: Command, talk: &Talk) -> Outcome {
    match command {
        Command::Run(command) => command.execute(talk),
        Command::Check(command) => command.execute(talk),
        Command::Graph(command) => command.execute(),
        Command::Relay(command) => command.execute(talk),
        Command::Produce(command) => command.execute(talk),
        Command::Consume(command) => command.execute(talk),
        Command::Clock(command) => command.execute(talk),
        Command::File(command) => command.execute(talk),
        Command::Redis(command) => command.execute(),
        Command::Kafka(command) => command.execute(talk),
        Command::Buffer(command) => command.execute(talk),
        Command::State(command) => command.execute(talk),
        Command::Dlq(command) => command.execute(),
        Command::Top(command) => command.execute(talk),
        Command::Status(command) => command.execute(),
        Command::Tap(command) => command.execute(talk),
        Command::List(command) => command.execute(),
        Command::Schema(command) => command.execute(),
        Command::Completions(command) => command.execute(),
        Command::Man(command) => command.execute(),
    }
}
