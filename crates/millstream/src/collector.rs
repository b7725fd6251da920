//! A source that the program pushes values into.

use millstream_bundle::systems::stdio;
pub use millstream_bundle::systems::stdio::{Collector, CollectorOptions, Pushed, Receipt};

use crate::{
    Pipeline,
    stream::Stream,
    typed::{Data, Typed, written_bytes},
};

impl Pipeline {
    /// A source of values that the program pushes, such as the handlers of a web server; see [`Collector`] for what that
    /// promises. Values travel as they are, without being encoded. The source ends when the last clone of the collector is
    /// dropped, or one is closed.
    ///
    /// ```
    /// use millstream::{CollectorOptions, prelude::*};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> millstream::Result<()> {
    /// let pipeline = Pipeline::new("orders").in_memory();
    /// let (collector, orders) = pipeline.collector::<u64>(CollectorOptions::default());
    /// orders.map(|n| n * 2).drop();
    /// let mut running = pipeline.start()?;
    /// let epoch = collector.push_and_wait(21).await?;
    /// println!("committed by epoch {epoch}");
    /// drop(collector);
    /// assert_eq!(running.wait().await?.stages["drop"].records_in, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn collector<T: Data>(&self, options: CollectorOptions) -> (Collector<T>, Stream<T>) {
        let (collector, plan) = stdio::collector(options, held_bytes::<T>, Typed::body);
        (collector, self.enter_typed(plan, "collector"))
    }
}

/// About as many bytes as a value holds: those of what it owns are as many as it takes to write it down.
fn held_bytes<T: Data>(value: &T) -> usize {
    let owned = if std::mem::needs_drop::<T>() { written_bytes(value) } else { 0 };
    size_of::<T>() + owned
}
