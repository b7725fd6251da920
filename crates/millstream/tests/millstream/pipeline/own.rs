//! Sources, steps and closures of one's own.

use async_trait::async_trait;
use millstream::{
    BatchOf, Batching, Error, Result, Typed,
    core::{
        Batch, Envelope, Event, Form, Position, Resume, Sequences, ShardKey, Shards, Source, SourceCapabilities,
        SourcePlan, Times, Told,
    },
};
use serde_json::json;

use super::bed::{Bed, texts};

/// One batch of numbers as they are, or as bytes.
#[derive(Clone, Debug)]
struct Numbers {
    typed: bool,
    given: bool,
}

impl SourcePlan for Numbers {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities { bounded: true, ..SourceCapabilities::LOG }
    }

    fn form(&self) -> Form {
        Form::Json
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Source for Numbers {
    async fn open(&mut self, _: &Resume) -> Result<()> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(Event::End);
        }
        let envelope = Envelope {
            shards: Shards::Same(ShardKey::new("numbers", 0)),
            sequences: Sequences::Run(0),
            times: Times::Absent,
            keys: None,
            headers: None,
            told: Told::default(),
        };
        let body = if self.typed { Typed::body(vec![1u64, 2, 3]) } else { Typed::body(vec!["one".to_owned()]) };
        Ok(Event::Batch(Batch::new(envelope, body).into()))
    }

    fn position(&self) -> Result<Position> {
        Ok(Position::default())
    }
}

behaviours! {
    async fn a_typed_source_of_your_own_gives_values_as_they_are() {
        let bed = Bed::new();
        bed.collect(bed.pipeline.typed_source_of::<u64>(Numbers { typed: true, given: false }).map(|n| n * 2));
        bed.run().await;
        assert_eq!(bed.delivered(), texts([2, 4, 6]));
    }

    async fn a_typed_source_that_gives_another_type_stops_the_pipeline() {
        let bed = Bed::new();
        bed.collect(bed.pipeline.typed_source_of::<u64>(Numbers { typed: false, given: false }).map(|n| n * 2));
        let error = bed.pipeline.run().await.unwrap_err().chain();
        assert!(error.contains("u64"), "{error}");
    }

    async fn a_component_with_several_outputs_is_a_stream_for_each() {
        let bed = Bed::new();
        let routes = json!({ "to": { "large": ". >= 3" } });
        let [rest, large] = bed.numbers(5).to_json().step_with_outputs("route", routes, ["rest", "large"]);
        large.json::<u64>().map(|n| n * 100).merge(rest.json::<u64>()).to_json().sink_of(bed.sink.clone());
        bed.run().await;
        assert_eq!(bed.sorted(), texts(["0", "1", "2", "300", "400"]));
    }

    async fn an_async_closure_that_captures_nothing_is_a_step() {
        let bed = Bed::new();
        let more = bed.numbers(3).map_async(async |n| Ok::<_, Error>(n + 1));
        bed.collect(more.batch(Batching::count(3)).handle(async |batch: BatchOf<u64>| {
            batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()
        }));
        bed.run().await;
        assert_eq!(bed.delivered(), texts([1, 2, 3]));
    }
}
