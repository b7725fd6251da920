//! How far a source has come: asked of the source itself, after each event that it gives.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use millstream::{
    core::{
        Batch, Companion, Event, Form, Lag, Position, Result, Resume, SeekTo, ShardKey, Source, SourceCapabilities,
        SourcePlan, Stamp,
    },
    runtime::{Plan, Planned},
};

/// What a source said last.
#[derive(Debug, Default)]
pub(crate) struct Gauge(Mutex<(Option<Lag>, Option<Lag>)>);

/// What is still to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Bytes(u64),
    Records(u64),
}

impl Left {
    pub(crate) fn number(self) -> u64 {
        match self {
            Left::Bytes(number) | Left::Records(number) => number,
        }
    }
}

/// How far all sources of a pipeline have come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) left: Left,
    /// Of how much, in the same unit, where it is known.
    whole: Option<u64>,
}

impl End {
    /// Bytes as the sources count them; batches in memory are larger.
    pub(crate) fn bytes_read(&self) -> Option<u64> {
        match self.left {
            Left::Bytes(left) => self.whole?.checked_sub(left),
            Left::Records(_) => None,
        }
    }

    /// From 0 to 1, where the end is known.
    pub(crate) fn share(&self) -> Option<f64> {
        let whole = self.whole.filter(|whole| *whole > 0)?;
        Some((1.0 - self.left.number() as f64 / whole as f64).clamp(0.0, 1.0))
    }
}

/// The sum over all sources; none if one of them does not know.
pub(crate) fn end(gauges: &[Arc<Gauge>]) -> Option<End> {
    let read: Vec<_> = gauges.iter().map(|gauge| *gauge.0.lock().unwrap_or_else(PoisonError::into_inner)).collect();
    let sum = |of: fn(&Lag) -> Option<u64>, second: bool| {
        let each = read.iter().map(|(lag, size)| if second { *size } else { *lag });
        each.map(|lag| lag.as_ref().and_then(of)).sum::<Option<u64>>().filter(|_| !read.is_empty())
    };
    let records: fn(&Lag) -> Option<u64> = |lag| lag.records;
    let bytes: fn(&Lag) -> Option<u64> = |lag| lag.bytes;
    let of = |left: Left, unit| End { left, whole: sum(unit, true) };
    sum(bytes, false)
        .map(|left| of(Left::Bytes(left), bytes))
        .or_else(|| sum(records, false).map(|left| of(Left::Records(left), records)))
}

/// The same plan with a gauge at each source.
pub(crate) fn watched(mut plan: Plan) -> (Plan, Vec<Arc<Gauge>>) {
    let mut gauges = Vec::new();
    for node in &mut plan.nodes {
        if let Planned::Source(source) = &mut node.component {
            let gauge = Arc::<Gauge>::default();
            gauges.push(gauge.clone());
            *source = Arc::new(WatchedPlan { inner: source.clone(), gauge });
        }
    }
    (plan, gauges)
}

#[derive(Debug)]
struct WatchedPlan {
    inner: Arc<dyn SourcePlan>,
    gauge: Arc<Gauge>,
}

impl SourcePlan for WatchedPlan {
    fn capabilities(&self) -> SourceCapabilities {
        self.inner.capabilities()
    }

    fn form(&self) -> Form {
        self.inner.form()
    }

    fn start(&self) -> SeekTo {
        self.inner.start()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn transaction(&self) -> Option<String> {
        self.inner.transaction()
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(Watched { inner: self.inner.create()?, gauge: self.gauge.clone() }))
    }

    fn observer(&self) -> Result<Box<dyn Source>> {
        self.inner.observer()
    }

    fn over(&self) {
        self.inner.over();
    }
}

struct Watched {
    inner: Box<dyn Source>,
    gauge: Arc<Gauge>,
}

#[async_trait]
impl Source for Watched {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        self.inner.open(resume).await
    }

    async fn next(&mut self) -> Result<Event> {
        let event = self.inner.next().await;
        *self.gauge.0.lock().unwrap_or_else(PoisonError::into_inner) = (self.inner.lag(), self.inner.size());
        event
    }

    async fn news(&mut self) -> Event {
        self.inner.news().await
    }

    fn position(&self) -> Result<Position> {
        self.inner.position()
    }

    async fn commit(&mut self, upto: &Position, stamp: Option<&Stamp>) -> Result<()> {
        self.inner.commit(upto, stamp).await
    }

    async fn acknowledge(&mut self, records: &Batch) -> Result<()> {
        self.inner.acknowledge(records).await
    }

    async fn seek(&mut self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<()> {
        self.inner.seek(to, shards).await
    }

    fn shards(&self) -> Vec<ShardKey> {
        self.inner.shards()
    }

    fn lag(&self) -> Option<Lag> {
        self.inner.lag()
    }

    fn size(&self) -> Option<Lag> {
        self.inner.size()
    }

    async fn release(&mut self, shards: &[ShardKey]) -> Result<()> {
        self.inner.release(shards).await
    }

    async fn give_back(&mut self, records: &Batch) -> Result<()> {
        self.inner.give_back(records).await
    }

    async fn keep_alive(&mut self) -> Result<()> {
        self.inner.keep_alive().await
    }

    fn companion(&self) -> Option<Companion> {
        self.inner.companion()
    }

    async fn close(&mut self) -> Result<()> {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use millstream::{
        core::SinkPlan,
        registry,
        runtime::{Entry, PipelineSpec, PlanOptions},
    };
    use millstream_testkit::{FakeSink, FakeSource};

    use super::*;

    /// A source plan that counts what it is asked.
    #[derive(Debug, Default)]
    struct Counting {
        over: AtomicU32,
        observers: AtomicU32,
    }

    impl SourcePlan for Counting {
        fn capabilities(&self) -> SourceCapabilities {
            SourceCapabilities::LOG
        }

        fn form(&self) -> Form {
            Form::Text
        }

        fn describe(&self) -> String {
            "counting".to_owned()
        }

        fn create(&self) -> Result<Box<dyn Source>> {
            FakeSource::of(Vec::<String>::new()).create()
        }

        fn observer(&self) -> Result<Box<dyn Source>> {
            self.observers.fetch_add(1, Ordering::Relaxed);
            self.create()
        }

        fn over(&self) {
            self.over.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_watched_source_hears_that_its_run_is_over_and_is_observed_as_itself() {
        let counting = Arc::<Counting>::default();
        let spec = PipelineSpec {
            name: "p".to_owned(),
            sources: vec![Entry::ready(counting.clone() as Arc<dyn SourcePlan>)],
            sinks: vec![Entry::ready(Arc::new(FakeSink::plain()) as Arc<dyn SinkPlan>)],
            ..PipelineSpec::default()
        };
        let plan = Plan::new(&spec, &registry(), PlanOptions::default()).unwrap();
        let (plan, gauges) = watched(plan);
        assert_eq!(gauges.len(), 1);
        for node in &plan.nodes {
            if let Planned::Source(source) = &node.component {
                source.observer().unwrap();
                source.over();
            }
        }
        let asked = (counting.observers.load(Ordering::Relaxed), counting.over.load(Ordering::Relaxed));
        assert_eq!(asked, (1, 1));
    }
}
