//! What both ends of a buffer promise, without a pipeline: durable, cut, in order, across openings, with any damage noticed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod again;
mod damage;

use std::{fs, future::Future, path::PathBuf, time::Duration};

use bytes::Bytes;
use millstream_buffer::{Buffer, BufferSink, BufferSource, BufferSpec, WhenFull, inspect};
use millstream_core::{
    Batch, BatchBuilder, Epoch, ErrorKind, Event, Form, Last, Position, Record, Resume, Sink, SinkPlan, Size, Source,
    SourcePlan, Token,
};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().unwrap())
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("buffer")
    }

    fn buffer(&self, when_full: WhenFull) -> Buffer {
        let spec = BufferSpec { disk: Size(1 << 20), when_full };
        Buffer::new("sink", self.folder(), spec, Form::Bytes, false)
    }

    /// Paths of the segments, oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
        files.sort();
        files
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.unwrap() })
}

/// A writer with the epochs that it has prepared.
struct Writer {
    sink: Box<dyn Sink>,
    epoch: Epoch,
    newest: Vec<(Epoch, Token)>,
}

impl Writer {
    async fn open(buffer: &Buffer, newest: Vec<(Epoch, Token)>) -> Self {
        let mut sink = BufferSink::new(buffer).create().unwrap();
        sink.open(&newest).await.unwrap();
        Writer { sink, epoch: newest.last().map_or(0, |(epoch, _)| *epoch), newest }
    }

    async fn write(&mut self, values: impl IntoIterator<Item = String>) {
        self.sink.write(batch(values)).await.unwrap();
    }

    /// Everything that was written counts for a checkpoint; readers are not told.
    async fn decide(&mut self) -> Token {
        assert!(self.sink.flush().await.unwrap().rejected.is_empty());
        self.epoch += 1;
        let token = self.sink.prepare(self.epoch, Last::No).await.unwrap().unwrap();
        self.newest = vec![(self.epoch, token.clone())];
        token
    }

    async fn commit(&mut self) {
        let token = self.decide().await;
        self.sink.commit(&token).await.unwrap();
    }
}

fn batch(values: impl IntoIterator<Item = String>) -> Batch {
    let mut builder = BatchBuilder::new();
    values.into_iter().enumerate().for_each(|(i, value)| {
        builder.push(&Record {
            sequence: i as u128,
            key: Some(Bytes::from(value.clone())),
            ..Record::new("in", value)
        });
    });
    builder.finish()
}

fn numbers(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|i| format!("{i:06}"))
}

async fn reader(buffer: &Buffer, position: Option<Position>) -> Box<dyn Source> {
    let mut source = BufferSource::new(buffer).create().unwrap();
    source.open(&Resume { position, ..Resume::default() }).await.unwrap();
    source
}

/// The values of the next event; `None` at the end.
async fn next(source: &mut Box<dyn Source>) -> Option<Vec<String>> {
    match source.next().await.unwrap() {
        Event::Batch(read) => Some(
            read.batch.iter().map(|record| String::from_utf8_lossy(record.value().unwrap()).into_owned()).collect(),
        ),
        Event::End => None,
        other => panic!("{other:?}"),
    }
}

async fn rest(source: &mut Box<dyn Source>) -> Vec<String> {
    let mut all = Vec::new();
    while let Some(values) = next(source).await {
        all.extend(values);
    }
    all
}

#[test]
fn what_counts_is_read_in_order_and_nothing_before_it_counts() {
    let place = Place::new();
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let (mut writer, mut source) = (Writer::open(&buffer, Vec::new()).await, reader(&buffer, None).await);
        writer.write(numbers(0..10)).await;
        writer.decide().await;
        let early = tokio::time::timeout(Duration::from_millis(50), source.next()).await;
        assert!(early.is_err(), "an epoch that is not committed is not read: {early:?}");
        writer.commit().await;
        assert_eq!(next(&mut source).await.unwrap(), numbers(0..10).collect::<Vec<_>>());
        writer.write(numbers(10..20)).await;
        writer.commit().await;
        buffer.finish();
        assert_eq!(rest(&mut source).await, numbers(10..20).collect::<Vec<_>>());
    });
}

#[test]
fn what_the_checkpoint_does_not_name_is_cut_and_what_it_names_counts() {
    let place = Place::new();
    let tokens = run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        writer.write(numbers(0..10)).await;
        writer.commit().await;
        writer.write(numbers(10..20)).await;
        // Decided; the process dies before anybody is told.
        writer.decide().await;
        writer.write(numbers(90..99)).await;
        writer.sink.flush().await.unwrap();
        writer.newest
    });
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, tokens).await;
        writer.write(numbers(20..30)).await;
        writer.commit().await;
        buffer.finish();
        let mut source = reader(&buffer, None).await;
        assert_eq!(rest(&mut source).await, numbers(0..30).collect::<Vec<_>>());
    });
}

#[test]
fn a_reader_goes_on_behind_what_it_has_committed_and_delivered_segments_are_deleted() {
    let place = Place::new();
    let position = run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        for i in 0..8 {
            // Each block is more than half of a segment.
            writer.write((0..10).map(|j| format!("{:07}{}", i * 10 + j, "x".repeat(4_000)))).await;
            writer.commit().await;
        }
        assert!(place.segments().len() >= 3, "{:?}", place.segments());
        let mut source = reader(&buffer, None).await;
        for _ in 0..7 {
            next(&mut source).await.unwrap();
        }
        let position = source.position().unwrap();
        // Handed out, and not delivered when the process dies.
        next(&mut source).await.unwrap();
        source.commit(&position, None).await.unwrap();
        assert!(place.segments().len() <= 2, "{:?}", place.segments());
        assert_eq!(buffer.figures().records, 10);
        assert!(buffer.figures().oldest_age.is_some());
        position
    });
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut source = reader(&buffer, Some(position)).await;
        buffer.finish();
        let left = rest(&mut source).await;
        assert_eq!((left.len(), &left[0][..7]), (10, "0000070"));
        source.commit(&source.position().unwrap(), None).await.unwrap();
        assert_eq!((buffer.figures().records, buffer.figures().bytes, buffer.figures().oldest_age), (0, 0, None));
    });
}

#[test]
fn without_a_checkpoint_nothing_that_was_delivered_comes_again() {
    let place = Place::new();
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        for i in 0..2 {
            writer.write(numbers(i * 10..i * 10 + 10)).await;
            writer.commit().await;
        }
        let mut source = reader(&buffer, None).await;
        next(&mut source).await;
        source.commit(&source.position().unwrap(), None).await.unwrap();
    });
    run(async {
        // The state of both pipelines was reset.
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        writer.write(numbers(20..30)).await;
        writer.commit().await;
        buffer.finish();
        let mut source = reader(&buffer, None).await;
        assert_eq!(rest(&mut source).await, numbers(10..30).collect::<Vec<_>>());
    });
}

/// Three blocks of ten records in one segment, committed.
fn three_blocks(place: &Place) -> PathBuf {
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        for i in 0..3 {
            writer.write(numbers(i * 10..i * 10 + 10)).await;
            writer.commit().await;
        }
    });
    place.segments().remove(0)
}

#[test]
fn a_flipped_bit_is_a_clear_error_and_what_is_before_it_is_delivered() {
    let place = Place::new();
    let path = three_blocks(&place);
    let mut bytes = fs::read(&path).unwrap();
    let at = 64 + (bytes.len() - 64) / 2;
    bytes[at] ^= 4;
    fs::write(&path, bytes).unwrap();
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut source = reader(&buffer, None).await;
        assert_eq!(next(&mut source).await.unwrap(), numbers(0..10).collect::<Vec<_>>());
        let early = tokio::time::timeout(Duration::from_millis(50), source.next()).await;
        assert!(early.is_err(), "first what is before it is to be delivered: {early:?}");
        source.commit(&source.position().unwrap(), None).await.unwrap();
        let error = source.next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(error.message().contains(&name) && error.message().contains("checksum"), "{error:?}");
    });
    let verified = inspect::verify(&place.folder()).unwrap();
    let damaged = (verified.damages.len(), verified.damaged_records);
    assert_eq!((verified.blocks, verified.records, damaged), (2, 20, (1, 10)), "{verified:?}");
}

#[test]
fn a_torn_last_block_is_cut_where_it_does_not_count_and_refused_where_it_does() {
    for counts in [false, true] {
        let place = Place::new();
        let path = three_blocks(&place);
        let length = fs::metadata(&path).unwrap().len();
        let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        if counts {
            file.set_len(length - 5).unwrap();
        } else {
            std::io::Write::write_all(&mut &file, b"half a block, of an epoch that never counted").unwrap();
        }
        run(async {
            let buffer = place.buffer(WhenFull::Block);
            let opened = BufferSink::new(&buffer).create().unwrap().open(&[]).await;
            if counts {
                assert_eq!(opened.unwrap_err().kind(), ErrorKind::StateMismatch);
                return;
            }
            opened.unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), length);
            buffer.finish();
            assert_eq!(rest(&mut reader(&buffer, None).await).await, numbers(0..30).collect::<Vec<_>>());
        });
    }
}

#[test]
fn a_torn_control_slot_leaves_the_mark_before_it() {
    let place = Place::new();
    three_blocks(&place);
    let path = place.folder().join("control");
    let good = fs::read(&path).unwrap();
    for slot in [1, 2] {
        let mut torn = good.clone();
        torn[512 * slot..512 * slot + 20].fill(0xff);
        fs::write(&path, &torn).unwrap();
        let records = inspect::info(&place.folder()).unwrap().records;
        assert!(records == 30 || records == 20, "{records} records after damage to slot {slot}");
    }
    let mut lost = good.clone();
    lost[512..1536].fill(0);
    fs::write(&path, &lost).unwrap();
    assert_eq!(inspect::info(&place.folder()).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn files_that_do_not_fit_the_checkpoint_are_a_mismatch() {
    let place = Place::new();
    let tokens = run(async {
        let mut writer = Writer::open(&place.buffer(WhenFull::Block), Vec::new()).await;
        writer.write(numbers(0..10)).await;
        writer.commit().await;
        writer.newest
    });
    // The volume is lost; and another buffer lies in its place.
    fs::remove_dir_all(place.folder()).unwrap();
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let error = BufferSink::new(&buffer).create().unwrap().open(&tokens).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StateMismatch, "{error:?}");
    });
}

#[test]
fn a_second_process_is_locked_out_until_the_first_lets_go() {
    let place = Place::new();
    run(async {
        let first = place.buffer(WhenFull::Block);
        let _writer = Writer::open(&first, Vec::new()).await;
        let second = place.buffer(WhenFull::Block);
        let error = BufferSink::new(&second).create().unwrap().open(&[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        first.release();
        Writer::open(&second, Vec::new()).await;
    });
}

/// Values of 10 kB, ten a batch.
fn large(i: usize) -> impl Iterator<Item = String> {
    (0..10).map(move |j| format!("{:06}{}", i * 10 + j, "x".repeat(10_000)))
}

#[test]
fn a_full_buffer_rejects_records_with_a_clear_error() {
    for when_full in [WhenFull::DeadLetter, WhenFull::DropNewest] {
        let place = Place::new();
        run(async {
            let buffer = place.buffer(when_full);
            let mut writer = Writer::open(&buffer, Vec::new()).await;
            let mut rejected = 0;
            for i in 0..20 {
                writer.sink.write(batch(large(i))).await.unwrap();
                let outcomes = writer.sink.flush().await.unwrap();
                rejected += outcomes.rejected.len();
                for (_, _, error) in outcomes.rejected {
                    assert_eq!(error.kind(), ErrorKind::Full);
                    assert!(error.message().contains("buffer of `sink` is full"), "{error:?}");
                }
            }
            writer.commit().await;
            let figures = buffer.figures();
            assert!(figures.disk_bytes <= 1 << 20, "{figures:?}");
            assert_eq!(figures.records as usize + rejected, 200);
            assert!(rejected > 90, "{rejected}");
        });
    }
}

#[test]
fn the_oldest_make_room_and_are_counted() {
    for reads_first in [true, false] {
        let place = Place::new();
        run(async {
            let buffer = place.buffer(WhenFull::DropOldest);
            let mut writer = Writer::open(&buffer, Vec::new()).await;
            let early = if reads_first { Some(reader(&buffer, None).await) } else { None };
            for i in 0..20 {
                writer.write(large(i)).await;
                writer.commit().await;
                assert!(buffer.figures().disk_bytes <= 1 << 20);
            }
            buffer.finish();
            let mut source = match early {
                Some(source) => source,
                None => reader(&buffer, None).await,
            };
            let left = rest(&mut source).await;
            let numbers: Vec<usize> = left.iter().map(|value| value[..6].parse().unwrap()).collect();
            assert_eq!(numbers, (200 - numbers.len()..200).collect::<Vec<_>>(), "the newest, in order");
            assert_eq!(buffer.figures().dropped as usize + numbers.len(), 200);
            // The count outlives the process.
            source.commit(&source.position().unwrap(), None).await.unwrap();
            assert_eq!(inspect::info(&place.folder()).unwrap().dropped, buffer.figures().dropped);
        });
    }
}

#[test]
fn a_blocked_writer_waits_until_what_was_delivered_makes_room() {
    let place = Place::new();
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        let mut source = reader(&buffer, None).await;
        let mut written = 0;
        while buffer.figures().disk_bytes + 120_000 < 1 << 20 {
            writer.write(large(written)).await;
            writer.commit().await;
            written += 1;
        }
        {
            let mut waits = Box::pin(writer.write(large(written)));
            let early = tokio::time::timeout(Duration::from_millis(50), &mut waits).await;
            assert!(early.is_err(), "there is no room");
            assert!(buffer.figures().waiting.is_some());
            let mut read = 0;
            while read < 40 {
                read += next(&mut source).await.unwrap().len();
            }
            assert_eq!(read, 40);
            source.commit(&source.position().unwrap(), None).await.unwrap();
            waits.await;
        }
        assert_eq!(buffer.figures().waiting, None);
        writer.commit().await;
        buffer.finish();
        let left = rest(&mut source).await;
        assert_eq!(left.len(), (written + 1 - 4) * 10);
    });
}

#[test]
fn an_epoch_larger_than_the_buffer_does_not_wait_for_itself() {
    let place = Place::new();
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        for i in 0..20 {
            writer.write(large(i)).await;
        }
        writer.commit().await;
        buffer.finish();
        assert_eq!(rest(&mut reader(&buffer, None).await).await.len(), 200);
    });
}

#[test]
fn dump_and_info_see_what_is_not_delivered_also_while_it_runs() {
    let place = Place::new();
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        let mut source = reader(&buffer, None).await;
        for i in 0..3 {
            writer.write(numbers(i * 10..i * 10 + 10)).await;
            writer.commit().await;
        }
        next(&mut source).await;
        source.commit(&source.position().unwrap(), None).await.unwrap();
        let info = inspect::info(&place.folder()).unwrap();
        assert_eq!((info.records, info.segments.len()), (20, 1));
        assert!(info.oldest_at.is_some() && info.bytes > 0);
        let mut seen = Vec::new();
        inspect::dump(&place.folder(), |batch, _| {
            seen.extend(batch.iter().map(|record| String::from_utf8_lossy(record.value().unwrap()).into_owned()));
            Ok(true)
        })
        .unwrap();
        assert_eq!(seen, numbers(10..30).collect::<Vec<_>>());
        assert_eq!(inspect::verify(&place.folder()).unwrap().damages, []);
    });
}
