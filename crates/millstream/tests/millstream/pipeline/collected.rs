//! What comes out of a stream as a vector; and pipelines that leave nothing on the disk.

use std::sync::atomic::{AtomicBool, Ordering};

use millstream::{Ended, Error, ErrorKind, ErrorRule, Home, Pipeline, Size, Then};

use super::bed::{Bed, patience, until};

behaviours! {
    async fn a_stream_is_collected_in_order_by_waiting_for_it() {
        let bed = Bed::new();
        let squares = bed.numbers(10_000).map(|n| n * n).collect().await.unwrap();
        assert_eq!(squares, (0..10_000).map(|n| n * n).collect::<Vec<u64>>());
    }

    async fn what_cannot_be_told_apart_when_written_down_comes_back_as_none() {
        let nested = [None, Some(None), Some(Some(1u8))];
        let collected = Bed::new().pipeline.values(nested).collect().await.unwrap();
        assert_eq!(collected, [None, None, Some(Some(1))]);
    }

    async fn several_ends_are_collected_in_one_run() {
        let bed = Bed::new();
        let [small, large] = bed.numbers(10).route(["small", "large"], |n| if *n < 3 { "small" } else { "large" });
        let (small, large) = (small.collect(), large.map(|n| n.to_string()).collect().name("texts"));
        let summary = bed.run().await;
        assert_eq!((small.take(), large.take().len(), summary.stages["texts"].records_in), (vec![0, 1, 2], 7, 7));
        assert!(small.take().is_empty(), "what was taken is gone");
    }

    async fn what_does_not_fit_stops_the_pipeline_and_says_so() {
        let bed = Bed::new();
        let error = bed.numbers(1000).collect().at_most(Size(4096)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        let told = error.chain();
        assert!(told.contains("collect") && told.contains("4KiB"), "{told}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("at_most")), "{error:?}");
        assert_eq!(Bed::new().numbers(300).collect().at_most(Size(4096)).await.unwrap().len(), 300);
    }

    async fn each_value_is_collected_once_also_where_the_pipeline_restarts() {
        let bed = Bed::new().with(|pipeline| pipeline.on_error(ErrorRule::any().then(Then::Restart)));
        let failed = AtomicBool::new(false);
        let numbers = bed.numbers(20_000).try_map(move |n| match n {
            15_000 if !failed.swap(true, Ordering::SeqCst) => Err("once"),
            n => Ok(*n),
        });
        assert_eq!(numbers.collect().await.unwrap(), (0..20_000).collect::<Vec<u64>>());
    }

    async fn what_a_running_pipeline_has_committed_can_be_taken_bit_by_bit() {
        let bed = Bed::new();
        let options = serde_json::json!({ "rate": 2000 });
        let ticks = bed.pipeline.source_with("generate", options).bytes().map_record(|record| record.sequence()).collect();
        let mut running = bed.start();
        let mut taken = Vec::new();
        until("values", || {
            taken.extend(ticks.take());
            taken.len() > 10
        })
        .await;
        let summary = running.drain(patience()).await.unwrap();
        assert_eq!(summary.ended, Ended::Drained);
        taken.extend(ticks.take());
        assert_eq!(taken, (1..=taken.len() as u128).collect::<Vec<u128>>());
    }

    async fn a_pipeline_in_memory_keeps_its_dead_letters_in_memory() {
        let pipeline = Pipeline::new("leaves-nothing-behind").in_memory();
        let bad = |n: &u64| if n % 2 == 1 { Err(Error::new(ErrorKind::Rejected, "odd")) } else { Ok(*n) };
        pipeline.values(0..6u64).try_map(bad).name("even").drop();
        assert_eq!(pipeline.run().await.unwrap().dead(), 3);
        let letters = pipeline.dead_letters().unwrap();
        let told = letters.iter().map(|letter| (letter.record.sequence, letter.code.as_str(), letter.stage.as_str()));
        assert_eq!(told.collect::<Vec<_>>(), [1, 3, 5].map(|n| (n, "E_REJECTED", "even")));
        let folder = Home::from_environment().pipeline("leaves-nothing-behind");
        assert!(!folder.exists(), "{}", folder.display());
    }

    async fn dead_letters_in_memory_come_once_also_where_the_pipeline_restarts() {
        let pipeline = Pipeline::new("restarts").in_memory().on_error(ErrorRule::of(ErrorKind::Rejected).then(Then::Restart));
        let failed = AtomicBool::new(false);
        let bad = move |n: &u64| match n {
            9_000 if !failed.swap(true, Ordering::SeqCst) => Err(Error::new(ErrorKind::Rejected, "restart")),
            n if n % 1000 == 0 => Err(Error::new(ErrorKind::Data, "round")),
            n => Ok(*n),
        };
        pipeline.values(1..10_001u64).try_map(bad).drop();
        pipeline.run().await.unwrap();
        assert_eq!(pipeline.dead_letters().unwrap().len(), 10);
    }

    async fn with_a_home_of_its_own_it_keeps_them_there() {
        let bed = Bed::new();
        bed.numbers(1).try_map(|_| Err::<u64, _>("no")).drop();
        bed.run().await;
        assert_eq!((bed.pipeline.dead_letters().unwrap(), bed.dead().len()), (bed.dead_letters(), 1));
    }
}
