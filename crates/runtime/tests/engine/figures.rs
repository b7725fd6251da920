//! How busy a stage is, for those who look for the slowest.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use millstream_core::{Batch, Epoch, Last, Outcomes, Result, Sink, SinkCapabilities, SinkPlan, Token, WriteId};
use millstream_testkit::FakeSource;

use crate::{Bench, balanced, numbers, spec};

const PAUSE: Duration = Duration::from_millis(5);

/// Takes its time for everything but writing; counts how often.
#[derive(Clone, Debug, Default)]
struct Slow(Arc<AtomicU32>);

impl Slow {
    async fn pause(&self) {
        self.0.fetch_add(1, SeqCst);
        tokio::time::sleep(PAUSE).await;
    }
}

impl SinkPlan for Slow {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities::WHOLE
    }

    fn describe(&self) -> String {
        "slow".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Sink for Slow {
    async fn open(&mut self, _: &[(Epoch, Token)]) -> Result<()> {
        Ok(())
    }

    async fn write(&mut self, _: Batch) -> Result<WriteId> {
        Ok(0)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        self.pause().await;
        Ok(Outcomes::default())
    }

    async fn prepare(&mut self, epoch: Epoch, _: Last) -> Result<Option<Token>> {
        self.pause().await;
        Token::new(&epoch).map(Some)
    }

    async fn commit(&mut self, _: &Token) -> Result<()> {
        self.pause().await;
        Ok(())
    }
}

#[tokio::test]
async fn a_sink_that_is_slow_in_what_it_does_for_an_epoch_is_busy_all_that_time() {
    let (source, sink, bench) = (FakeSource::of(numbers(50)).in_batches_of(5), Slow::default(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.checkpoint.count = Some(10);
    let summary = bench.start(&spec).wait().await.unwrap();
    let pauses = sink.0.load(SeqCst);
    assert!(pauses > 10, "{pauses}");
    let busy = Duration::from_nanos(summary.stages["sink"].busy_ns);
    assert!(busy >= PAUSE * pauses, "busy for {busy:?} with {pauses} pauses");
    balanced(&summary);
}
