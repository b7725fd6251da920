//! `.ss` stream files: writing, reading, seeking. Through a pipeline, and the codec by itself.

use std::{fs::File, io::Write as _, os::unix::fs::FileExt as _, path::Path, time::Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use millstream_codec::ss::{
    Asked, BEACON_INTERVAL_DEFAULT, Block, Header, SsReader, SsWriter, Step, read_header, seek_sequence,
};
use serde_json::json;

use crate::{
    data::{self, Random},
    harness::{Contender, ROUNDS, Rates, Table, Target, compete, median},
    parts::{Blocks, RECORD_BYTES, dropped, pipeline, run as run_pipeline},
    ss_scan::{scan, write_by_hand},
};

/// Name of the stream in all files.
pub(crate) const STREAM: &str = "blocks";
const BATCH_RECORDS: usize = 2_048;
const RECORDS: u64 = 2_000_000 / BATCH_RECORDS as u64 * BATCH_RECORDS as u64;
/// Peers are slower, and get less to do.
#[cfg(feature = "peers")]
const PEER_RECORDS: u64 = 200_000;
const SEEK_RECORDS: u64 = 10_000_000;
const SEEKS: usize = 1_000;

/// Measures the case.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    let folder = data::folder()?;
    write(table, folder.path())?;
    read(table, folder.path())?;
    seek(table, folder.path())
}

/// The sink does not sync here: neither does the loop that it is compared with.
fn write(table: &mut Table, folder: &Path) -> Result<()> {
    let (ours, codec, hand) = (folder.join("ours.ss"), folder.join("codec.ss"), folder.join("hand.ss"));
    let payload = data::letters(RECORD_BYTES * BATCH_RECORDS);
    let options = json!({"path": ours, "existing": "replace", "fsync": "never"});
    let blocks = Blocks::plain(BATCH_RECORDS, RECORDS / BATCH_RECORDS as u64);
    let pipeline = pipeline("ss-write", folder).source_of(blocks).sink_with("file", options);
    let contenders = vec![
        Contender::new("ours writing", || {
            let written = run_pipeline(&pipeline)?.stages.get("file").map_or(0, |figures| figures.records_out);
            ensure!(written == RECORDS, "{written} of {RECORDS} records were written");
            Ok(written)
        }),
        Contender::new("codec alone", || write_codec(&codec, &payload, RECORDS)),
        Contender::new("buffered write", || write_by_hand(&hand, &payload, RECORDS)),
        #[cfg(feature = "peers")]
        Contender::new("sea-streamer", || crate::peers::sea_file::write(folder, &payload, PEER_RECORDS)),
    ];
    let rates = compete(ROUNDS, contenders)?;
    rows(table, ".ss write", &rates, (0.7, 10.0));
    Ok(())
}

fn rows(table: &mut Table, case: &str, rates: &[Rates], targets: (f64, f64)) {
    table.ratio(case, &rates[0], &rates[2], targets.0);
    rates[3..].iter().for_each(|peer| table.ratio("  against sea-streamer", &rates[0], peer, targets.1));
    table.ratio("  codec alone", &rates[1], &rates[2], targets.0);
}

fn read(table: &mut Table, folder: &Path) -> Result<()> {
    let path = folder.join("read.ss");
    let payload = data::letters(RECORD_BYTES * BATCH_RECORDS);
    write_codec(&path, &payload, RECORDS)?;
    let pipeline = pipeline("ss-read", folder).source_with("file", json!({"path": path})).sink("drop:");
    let contenders = vec![
        Contender::new("ours reading", || {
            let read = dropped(&run_pipeline(&pipeline)?);
            ensure!(read == RECORDS, "{read} of {RECORDS} records were read");
            Ok(read)
        }),
        Contender::new("codec alone", || read_codec(&path)),
        Contender::new("scan by hand", || scan(&path)),
        #[cfg(feature = "peers")]
        Contender::new("sea-streamer", || crate::peers::sea_file::read(&path, PEER_RECORDS)),
    ];
    let rates = compete(ROUNDS, contenders)?;
    rows(table, ".ss read", &rates, (0.6, 40.0));
    Ok(())
}

/// One seek: find the record, and read it.
fn seek(table: &mut Table, folder: &Path) -> Result<()> {
    let path = folder.join("seek.ss");
    write_codec(&path, &data::letters(RECORD_BYTES * BATCH_RECORDS), SEEK_RECORDS)?;
    let file = File::open(&path)?;
    let header = read_header(&file)?;
    let mut random = Random(4);
    let mut millis = Vec::with_capacity(SEEKS);
    let mut buffer = vec![0; 4 * RECORD_BYTES];
    for _ in 0..SEEKS {
        let sequence = 1 + random.below(SEEK_RECORDS);
        let since = Instant::now();
        let found = seek_sequence(&file, Asked::Keys(&[STREAM]), sequence)?.context("a record was not found")?;
        let bytes = file.read_at(&mut buffer, found.offset)?;
        let block = Block { bytes: &buffer[..bytes], offset: found.offset, last: true };
        let step = SsReader::at(&header, found.offset).next(block);
        millis.push(since.elapsed().as_secs_f64() * 1e3);
        // A message that a beacon with its items cuts may be longer than the buffer.
        ensure!(
            matches!(step, Step::Message(message) if message.sequence == sequence) || matches!(step, Step::Torn { .. }),
            "sequence {sequence} was looked for, and {step:?} found"
        );
    }
    millis.sort_by(f64::total_cmp);
    let most = format!("p99 {:.3} ms", millis[SEEKS * 99 / 100]);
    let p50 = median(&millis);
    table.row(".ss seek in 10 M records, p50", (format!("{p50:.3} ms"), most), p50, " ms", Target::Below(1.0));
    Ok(())
}

/// The writer of the codec, and nothing else.
fn write_codec(path: &Path, payloads: &[u8], records: u64) -> Result<u64> {
    let mut file = File::create(path)?;
    let mut out = Vec::with_capacity(2 << 20);
    let mut writer = SsWriter::new(&Header::new("bench.ss", 0, BEACON_INTERVAL_DEFAULT)?, &mut out);
    let stream = writer.stream(STREAM, 0)?;
    for payload in payloads.chunks_exact(RECORD_BYTES).cycle().take(usize::try_from(records)?) {
        writer.append_to(stream, 1, payload, &mut out)?;
        if out.len() >= 1 << 20 {
            file.write_all(&out)?;
            out.clear();
        }
    }
    file.write_all(&out)?;
    Ok(records)
}

/// The reader of the codec, and nothing else.
fn read_codec(path: &Path) -> Result<u64> {
    let file = File::open(path)?;
    let mut reader = SsReader::new(&read_header(&file)?);
    let (mut buffer, mut records, mut bytes) = (vec![0; 1 << 20], 0, 0);
    loop {
        let offset = reader.offset();
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
                0 => break,
                more => filled += more,
            }
        }
        let block = Block { bytes: &buffer[..filled], offset, last: filled < buffer.len() };
        loop {
            match reader.next(block) {
                Step::Message(message) => {
                    bytes += reader.payload(block, message.payload).len() as u64;
                    records += 1;
                }
                Step::NeedMore { .. } => break,
                Step::FileEnd => {
                    ensure!(bytes == records * RECORD_BYTES as u64, "{bytes} bytes of {records} records were read");
                    return Ok(records);
                }
                other => return Err(anyhow!("{other:?}")),
            }
        }
    }
}
