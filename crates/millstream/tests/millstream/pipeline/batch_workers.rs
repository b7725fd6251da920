//! Handlers of batches that are objects: their hooks, and one for each worker.

use std::{sync::Arc, time::Duration};

use millstream::{BatchOf, BatchWorker, Batching, Error, ErrorKind, ErrorRule, Outcomes, Result, Retry, Then};

use super::bed::{Bed, Crowd, Seen, dead, patience, texts, until};

/// Writes down what is asked of it; is made with a number of its own.
struct Inserts {
    number: usize,
    log: Seen<String>,
    init: Result<()>,
    inside: Crowd,
    /// Records that it has seen: a thing of its own.
    seen: usize,
}

impl Inserts {
    fn tell(&self, what: &str) {
        self.log.add(format!("{} {what}", self.number));
    }
}

impl BatchWorker<u64> for Inserts {
    type Answer = Outcomes<u64>;
    type Error = Error;

    async fn init(&mut self) -> Result<()> {
        self.tell("init");
        self.init.clone()
    }

    async fn handle(&mut self, batch: BatchOf<u64>) -> Outcomes<u64> {
        let _inside = self.inside.enter();
        tokio::task::yield_now().await;
        assert!(!batch.contains(&13), "thirteen");
        if batch.contains(&77) {
            std::future::pending::<()>().await;
        }
        self.seen += batch.len();
        let mut outcomes = Outcomes::new();
        for (i, n) in batch.iter().enumerate() {
            if *n == 5 { outcomes.fail(i, "five") } else { outcomes.ok(i, *n) }
        }
        outcomes
    }

    async fn drain(&mut self) -> Result<()> {
        self.tell(&format!("drain after {}", self.seen));
        Ok(())
    }

    async fn terminate(&mut self) {
        self.tell("terminate");
    }
}

/// A factory of them, and where they write.
fn inserts(init: Result<()>) -> (impl Fn() -> Inserts + Send + Sync + 'static, Seen<String>, Crowd) {
    let (log, inside, made) = (Seen::new(), Crowd::default(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let (to, crowd) = (log.clone(), inside.clone());
    let make = move || {
        let number = made.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        Inserts { number, log: to.clone(), init: init.clone(), inside: crowd.clone(), seen: 0 }
    };
    (make, log, inside)
}

fn sorted(log: &Seen<String>) -> Vec<String> {
    let mut all = log.all();
    all.sort();
    all
}

behaviours! {
    async fn each_hook_of_a_batch_worker_is_called_once_and_drain_behind_the_last_batch() {
        let (bed, (make, log, _)) = (Bed::new(), inserts(Ok(())));
        bed.collect(bed.numbers(10).batch(Batching::count(4)).step(make).name("insert"));
        bed.run().await;
        let answered = texts((0..10).filter(|n| *n != 5));
        assert_eq!((bed.delivered(), bed.dead()), (answered, vec![dead("5", "E_DATA")]));
        assert_eq!(log.all(), ["1 init", "1 drain after 10", "1 terminate"]);
    }

    async fn a_drain_gives_an_open_batch_to_the_worker_before_its_drain_hook() {
        let (bed, (make, log, _)) = (Bed::new(), inserts(Ok(())));
        let source = millstream_testkit::FakeSource::live();
        (0..3).for_each(|n| source.push(None, n.to_string()));
        let numbers = bed.texts(&source).try_map(|text| text.parse::<u64>()).name("numbers");
        bed.collect(numbers.batch(Batching::count(100)).step(make).name("insert"));
        let mut running = bed.start();
        let handle = running.handle();
        until("the batch is open", || handle.status().stages.get("insert").is_some_and(|at| at.records_in == 3)).await;
        bed.drain(&mut running).await;
        assert_eq!((bed.delivered(), log.all()), (texts(0..3), texts(["1 init", "1 drain after 3", "1 terminate"])));
    }

    async fn what_comes_again_in_a_drain_is_handled_in_it_and_before_the_drain_hook() {
        let (bed, (make, log, _)) = (Bed::new(), inserts(Ok(())));
        let source = millstream_testkit::FakeSource::live();
        (0..10).for_each(|n| source.push(Some("k"), n.to_string()));
        let keyed = bed.pipeline.source_of(source).partition_by_key().text().try_map(|text| text.parse::<u64>());
        // Those behind 5 are handled again behind it.
        bed.collect(keyed.batch(Batching::count(100)).repeatable().step(make).name("insert"));
        let mut running = bed.start();
        let handle = running.handle();
        until("the batch is open", || handle.status().stages.get("insert").is_some_and(|at| at.absorbed == 10)).await;
        bed.drain(&mut running).await;
        assert_eq!((bed.delivered(), bed.dead()), (texts((0..10).filter(|n| *n != 5)), vec![dead("5", "E_DATA")]));
        assert_eq!(log.all(), ["1 init", "1 drain after 14", "1 terminate"]);
    }

    async fn there_is_one_for_each_worker_which_handles_one_batch_at_a_time() {
        let (bed, (make, log, inside)) = (Bed::new(), inserts(Ok(())));
        let numbers = bed.numbers(900).filter(|n| ![5, 13, 77].contains(n)).partition_by(|n| n % 9);
        bed.collect(numbers.batch(Batching::count(4).by_key()).step(make).concurrency(3).name("insert"));
        bed.run().await;
        assert_eq!((bed.delivered().len(), inside.now()), (897, 0));
        assert!(inside.most() <= 3, "{}", inside.most());
        let hooks = |hook: &str| sorted(&log).iter().filter(|line| line.contains(hook)).count();
        assert_eq!([hooks("init"), hooks("drain"), hooks("terminate")], [3, 3, 3]);
    }

    async fn a_repeatable_batch_worker_that_panics_is_given_its_records_one_by_one() {
        let (bed, (make, log, _)) = (Bed::new(), inserts(Ok(())));
        let batches = bed.pipeline.values([1, 13, 2, 3u64]).batch(Batching::count(2)).repeatable();
        bed.collect(batches.step(make).name("insert"));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([1, 2, 3]), vec![dead("13", "E_PANIC")]));
        assert_eq!(log.all(), ["1 init", "1 drain after 3", "1 terminate"]);
    }

    async fn without_a_key_there_is_one_for_each_worker_too() {
        let (bed, (make, log, inside)) = (Bed::new(), inserts(Ok(())));
        let source = millstream_testkit::FakeSource::of(texts((100..900).collect::<Vec<_>>())).in_batches_of(10);
        let numbers = bed.texts(&source).try_map(|text| text.parse::<u64>()).name("numbers");
        bed.collect(numbers.batch(Batching::count(4)).step(make).concurrency(4).name("insert"));
        bed.run().await;
        let mut delivered = bed.numbers_delivered();
        delivered.sort_unstable();
        assert!(delivered.into_iter().eq(100..900));
        assert!(inside.most() <= 4, "{}", inside.most());
        let hooks = |hook: &str| sorted(&log).iter().filter(|line| line.contains(hook)).count();
        assert_eq!([hooks("init"), hooks("drain"), hooks("terminate")], [4, 4, 4]);
        assert!(!log.all().iter().any(|line| line.ends_with("drain after 0")), "each has had some: {:?}", log.all());
    }

    async fn a_panic_of_a_batch_worker_is_an_error_of_its_batch_and_the_worker_goes_on() {
        let (bed, (make, log, _)) = (Bed::new(), inserts(Ok(())));
        bed.collect(bed.pipeline.values([1, 13, 2, 3u64]).batch(Batching::count(2)).step(make).name("insert"));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([2, 3]), vec![dead("1", "E_PANIC"), dead("13", "E_PANIC")]));
        assert_eq!(log.all(), ["1 init", "1 drain after 2", "1 terminate"]);
    }

    async fn a_batch_that_takes_too_long_fails_and_the_worker_goes_on() {
        let (bed, (make, log, _)) = (Bed::new(), inserts(Ok(())));
        let inserted = bed.pipeline.values([77, 2u64]).batch(Batching::count(1)).step(make);
        bed.collect(inserted.timeout(Duration::from_millis(20)).name("insert"));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([2]), vec![dead("77", "E_TIMEOUT")]));
        assert_eq!(log.all(), ["1 init", "1 drain after 1", "1 terminate"]);
    }

    async fn terminate_is_called_also_where_init_has_failed() {
        let (bed, (make, log, _)) = (Bed::new(), inserts(Err(Error::new(ErrorKind::Option, "no such table"))));
        bed.collect(bed.numbers(3).batch(Batching::count(2)).step(make));
        let error = bed.pipeline.run().await.unwrap_err();
        assert!(error.chain().contains("no such table"), "{}", error.chain());
        assert_eq!(log.all(), ["1 init", "1 terminate"]);
    }

    async fn terminate_is_called_where_the_pipeline_fails_and_drain_is_not() {
        let (bed, (make, log, _)) = (Bed::new(), inserts(Ok(())));
        let inserted = bed.numbers(10).batch(Batching::count(4)).step(make);
        bed.collect(inserted.on_error(ErrorRule::any().then(Then::Stop)));
        assert_eq!(bed.pipeline.run().await.unwrap_err().kind(), ErrorKind::Data);
        until("the worker has been brought to its end", || log.len() == 2).await;
        assert_eq!(log.all(), ["1 init", "1 terminate"]);
    }

    async fn a_worker_that_hangs_when_all_ends_is_terminated_all_the_same() {
        let (bed, (make, log, inside)) = (Bed::new(), inserts(Ok(())));
        bed.collect(bed.pipeline.values([77u64]).batch(Batching::count(1)).step(make));
        let mut running = bed.start();
        until("it hangs", || inside.now() == 1).await;
        running.handle().stop();
        let _ = tokio::time::timeout(patience(), running.wait()).await.expect("it stops");
        until("the worker has been brought to its end", || log.len() == 2).await;
        assert_eq!((log.all(), inside.now()), (texts(["1 init", "1 terminate"]), 0));
    }

    async fn a_restart_has_a_new_worker_and_the_old_one_has_ended_once() {
        let (bed, (make, log, _)) = (Bed::new(), inserts(Ok(())));
        let bed = bed.with(|pipeline| pipeline.on_error(ErrorRule::any().retry(Retry::times(0)).then(Then::Restart)));
        let failed = std::sync::atomic::AtomicBool::new(false);
        let numbers = bed.numbers(4).try_map(move |n| match n {
            3 if !failed.swap(true, std::sync::atomic::Ordering::SeqCst) => Err("once"),
            n => Ok(*n),
        });
        bed.collect(numbers.batch(Batching::count(2)).step(make));
        bed.pipeline.run().await.unwrap();
        until("both have ended", || log.all().iter().filter(|line| line.contains("terminate")).count() == 2).await;
        assert_eq!(sorted(&log), ["1 init", "1 terminate", "2 drain after 4", "2 init", "2 terminate"]);
    }
}
