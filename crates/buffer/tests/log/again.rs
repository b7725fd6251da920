//! What one end notices of the other when that is opened again, and when little fits.

use std::{fs, time::Duration};

use millstream_buffer::{WhenFull, inspect};
use millstream_core::ErrorKind;

use crate::{Place, Writer, batch, next, numbers, reader, run};

/// Values that come to about so many bytes.
fn of_bytes(bytes: usize, each: usize) -> impl Iterator<Item = String> {
    (0..bytes / each).map(move |i| format!("{i:0each$}"))
}

#[test]
fn a_reader_goes_on_when_the_writer_has_cut_what_did_not_count() {
    run(async {
        let place = Place::new();
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        writer.write(numbers(0..10)).await;
        writer.commit().await;
        let counted = writer.newest.clone();
        // It is in the file, and no epoch names it.
        writer.write(of_bytes(100_000, 100)).await;
        writer.sink.flush().await.unwrap();
        let mut source = reader(&buffer, None).await;
        assert_eq!(next(&mut source).await.unwrap().len(), 10);
        // The pipeline begins again at its checkpoint, and the same records come in other batches.
        for records in [7000, 3, 900] {
            let mut writer = Writer::open(&buffer, counted.clone()).await;
            writer.write(numbers(0..records)).await;
            writer.sink.flush().await.unwrap();
        }
        let mut writer = Writer::open(&buffer, counted).await;
        let mut expected = Vec::new();
        for (n, more) in [50, 4000, 20, 7000, 3].into_iter().enumerate() {
            let values: Vec<_> = numbers(1000 * n..1000 * n + more).collect();
            writer.write(values.clone()).await;
            writer.commit().await;
            expected.extend(values);
        }
        let mut read = Vec::new();
        while read.len() < expected.len() {
            read.extend(next(&mut source).await.unwrap());
        }
        assert!(read == expected, "{} records", read.len());
    });
}

#[test]
fn a_segment_that_was_begun_when_the_power_failed_is_begun_anew() {
    let place = Place::new();
    run(async {
        Writer::open(&place.buffer(WhenFull::Block), Vec::new()).await;
    });
    // Its name was written, and its header was not.
    let [segment] = &place.segments()[..] else { panic!("one segment") };
    fs::write(segment, b"").unwrap();
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        writer.write(numbers(0..5)).await;
        writer.commit().await;
        let mut source = reader(&buffer, None).await;
        assert_eq!(next(&mut source).await.unwrap().len(), 5);
    });
    assert!(inspect::verify(&place.folder()).unwrap().damages.is_empty());
}

#[test]
fn a_buffer_whose_records_are_delivered_has_room_for_a_batch_of_half_its_size() {
    for when_full in [WhenFull::DropNewest, WhenFull::DeadLetter] {
        run(async {
            let place = Place::new();
            let buffer = place.buffer(when_full);
            let mut writer = Writer::open(&buffer, Vec::new()).await;
            let mut source = reader(&buffer, None).await;
            for round in 0..5 {
                writer.write(of_bytes(300_000, 300)).await;
                let rejected = writer.sink.flush().await.unwrap().rejected.len();
                assert_eq!(rejected, 0, "round {round}, {:?}", buffer.figures());
                writer.commit().await;
                let mut read = 0;
                while read < 1000 {
                    read += next(&mut source).await.unwrap().len();
                }
                let position = source.position().unwrap();
                source.commit(&position, None).await.unwrap();
            }
        });
    }
}

#[test]
fn a_log_that_begins_behind_what_counts_is_a_mismatch() {
    let place = Place::new();
    let newest = run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        writer.write(numbers(0..5)).await;
        writer.commit().await;
        let newest = writer.newest.clone();
        for _ in 0..2 {
            writer.write(of_bytes(100_000, 100)).await;
            writer.sink.flush().await.unwrap();
        }
        newest
    });
    assert!(place.segments().len() > 1);
    fs::remove_file(&place.segments()[0]).unwrap();
    run(async {
        let mut sink =
            millstream_core::SinkPlan::create(&millstream_buffer::BufferSink::new(&place.buffer(WhenFull::Block)))
                .unwrap();
        assert_eq!(sink.open(&newest).await.unwrap_err().kind(), ErrorKind::StateMismatch);
    });
}

#[test]
fn a_writer_that_was_dropped_while_it_waited_for_room_is_not_shown_as_waiting() {
    run(async {
        let place = Place::new();
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        for _ in 0..2 {
            writer.write(of_bytes(180_000, 200)).await;
            writer.commit().await;
        }
        let more = writer.sink.write(batch(of_bytes(400_000, 200)));
        assert!(tokio::time::timeout(Duration::from_millis(50), more).await.is_err());
        assert!(buffer.figures().waiting.is_some());
        let newest = writer.newest.clone();
        let _writer = Writer::open(&buffer, newest).await;
        assert_eq!(buffer.figures().waiting, None);
    });
}
