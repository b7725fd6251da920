//! Buffers said in Rust.

use millstream::{
    Home, Pipeline,
    core::Size,
    runtime::{BufferSpec, WhenFull},
};
use millstream_testkit::{FakeSink, FakeSource};

use super::{numbers, run, until};

#[test]
fn a_buffer_that_the_builder_puts_before_a_sink_holds_up_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (source, live, slow) = (FakeSource::live(), FakeSink::plain(), FakeSink::plain());
    let pipeline = Pipeline::new("p").home(Home::new(folder.path()));
    let records = pipeline.source_of(source.clone());
    records.clone().sink_of(live.clone()).name("live");
    let buffer = BufferSpec { disk: Size(1 << 20), when_full: WhenFull::Block };
    records.sink_of(slow.clone()).name("slow").buffer(buffer);
    slow.stall(true);
    run(async {
        let refused = pipeline.run().await.unwrap_err();
        assert!(refused.hint_text().is_some_and(|hint| hint.contains("start_group")), "{refused:?}");
        // As any task may do it.
        let group = tokio::spawn(async move { pipeline.start_group().await }).await.unwrap().unwrap();
        numbers(0..500).into_iter().for_each(|value| source.push(None, value));
        until("the live sink to have all", || live.values() == numbers(0..500)).await;
        assert!(slow.values().is_empty());
        slow.stall(false);
        source.end();
        let summary = group.wait().await.unwrap();
        assert_eq!((summary.left["slow"], slow.values()), (0, numbers(0..500)));
    });
}
