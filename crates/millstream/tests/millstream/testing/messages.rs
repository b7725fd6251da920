//! What a test says when something is not as expected.

use millstream::{Batching, Error, ErrorKind, Pipeline};

use super::{copy, order, orders, panic_of, started};

#[tokio::test]
async fn a_record_that_came_elsewhere_is_told_with_the_books() {
    let test = started(&orders(), "orders").await;
    let outcomes = test.batch("orders", [order(0, 1.0), order(1, 0.0), order(2, 2e6)]).await.unwrap();
    let text = panic_of(|| drop(outcomes[2].expect_delivered("charged")));
    let wanted = "record 2 of `orders` was expected to be delivered to `charged`, but:\n  \
         became a dead letter at `charge` (try 1): E_DATA too much\n  \
         failed at `charge` (try 1): E_DATA too much\n\n\
         stage        in  out  filtered  dead  failures\n\
         orders        3    3         0     0         0\n\
         json          3    3         0     0         0\n\
         filter        3    2         1     0         0\n\
         charge        2    1         0     1         1\n\
         to_json       1    1         0     0         0\n\
         charged       1    1         0     0         0\n\
         dead_letter   1    1         0     0         0";
    assert_eq!(text, wanted);
    let text = panic_of(|| outcomes[0].expect_filtered());
    assert!(text.contains("was expected to be left out, but:\n  delivered to `charged`: {\"id\":0"), "{text}");
    let text = panic_of(|| drop(outcomes[1].expect_delivered("charged")));
    assert!(text.contains("nothing came out of it, and nothing waits"), "{text}");
    let text = panic_of(|| assert!(outcomes[2].expect_dead("charge", ErrorKind::Timeout).attempts > 0));
    assert!(text.contains("to become a dead letter at `charge` with E_TIMEOUT"), "{text}");
    let text = panic_of(|| outcomes[0].expect_waiting());
    assert!(text.contains("was expected to wait"), "{text}");
    test.finish().await.unwrap();
}

#[tokio::test]
async fn a_record_that_waits_is_told_with_where_records_wait() {
    let pipeline = Pipeline::new("batches");
    let numbers = pipeline.values(Vec::<u64>::new()).name("in").batch(Batching::count(10));
    numbers
        .handle(|batch| async move { batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>() })
        .name("gather")
        .drop()
        .name("out");
    let test = started(&pipeline, "in").await;
    let outcome = test.record("in", 1u64).await.unwrap();
    let text = panic_of(|| outcome.expect_filtered());
    assert!(text.contains("nothing has come out of it yet; records wait: 1 at `gather`"), "{text}");
    // A batch that is not full goes at the end.
    test.finish().await.unwrap().delivered("out").equals(&[1u64]);
}

#[tokio::test]
async fn values_that_differ_are_told_side_by_side() {
    let test = started(&copy(), "in").await;
    test.batch("in", [1u64, 2, 3]).await.unwrap();
    let books = test.finish().await.unwrap();
    let out = books.delivered("out");
    out.equals(&[1u64, 2, 3]);
    out.equals_unordered(&[3u64, 1, 2]);
    let text = panic_of(|| out.equals(&[1u64, 3]));
    let wanted =
        "`out` was given other records than expected; they differ at 1\n  expected 2: [1, 3]\n      came 3: [1, 2, 3]";
    assert_eq!(text, wanted);
    let text = panic_of(|| out.equals_unordered(&[3u64, 1, 1]));
    assert!(text.ends_with("missing: [1]\n    extra: [2]"), "{text}");
    let text = panic_of(|| out.equals_texts(&["1"]));
    assert!(text.ends_with("expected 1: [\"1\"]\n      came 3: [\"1\", \"2\", \"3\"]"), "{text}");
    let text = panic_of(|| out.is_nothing());
    assert!(text.contains("was to be given nothing, and was given 3 at `out`"), "{text}");
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_told_with_its_bytes() {
    let test = started(&copy(), "in").await;
    let delivered = test.record("in", "no number").await.unwrap().expect_delivered("out");
    let text = panic_of(|| drop(delivered.values::<u64>()));
    assert!(text.starts_with("record 0 of `out` is no u64: ") && text.ends_with(": no number"), "{text}");
    let text = panic_of(|| drop(delivered.json()));
    assert!(text.starts_with("record 0 of `out` is no JSON: "), "{text}");
    test.finish().await.unwrap();
}

#[tokio::test]
#[should_panic = "was expected to be delivered to `out`"]
async fn an_assertion_that_fails_fails_the_test() {
    let pipeline = Pipeline::new("none");
    pipeline.values(Vec::<u64>::new()).name("in").filter(|_| false).drop().name("out");
    let test = started(&pipeline, "in").await;
    test.record("in", 1u64).await.unwrap().expect_delivered("out");
}
