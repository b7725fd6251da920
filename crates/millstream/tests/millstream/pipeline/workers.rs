//! Steps that are objects: their hooks, and one for each worker.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use millstream::{Error, ErrorKind, Result, Worker};

use super::bed::{Bed, Gate, dead, texts, until};

/// Writes down which of its hooks were called; is made with a number of its own.
struct Told {
    number: usize,
    log: Arc<Mutex<Vec<String>>>,
    init: Result<()>,
}

impl Told {
    fn tell(&self, what: &str) {
        self.log.lock().unwrap().push(format!("{} {what}", self.number));
    }
}

impl Worker<u64> for Told {
    type Output = u64;
    type Error = millstream::Error;

    async fn init(&mut self) -> Result<()> {
        self.tell("init");
        self.init.clone()
    }

    async fn handle(&mut self, n: u64) -> Result<u64> {
        assert!(n != 3, "three");
        if n == 5 { Err(Error::new(ErrorKind::Data, "five")) } else { Ok(n + 1) }
    }

    async fn drain(&mut self) -> Result<()> {
        self.tell("drain");
        Ok(())
    }

    async fn terminate(&mut self) {
        self.tell("terminate");
    }
}

/// Takes its time, and waits at a gate before the second record.
struct Slow(Gate);

impl Worker<u64> for Slow {
    type Output = u64;
    type Error = millstream::Error;

    async fn handle(&mut self, n: u64) -> Result<u64> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if n == 1 {
            self.0.passed().await;
        }
        Ok(n)
    }
}

type Log = Arc<Mutex<Vec<String>>>;

fn told(log: &Log, init: Result<()>) -> impl Fn() -> Told + Send + Sync + 'static {
    let (log, made) = (log.clone(), Arc::new(Mutex::new(0)));
    move || {
        let mut made = made.lock().unwrap();
        *made += 1;
        Told { number: *made, log: log.clone(), init: init.clone() }
    }
}

fn sorted(log: &Log) -> Vec<String> {
    let mut log = log.lock().unwrap().clone();
    log.sort();
    log
}

behaviours! {
    async fn what_a_slow_worker_has_done_does_not_wait_for_what_it_is_at() {
        let (bed, gate) = (Bed::new(), Gate::default());
        let second = gate.clone();
        bed.collect(bed.numbers(10).step(move || Slow(second.clone())));
        let mut running = bed.start();
        until("the first", || bed.delivered() == ["0"]).await;
        gate.open();
        running.wait().await.unwrap();
        assert_eq!(bed.delivered(), texts(0..10));
    }

    async fn hooks_are_called_once_each_also_where_records_failed() {
        let bed = Bed::new();
        let log = Log::default();
        bed.collect(bed.numbers(100).step(told(&log, Ok(()))));
        bed.run().await;
        assert_eq!(bed.delivered(), texts((0..100).filter(|n| *n != 3 && *n != 5).map(|n| n + 1)));
        assert_eq!(bed.dead(), [dead("3", "E_PANIC"), dead("5", "E_DATA")]);
        assert_eq!(*log.lock().unwrap(), ["1 init", "1 drain", "1 terminate"]);
    }

    async fn each_worker_has_an_object_of_its_own() {
        let bed = Bed::new();
        let log = Log::default();
        bed.collect(bed.numbers(100).filter(|n| *n > 5).step(told(&log, Ok(()))).concurrency(3));
        bed.run().await;
        assert_eq!(bed.delivered().len(), 94);
        let of_each = |hook: &str| (1..=3).map(|n| format!("{n} {hook}")).collect::<Vec<_>>();
        let mut expected = [of_each("init"), of_each("drain"), of_each("terminate")].concat();
        expected.sort();
        assert_eq!(sorted(&log), expected);
    }

    async fn an_object_that_cannot_begin_is_brought_to_its_end() {
        let bed = Bed::new();
        let log = Log::default();
        let refused = Err(Error::new(ErrorKind::Permission, "no entry"));
        bed.collect(bed.numbers(10).step(told(&log, refused)));
        assert_eq!(bed.pipeline.run().await.unwrap_err().kind(), ErrorKind::Permission);
        assert_eq!(*log.lock().unwrap(), ["1 init", "1 terminate"]);
    }

    async fn hooks_are_called_once_also_where_the_pipeline_fails() {
        let bed = Bed::new();
        let log = Log::default();
        let first = bed.numbers(10).filter(|n| *n != 3 && *n != 5).step(told(&log, Ok(())));
        bed.collect(first.try_map(|n| if *n == 8 { Err(Error::new(ErrorKind::Bug, "no way on")) } else { Ok(*n) }));
        assert_eq!(bed.pipeline.run().await.unwrap_err().kind(), ErrorKind::Bug);
        until("the end of the object", || log.lock().unwrap().len() >= 2).await;
        assert_eq!(sorted(&log), ["1 init", "1 terminate"]);
    }
}
