//! Steps with several inputs that work while they wait.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use millstream_core::{
    Batch, BatchBuilder, Change, Error, ErrorKind, Form, Operator, Output, Record, Result, SourcePlan, Step, StepPlan,
};
use millstream_runtime::{Entry, ErrorRule, Match, Retry};
use millstream_testkit::{FakeSink, FakeSource};

use crate::{Bench, balanced, named, spec, until};

/// Says of each record by which input it came, the second time: the first time it takes it in, and later says that the first of
/// a batch has failed, and gives the others back.
#[derive(Clone, Debug, Default)]
struct Later {
    seen: BTreeSet<Vec<u8>>,
    begun: Vec<(usize, Batch)>,
}

impl StepPlan for Later {
    fn form(&self) -> Form {
        Form::Text
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Operator(Box::new(self.clone())))
    }
}

#[async_trait]
impl Operator for Later {
    async fn restore(&mut self, _: Vec<Change>) -> Result<()> {
        Ok(())
    }

    async fn process(&mut self, input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let batch = batch.into_bytes();
        let mut again = BatchBuilder::new();
        let mut new = Vec::new();
        for row in 0..batch.len() {
            let record = batch.get(row).to_record();
            let value = record.value.clone().unwrap_or_default();
            if self.seen.insert(value.to_vec()) {
                new.push(row as u32);
            } else {
                let said = format!("{input}:{}", String::from_utf8_lossy(&value));
                again.push(&Record { value: Some(said.into()), ..record });
            }
        }
        if !new.is_empty() {
            self.begun.push((input, batch.select(new)));
        }
        out.emit(0, again.finish());
        Ok(())
    }

    async fn ready(&mut self) {
        if self.begun.is_empty() {
            std::future::pending().await
        }
    }

    async fn advance(&mut self, out: &mut Output) -> Result<()> {
        for (input, batch) in self.begun.drain(..) {
            out.came_by(Some(input));
            out.fail(&batch, 0, Error::new(ErrorKind::Unavailable, "not now"));
            out.give_back(batch.slice(1, batch.len()));
        }
        Ok(())
    }

    async fn settle(&mut self, out: &mut Output) -> Result<()> {
        self.advance(out).await
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn what_fails_later_or_is_given_back_comes_again_by_the_input_by_which_it_came() {
    let (sink, bench) = (FakeSink::plain(), Bench::new());
    let (left, right) =
        (FakeSource::of(["a", "b", "c"]).in_batches_of(3), FakeSource::of(["x", "y", "z"]).in_batches_of(3));
    let mut spec = spec(&left, &[], &sink);
    spec.sources[0].name = Some("left".into());
    let mut second = Entry::ready(Arc::new(right) as Arc<dyn SourcePlan>);
    second.name = Some("right".into());
    spec.sources.push(second);
    spec.steps = vec![Entry::ready(Arc::new(Later::default()) as Arc<dyn StepPlan>)];
    spec.steps[0].from = vec!["left".into(), "right".into()];
    let retry = Retry { attempts: Some(3), delay: "1ms".parse().unwrap(), jitter: 0.0, ..Retry::default() };
    spec.errors = vec![ErrorRule { matches: Match::default(), retry: Some(retry), then: None }];
    let mut running = bench.start(&spec);
    let summary = tokio::time::timeout(Duration::from_secs(20), running.wait()).await.unwrap().unwrap();
    let mut values = sink.values();
    values.sort();
    assert_eq!(values, ["0:a", "0:b", "0:c", "1:x", "1:y", "1:z"]);
    balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn what_one_sink_has_parked_holds_up_only_the_sources_that_lead_to_it() {
    let (well, ill, bench) = (FakeSink::plain(), FakeSink::plain(), Bench::new());
    let values = |name: &str| (0..500).map(|i| format!("{name} {i:01000}")).collect::<Vec<_>>();
    for value in values("ill") {
        ill.reject(&value, usize::MAX, Error::new(ErrorKind::Unavailable, "away"));
    }
    let (dead, live) = (FakeSource::live(), FakeSource::live());
    values("well").into_iter().for_each(|value| live.push(None, value));
    let mut spec = spec(&dead, &[], &ill);
    spec.limits.memory = "1MiB".parse().unwrap();
    let rule = Retry { attempts: None, delay: "1h".parse().unwrap(), ..Retry::default() };
    spec.errors = vec![ErrorRule { matches: Match::default(), retry: Some(rule), then: None }];
    spec.sources[0].name = Some("dead".into());
    let gone_on = Entry::ready(Arc::new(live.clone()) as Arc<dyn SourcePlan>);
    spec.sources.push(Entry { name: Some("live".into()), ..gone_on });
    spec.sinks[0].from = vec!["dead".into()];
    spec.sinks.push(Entry { from: vec!["live".into()], ..named(&well, "well") });
    let running = bench.start(&spec);
    let handle = running.handle();
    let mut waiting = values("ill").into_iter();
    // More than may be parked, and what its source asks for meanwhile.
    waiting.by_ref().take(200).for_each(|value| dead.push(None, value));
    until("the records to be parked", || handle.status().stages["sink"].parked == 200).await;
    waiting.by_ref().take(1).for_each(|value| dead.push(None, value));
    handle.checkpoint().await.unwrap();
    waiting.for_each(|value| dead.push(None, value));
    until("the other ones", || well.values().len() == 500).await;
    handle.checkpoint().await.unwrap();
    let read = handle.status().stages["dead"].records_in;
    assert!(read <= 201 && ill.values().is_empty(), "{read} were read");
    handle.stop();
}
