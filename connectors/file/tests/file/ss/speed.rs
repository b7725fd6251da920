//! How fast it is: `cargo test --release -p millstream-file --test file -- --ignored --nocapture ss::speed`.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use millstream_codec::ss::{Block, Header, SsReader, Step, crc};
use millstream_core::{Event, Last};
use serde_json::json;

use super::*;

const RECORDS: usize = 4_000_000;
const VALUE_BYTES: usize = 100;

/// The best of a few rounds: other work on the machine only makes it slower.
fn report(what: &str, times: &[Duration]) -> f64 {
    let best = times.iter().min().unwrap().as_secs_f64();
    let rate = RECORDS as f64 / best / 1e6;
    println!("{what:<44} {rate:6.1} million records a second");
    rate
}

fn batches() -> Vec<Batch> {
    let value = vec![b'v'; VALUE_BYTES];
    let batch = || {
        let mut builder = BatchBuilder::new();
        for at in 0..4_000 {
            builder.push_value(
                &ShardKey::new("clicks", 0),
                at,
                Some(Timestamp::from_millis(at as i64)),
                Form::Bytes,
                None,
                Some(&value),
            );
        }
        builder.finish()
    };
    (0..RECORDS / 4_000).map(|_| batch()).collect()
}

/// What the hardware would give: the same bytes through a buffer, with the same checksum.
fn buffered(path: &Path) -> Duration {
    let value = vec![b'v'; VALUE_BYTES];
    let _ = fs::remove_file(path);
    let since = Instant::now();
    let mut file = std::io::BufWriter::with_capacity(256 << 10, File::create(path).unwrap());
    for at in 0..RECORDS as u64 {
        let mut head = [0; 35];
        head[7..15].copy_from_slice(&at.to_be_bytes());
        file.write_all(&head).unwrap();
        file.write_all(&value).unwrap();
        file.write_all(&crc::checksum(std::hint::black_box(&value)).to_be_bytes()).unwrap();
        file.write_all(b"\r").unwrap();
    }
    file.flush().unwrap();
    since.elapsed()
}

async fn sink_once(path: &Path, batches: &[Batch]) -> Duration {
    let _ = fs::remove_file(path);
    let options = json!({"path": path, "fsync": "never"});
    let mut sink = open_sink(&options, &PlanContext::default(), &[]).await.unwrap();
    let since = Instant::now();
    for (at, batch) in batches.iter().enumerate() {
        sink.write(batch.clone()).await.unwrap();
        if at % 16 == 15 {
            sink.flush().await.unwrap();
        }
    }
    sink.flush().await.unwrap();
    let took = since.elapsed();
    sink.prepare(1, Last::Drained).await.unwrap();
    sink.close().await.unwrap();
    took
}

/// The reader's core over bytes that are in memory.
fn core(bytes: &[u8]) -> Duration {
    let since = Instant::now();
    let header = Header::decode(bytes).unwrap();
    let (mut reader, block) = (SsReader::new(&header), Block { bytes, offset: 0, last: true });
    let (mut records, mut length) = (0, 0);
    while let Step::Message(message) = reader.next(block) {
        records += 1;
        length += reader.payload(block, message.payload).len();
    }
    assert_eq!((records, length), (RECORDS, RECORDS * VALUE_BYTES));
    since.elapsed()
}

/// The file through one buffer, looked at by nobody.
fn read_only(path: &Path) -> Duration {
    use std::io::Read;
    let since = Instant::now();
    let (mut file, mut block) = (File::open(path).unwrap(), vec![0; 256 << 10]);
    while file.read(&mut block).unwrap() > 0 {
        std::hint::black_box(&block);
    }
    since.elapsed()
}

async fn source_once(path: &Path) -> Duration {
    let since = Instant::now();
    let mut source = reader(path).await;
    let mut records = 0;
    loop {
        match source.next().await.unwrap() {
            Event::Batch(read) => records += read.batch.len(),
            Event::End => break,
            _ => {}
        }
    }
    assert_eq!(records, RECORDS);
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a release build and a quiet machine"]
async fn speed() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("x.ss");
    let batches = batches();
    let plain: Vec<Duration> = (0..4).map(|_| buffered(&path)).collect();
    let mut times = Vec::new();
    for _ in 0..4 {
        times.push(sink_once(&path, &batches).await);
    }
    let (base, sink) = (report("buffered write with the checksum", &plain), report("sink", &times));
    println!("{:<44} {:6.2}\n", "ratio (target 0.7)", sink / base);
    drop(batches);
    let bytes = fs::read(&path).unwrap();
    let scans: Vec<Duration> = (0..4).map(|_| core(&bytes)).collect();
    drop(bytes);
    report("read of the file alone", &(0..4).map(|_| read_only(&path)).collect::<Vec<_>>());
    times.clear();
    for _ in 0..8 {
        times.push(source_once(&path).await);
    }
    let (base, source) = (report("scan of memory with the checksum", &scans), report("source", &times));
    println!("{:<44} {:6.2}", "ratio (target 0.6)", source / base);
}
