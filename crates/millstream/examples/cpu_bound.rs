//! A step that computes for long runs on threads of its own: the one thread of the runtime stays free, and the results keep the
//! order of their records.
//!
//! ```text
//! cargo run --release --example cpu_bound
//! ```

use millstream::prelude::*;

fn primes_below(limit: u64) -> usize {
    (2..limit).filter(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let pipeline = Pipeline::new("cpu-bound").in_memory();
    pipeline
        .values([100_000, 50_000, 20_000, 10_000, 5_000, 2_000, 1_000, 0])
        .map_blocking(|limit: &u64| match limit {
            0 => Err("there is nothing below 0"),
            limit => Ok((*limit, primes_below(*limit))),
        })
        // At most so many threads; one for each processor if not said.
        .in_flight(2)
        .name("count")
        .map(|(limit, primes)| format!("{primes} primes below {limit}"))
        .to_text()
        .sink("stdio:?format=raw");
    let summary = pipeline.run().await?;
    println!("{} failed", summary.dead());
    Ok(())
}
