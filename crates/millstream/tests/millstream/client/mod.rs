//! Systems by URL and by type: the example, and pipelines that choose the shards of their sinks.

mod example;
mod shards;
