//! Every benchmark of Millstream, with peers and limits beside it in the same run.
//!
//! ```text
//! cargo run --release -p millstream-bench --features peers -- [FILTER]...
//! ```
//!
//! Each row is one comparison: our figure, that of a limit (a loop written by hand, in this crate) or of a peer (another
//! program, behind the feature `peers`), and their ratio against its target. Only ratios bind; the figures beside them are
//! those of this machine. Contenders take turns for some rounds; what is printed are medians.
//!
//! "Per core" is meant literally: the whole process keeps to one core, and a rate is units by second of processor time,
//! of all threads and child processes, so that other work on the machine does not count. Latencies are wall time.

mod buffer;
mod collector;
mod data;
mod epochs;
mod flow;
mod harness;
mod idle;
mod json;
mod kafka;
mod parts;
#[cfg(feature = "peers")]
mod peers;
mod redis;
mod roles;
mod ss;
mod ss_scan;
mod stdio;
mod typed;
mod words;

use anyhow::Result;
use harness::{Case, Table};

/// As in the `millstream` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// All cases, in the order of the table.
const CASES: &[Case] = &[
    Case { name: "flow", run: flow::run },
    Case { name: "epochs", run: epochs::run },
    Case { name: "ss", run: ss::run },
    Case { name: "buffer", run: buffer::run },
    Case { name: "stdio", run: stdio::run },
    Case { name: "words", run: words::run },
    Case { name: "json", run: json::run },
    Case { name: "typed", run: typed::run },
    Case { name: "collector", run: collector::run },
    Case { name: "idle", run: idle::run },
    Case { name: "kafka", run: kafka::run },
    Case { name: "redis", run: redis::run },
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((role, rest)) = roles::asked(&arguments) {
        return roles::play(role, rest);
    }
    if arguments.iter().any(|argument| argument.starts_with('-')) {
        println!(
            "millstream-bench [FILTER]...   cases: {}",
            CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(" ")
        );
        return Ok(());
    }
    let asked =
        |case: &Case| arguments.is_empty() || arguments.iter().any(|filter| case.name.contains(filter.as_str()));
    if CASES.iter().any(|case| case.name == "stdio" && asked(case)) {
        // A compiler may use all cores.
        stdio::build()?;
    }
    harness::keep_to_one_core()?;
    let mut table = Table::default();
    for case in CASES {
        if asked(case) {
            eprintln!("{} ...", case.name);
            if let Err(error) = (case.run)(&mut table) {
                table.failed(case.name, &error);
            }
        }
    }
    table.print();
    Ok(())
}
