//! `millstream redis dump|trim|groups URL`

mod dump;
mod groups;
mod trim;

use clap::{Args, Subcommand};
use millstream::{admin::redis::RedisAdmin, core::Result};

use crate::{exit::Outcome, system};

/// Look into Redis streams and their groups, and trim them.
#[derive(Debug, Args)]
pub(crate) struct RedisCommand {
    #[command(subcommand)]
    what: What,
}

/// Each tells in its own file what it does.
#[derive(Debug, Subcommand)]
enum What {
    Dump(dump::Dump),
    Trim(trim::Trim),
    Groups(groups::Groups),
}

/// Which streams.
#[derive(Debug, Args)]
struct Streams {
    /// The streams: `redis://[user:password@]node[,node]/stream[,stream]`; a stream `k` is the key `k`, or `k:0`, `k:1`, ...
    url: String,
    /// An option of the connection, such as `-o db=2` or `-o tls.ca=ca.pem`
    #[arg(short, value_name = "NAME=VALUE")]
    o: Vec<String>,
}

impl Streams {
    fn admin(&self) -> Result<RedisAdmin> {
        RedisAdmin::new(&system::options("redis_stream", "redis://node/stream", &self.url, &self.o)?)
    }
}

impl RedisCommand {
    pub(crate) fn execute(self) -> Outcome {
        match self.what {
            What::Dump(command) => command.execute(),
            What::Trim(command) => command.execute(),
            What::Groups(command) => command.execute(),
        }
    }
}
