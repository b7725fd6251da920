//! Time that passes only when it is told to, or when there is nothing else to do.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use millstream::{
    Batching, Error, ErrorKind, Pipeline, RateLimit, Span, Timestamp,
    testing::{Script, Test},
};

use super::{copy, retry, started};

const HOUR: Duration = Duration::from_secs(3600);

/// Sums numbers in batches of 3, or after a minute.
fn sums() -> Pipeline {
    let pipeline = Pipeline::new("sums");
    let numbers = pipeline.values(Vec::<u64>::new()).name("numbers");
    let batching = Batching::count(3).linger(Duration::from_secs(60));
    numbers
        .batch(batching)
        .handle(|numbers| async move {
            let sum = numbers.iter().sum::<u64>();
            numbers.iter().map(|_| Ok::<_, Error>(sum)).collect::<Vec<_>>()
        })
        .name("sum")
        .drop()
        .name("out");
    pipeline
}

#[tokio::test]
async fn a_batch_waits_for_its_time_from_its_first_record_and_no_longer() {
    let test = started(&sums(), "numbers").await;
    let first = test.record("numbers", 1u64).await.unwrap();
    test.advance(Duration::from_secs(30)).await.unwrap();
    let second = test.record("numbers", 2u64).await.unwrap();
    test.advance(Duration::from_millis(29_900)).await.unwrap();
    test.latest(&first).await.unwrap().expect_waiting();
    test.advance(Duration::from_millis(100)).await.unwrap();
    for outcome in [first, second] {
        test.latest(&outcome).await.unwrap().expect_delivered("out").equals(&[3u64]);
    }
    test.finish().await.unwrap();
}

#[tokio::test]
async fn a_full_batch_waits_for_no_time() {
    let test = started(&sums(), "numbers").await;
    for outcome in test.batch("numbers", [1u64, 2, 3]).await.unwrap() {
        outcome.expect_delivered("out").equals(&[6u64]);
    }
    test.finish().await.unwrap();
}

#[tokio::test]
async fn within_lets_the_time_pass_that_a_record_needs_and_no_more() {
    let test = Test::of(&sums()).source("numbers").within(HOUR).start().await.unwrap();
    let began = tokio::time::Instant::now();
    test.record("numbers", 1u64).await.unwrap().expect_delivered("out").equals(&[1u64]);
    assert_eq!(began.elapsed().as_secs(), 60);
    test.finish().await.unwrap();
}

#[tokio::test]
async fn days_of_retries_take_no_time() {
    let pipeline = Pipeline::new("retries");
    let tries = Arc::new(Mutex::new(Vec::new()));
    let log = tries.clone();
    let numbers = pipeline.values(Vec::<u64>::new()).name("in").try_map(move |n: &u64| {
        log.lock().unwrap().push(Timestamp::now());
        if log.lock().unwrap().len() < 30 { Err(super::away()) } else { Ok(*n) }
    });
    numbers.name("try").on_error(retry(100, 24 * HOUR)).drop().name("out");
    let test = started(&pipeline, "in").await;
    let outcome = test.record("in", 1u64).await.unwrap();
    test.advance(29 * 24 * HOUR + Duration::from_secs(1)).await.unwrap();
    test.latest(&outcome).await.unwrap().expect_delivered("out");
    let tries = tries.lock().unwrap().clone();
    assert_eq!(tries.len(), 30);
    // The wall clock goes with the rest.
    assert!(tries.windows(2).all(|pair| (pair[1].0 - pair[0].0) as u128 / HOUR.as_nanos() == 24), "{tries:?}");
    test.finish().await.unwrap();
}

#[tokio::test]
async fn a_rate_limit_lets_records_through_as_time_passes() {
    let pipeline = Pipeline::new("slow");
    let limit = RateLimit { records: 1, per: Span(HOUR), by_key: false };
    pipeline.values(Vec::<u64>::new()).name("in").map(|n| *n).name("step").rate_limit(limit).drop().name("out");
    let test = started(&pipeline, "in").await;
    let outcomes = test.batch("in", [1u64, 2, 3]).await.unwrap();
    let come = || test.delivered("out").unwrap().len();
    let before = come();
    test.advance(HOUR).await.unwrap();
    assert_eq!(come(), before + 1);
    test.advance(2 * HOUR).await.unwrap();
    test.latest(&outcomes[2]).await.unwrap().expect_delivered("out");
    test.finish().await.unwrap();
}

#[tokio::test]
async fn work_that_takes_long_is_waited_for_and_its_time_out_is_virtual() {
    let pipeline = Pipeline::new("slow");
    let numbers = pipeline.values(Vec::<u64>::new()).name("in");
    let done = numbers.map_async(|n| async move {
        tokio::time::sleep(HOUR * n as u32).await;
        Ok::<_, Error>(n)
    });
    done.timeout(2 * HOUR + Duration::from_secs(1)).name("work").drop().name("out");
    let setup = Test::of(&pipeline).source("in").give_up_after(24 * HOUR);
    let test = setup.start().await.unwrap();
    let outcomes = test.batch("in", [2u64, 3]).await.unwrap();
    outcomes[0].expect_delivered("out");
    outcomes[1].expect_dead("work", ErrorKind::Timeout);
    test.finish().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_stands_still_already_is_no_trouble() {
    let test = started(&copy(), "in").await;
    test.record("in", "x").await.unwrap().expect_delivered("out");
    test.finish().await.unwrap();
}

#[tokio::test]
async fn the_wall_clock_is_the_machines_again_when_the_test_is_over() {
    let test = started(&copy(), "in").await;
    test.advance(24 * HOUR).await.unwrap();
    let machine = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    assert!(Timestamp::now().0 / 1_000_000_000 - machine() > 23 * 3600);
    test.finish().await.unwrap();
    assert!((Timestamp::now().0 / 1_000_000_000 - machine()).abs() < 3600);
}

#[tokio::test]
async fn a_script_pauses_in_virtual_time() {
    let script = Script::new().batch(["a"]).pause(HOUR).batch(["b", "c"]).end();
    let test = Test::of(&copy()).script("in", script).start().await.unwrap();
    test.advance(HOUR - Duration::from_secs(1)).await.unwrap();
    test.delivered("out").unwrap().equals_texts(&["a"]);
    test.advance(Duration::from_secs(1)).await.unwrap();
    let outcomes = test.outcomes("in").await.unwrap();
    assert_eq!(outcomes.len(), 3);
    outcomes[2].expect_delivered("out").equals_texts(&["c"]);
    test.finish().await.unwrap().delivered("out").equals_texts(&["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_threads_need_real_time() {
    let error = Test::of(&copy()).source("in").start().await.unwrap_err();
    assert!(error.hint_text().unwrap().contains("real_time"), "{error:?}");
    let test = Test::of(&copy()).source("in").real_time().start().await.unwrap();
    test.record("in", "x").await.unwrap().expect_delivered("out").equals_texts(&["x"]);
    test.finish().await.unwrap();
}
