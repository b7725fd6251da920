//! Hooks of objects of the user: once each, however it goes.

use std::time::Duration;

use millstream::{BatchOf, BatchWorker, Batching, Ended, Error, ErrorKind, Result, Then, Worker};
use millstream_testkit::FakeSource;

use super::bed::{Bed, Gate, Seen, rule, texts, until};

/// What a hook does when it is called.
type Hook = fn() -> Result<()>;

/// Writes down its hooks, with its number; the first record that it handles, too.
#[derive(Clone)]
struct Told {
    log: Seen<String>,
    number: usize,
    handled: bool,
    hooks: [Hook; 3],
}

impl Told {
    fn tell(&self, what: &str) {
        self.log.add(format!("{} {what}", self.number));
    }
}

impl Worker<String> for Told {
    type Output = String;
    type Error = millstream::Error;

    async fn init(&mut self) -> Result<()> {
        self.tell("init");
        tokio::task::yield_now().await;
        self.hooks[0]()
    }

    async fn handle(&mut self, text: String) -> Result<String> {
        if !std::mem::replace(&mut self.handled, true) {
            self.tell("record");
        }
        Ok(text)
    }

    async fn drain(&mut self) -> Result<()> {
        self.tell("drain");
        tokio::task::yield_now().await;
        self.hooks[1]()
    }

    async fn terminate(&mut self) {
        self.tell("terminate");
        tokio::task::yield_now().await;
        self.hooks[2]().unwrap();
    }
}

impl BatchWorker<String> for Told {
    type Answer = ();
    type Error = millstream::Error;

    async fn handle(&mut self, _: BatchOf<String>) {}
}

fn told(log: &Seen<String>, hooks: [Hook; 3]) -> impl Fn() -> Told + Send + Sync + 'static {
    let (log, made) = (log.clone(), Seen::new());
    move || {
        made.add(());
        Told { log: log.clone(), number: made.len(), handled: false, hooks }
    }
}

const FINE: Hook = || Ok(());
const REFUSES: Hook = || Err(Error::new(ErrorKind::Permission, "no entry"));
const PANICS: Hook = || panic!("a hook panics");

/// A run that ends by itself with these hooks: how it ended, and what was called.
async fn finished(hooks: [Hook; 3]) -> (Result<Ended>, Vec<String>) {
    let (bed, log) = (Bed::new(), Seen::new());
    bed.collect(bed.texts(&FakeSource::of(["a"])).step(told(&log, hooks)));
    let ended = bed.pipeline.run().await.map(|summary| summary.ended);
    until("the end of the object", || log.all().iter().any(|hook| hook.ends_with("terminate"))).await;
    (ended, log.all())
}

behaviours! {
    async fn init_comes_before_the_first_record_and_drain_behind_the_last_one() {
        let (ended, hooks) = finished([FINE; 3]).await;
        assert_eq!(ended.unwrap(), Ended::Finished);
        assert_eq!(hooks, ["1 init", "1 record", "1 drain", "1 terminate"]);
    }

    async fn a_drain_calls_all_hooks_once() {
        let (bed, log, source) = (Bed::new(), Seen::new(), FakeSource::live());
        bed.collect(bed.texts(&source).step(told(&log, [FINE; 3])));
        let mut running = bed.start();
        source.push(None, "a");
        until("the record", || bed.delivered().len() == 1).await;
        bed.drain(&mut running).await;
        assert_eq!(log.all(), ["1 init", "1 record", "1 drain", "1 terminate"]);
    }

    async fn a_stop_calls_terminate_and_not_drain() {
        let (bed, log, source) = (Bed::new(), Seen::new(), FakeSource::live());
        bed.collect(bed.texts(&source).step(told(&log, [FINE; 3])));
        let mut running = bed.start();
        source.push(None, "a");
        until("the record", || bed.delivered().len() == 1).await;
        running.handle().stop();
        running.wait().await.unwrap();
        until("the end of the object", || log.len() == 3).await;
        assert_eq!(log.all(), ["1 init", "1 record", "1 terminate"]);
    }

    async fn a_panic_of_init_stops_the_pipeline_and_the_object_is_brought_to_its_end() {
        let (ended, hooks) = finished([PANICS, FINE, FINE]).await;
        assert_eq!((ended.unwrap_err().kind(), hooks), (ErrorKind::Panic, texts(["1 init", "1 terminate"])));
    }

    async fn a_panic_of_the_factory_stops_the_pipeline_and_says_at_which_stage() {
        fn none() -> Told {
            panic!("no more connections")
        }
        for batches in [false, true] {
            let bed = Bed::new();
            let texts = bed.texts(&FakeSource::of(["a"]));
            match batches {
                false => bed.collect(texts.step(none).name("insert")),
                true => bed.collect(texts.batch(Batching::count(1)).step(none).name("insert")),
            }
            let error = bed.pipeline.run().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Panic);
            let text = error.chain();
            assert!(text.contains("no more connections") && text.contains("insert"), "{text}");
        }
    }

    async fn an_error_of_drain_fails_the_run_and_terminate_follows() {
        let (ended, hooks) = finished([FINE, REFUSES, FINE]).await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Permission);
        assert_eq!(hooks, ["1 init", "1 record", "1 drain", "1 terminate"]);
    }

    async fn a_panic_of_drain_fails_the_run_and_terminate_follows() {
        let (ended, hooks) = finished([FINE, PANICS, FINE]).await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Panic);
        assert_eq!(hooks, ["1 init", "1 record", "1 drain", "1 terminate"]);
    }

    async fn a_panic_of_terminate_changes_nothing() {
        let (ended, hooks) = finished([FINE, FINE, PANICS]).await;
        assert_eq!(ended.unwrap(), Ended::Finished);
        assert_eq!(hooks, ["1 init", "1 record", "1 drain", "1 terminate"]);
    }

    async fn after_a_restart_a_new_object_has_hooks_of_its_own() {
        let (bed, log, gate) = (Bed::new(), Seen::new(), Gate::default());
        let first = bed.texts(&FakeSource::of(["a"])).step(told(&log, [FINE; 3]));
        bed.collect(first.try_map(move |text| {
            if gate.is_open() {
                return Ok(text.clone());
            }
            gate.open();
            Err("the first time")
        }).on_error(rule(None, Then::Restart)));
        bed.run().await;
        assert_eq!(bed.delivered(), ["\"a\""]);
        until("the end of both", || log.len() == 7).await;
        let of = |number: &str| log.all().into_iter().filter(|hook| hook.starts_with(number)).collect::<Vec<_>>();
        assert_eq!(of("1"), ["1 init", "1 record", "1 terminate"]);
        assert_eq!(of("2"), ["2 init", "2 record", "2 drain", "2 terminate"]);
    }

    async fn workers_that_are_replaced_are_brought_to_their_end_and_only_the_last_are_drained() {
        let (bed, log, source) = (Bed::new(), Seen::new(), FakeSource::live());
        bed.collect(bed.texts(&source).step(told(&log, [FINE; 3])).name("work"));
        let mut running = bed.start();
        source.push(None, "a");
        until("the record", || bed.delivered().len() == 1).await;
        running.handle().set_concurrency("work", 2).await.unwrap();
        bed.drain(&mut running).await;
        until("the end of all", || log.all().iter().filter(|hook| hook.ends_with("terminate")).count() == 3).await;
        let count = |hook: &str| log.all().iter().filter(|of| of.ends_with(hook)).count();
        assert_eq!((count("init"), count("drain"), count("terminate")), (3, 2, 3), "{:?}", log.all());
        assert_eq!(log.all().iter().filter(|hook| *hook == "1 drain").count(), 0);
    }

    async fn a_pipeline_that_is_aborted_terminates_its_objects_too() {
        let (bed, log, source) = (Bed::new(), Seen::new(), FakeSource::live());
        bed.collect(bed.texts(&source).step(told(&log, [FINE; 3])));
        let running = bed.start().abort_on_drop();
        source.push(None, "a");
        until("the record", || bed.delivered().len() == 1).await;
        drop(running);
        until("the end of the object", || log.len() == 3).await;
        assert_eq!(log.all(), ["1 init", "1 record", "1 terminate"]);
    }

    async fn a_drain_while_an_object_begins_ends_it_without_a_record() {
        struct Begins(Seen<&'static str>);
        impl Worker<String> for Begins {
            type Output = String;
            type Error = Error;

            async fn init(&mut self) -> Result<()> {
                self.0.add("init");
                std::future::pending().await
            }

            async fn handle(&mut self, text: String) -> Result<String> {
                self.0.add("record");
                Ok(text)
            }

            async fn drain(&mut self) -> Result<()> {
                self.0.add("drain");
                Ok(())
            }

            async fn terminate(&mut self) {
                self.0.add("terminate");
            }
        }
        let (bed, log, source) = (Bed::new(), Seen::new(), FakeSource::live());
        let seen = log.clone();
        bed.collect(bed.texts(&source).step(move || Begins(seen.clone())));
        source.push(None, "a");
        let mut running = bed.start();
        until("the hook", || log.len() == 1).await;
        let drained = tokio::time::timeout(Duration::from_secs(20), running.drain(Duration::from_secs(60))).await;
        assert_eq!((drained.unwrap().unwrap().ended, source.opened()), (Ended::Drained, 0));
        until("the end of the object", || log.len() == 2).await;
        assert_eq!(log.all(), ["init", "terminate"]);
    }

    async fn an_object_that_hangs_holds_up_a_stop_no_longer_than_it_may() {
        struct Hangs(Seen<()>);
        impl Worker<String> for Hangs {
            type Output = String;
            type Error = millstream::Error;

            async fn handle(&mut self, _: String) -> Result<String> {
                self.0.add(());
                std::future::pending().await
            }
        }
        let (bed, begun) = (Bed::new(), Seen::new());
        let log = begun.clone();
        bed.collect(bed.texts(&FakeSource::of(["a"])).step(move || Hangs(log.clone())));
        let mut running = bed.start();
        until("the record", || begun.len() == 1).await;
        running.handle().stop();
        let stopped = tokio::time::timeout(Duration::from_secs(20), running.wait()).await;
        assert_eq!(stopped.unwrap().unwrap().ended, Ended::Stopped);
    }
}
