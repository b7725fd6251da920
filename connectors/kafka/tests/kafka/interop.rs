use std::{
    ffi::{OsStr, OsString},
    io::Write,
    os::unix::ffi::OsStringExt as _,
    path::Path,
    process::{Command, Stdio},
};

use millstream_core::{ErrorKind, Event, Record, Resume, Timestamp};
use millstream_testkit::{Dice, started};
use serde_json::json;

use crate::support::{event, kafka, opened, read_to_end, texts, topic, write_all};

fn kcat<S: AsRef<OsStr>>(arguments: &[S], input: &[u8]) -> String {
    let mut kcat = Command::new("kcat");
    kcat.args(["-b", &kafka().bootstrap()]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = kcat.spawn().expect("kcat, of Debian's package of that name");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kcat_writes_is_read_with_key_and_headers() {
    let topic = topic(1);
    kcat(&["-P", "-t", &topic, "-K", ":", "-H", "a=1", "-H", "a=2", "-H", "none", "-Z"], b"key:value\n:no value\nk:\n");
    let read = read_to_end(&topic, json!({})).await;
    assert_eq!(read.len(), 3);
    assert_eq!((read[0].key.as_deref(), read[0].value.as_deref()), (Some(&b"key"[..]), Some(&b"value"[..])));
    let headers: Vec<_> = read[0].headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    assert_eq!(headers, [("a", Some(&b"1"[..])), ("a", Some(&b"2"[..])), ("none", None)]);
    assert_eq!(read[2].value, None);
    assert!(read.iter().all(|record| record.time.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_whose_name_is_no_text_is_a_fault_of_its_record_and_of_no_other() {
    let topic = topic(1);
    let header = |name: &[u8]| -> Vec<OsString> {
        let header = OsString::from_vec([name, b"=1"].concat());
        [OsString::from("-P"), "-t".into(), topic.clone().into(), "-H".into(), header].into()
    };
    kcat(&header(b"\xff\xfe"), b"odd\n");
    kcat(&header(b"good"), b"even\n");
    let mut source = opened(&topic, json!({}), &Resume::default()).await;
    let (mut values, mut faults) = (Vec::new(), Vec::new());
    while values.len() < 2 {
        let Event::Batch(read) = event(&mut *source).await.unwrap() else { continue };
        faults.extend(read.failed.iter().map(|(row, error)| (values.len() + *row as usize, error.kind())));
        values.extend(read.batch.iter().map(|record| record.to_record()));
    }
    assert_eq!(texts(&values), ["odd", "even"]);
    assert_eq!(faults, [(0, ErrorKind::Decode)]);
    assert_eq!((&*values[0].headers[0].0, &*values[1].headers[0].0), ("\u{fffd}\u{fffd}", "good"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_we_write_is_read_by_kcat_and_in_the_partition_that_java_chooses() {
    let topic = topic(5);
    // Kafka's own vectors of murmur2, and the partition of five that follows from each.
    let vectors: [(&str, i32); 6] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ];
    let record = |key: &str| Record {
        key: Some(key.to_owned().into()),
        headers: vec![("h".into(), Some("1".into())), ("h".into(), None)],
        ..Record::new("x", format!("value of {key}"))
    };
    write_all(&topic, json!({}), &vectors.map(|(key, _)| record(key))).await;
    let printed = kcat(&["-C", "-q", "-e", "-o", "beginning", "-t", &topic, "-f", "%p|%k|%s|%h\n"], b"");
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    let line = |(key, hash): &(&str, i32)| format!("{}|{key}|value of {key}|h=1,h=NULL", (hash & 0x7fff_ffff) % 5);
    let mut expected: Vec<String> = vectors.iter().map(line).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kcat_with_javas_hash_chooses_the_same_partitions() {
    let (ours, theirs) = (topic(7), topic(7));
    let keys: Vec<String> = (0..50).map(|i| format!("key-{i}")).collect();
    let records: Vec<_> =
        keys.iter().map(|key| Record { key: Some(key.clone().into()), ..Record::new("x", key.clone()) }).collect();
    write_all(&ours, json!({}), &records).await;
    let lines: String = keys.iter().map(|key| format!("{key}:{key}\n")).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    kcat(
        &["-P", "-t", &theirs, "-K", ":", "-X", "partitioner=murmur2_random", "-l", &file.path().display().to_string()],
        b"",
    );
    let places = |read: Vec<Record>| {
        let mut places: Vec<_> = read.into_iter().map(|record| (record.key, record.origin.shard)).collect();
        places.sort_unstable();
        places
    };
    assert_eq!(places(read_to_end(&ours, json!({})).await), places(read_to_end(&theirs, json!({})).await));
}

/// Keys of all kinds: empty, short, long, text and not.
fn keys() -> Vec<Vec<u8>> {
    let mut dice = Dice::new(3);
    let mut keys: Vec<Vec<u8>> = vec![vec![], vec![0], vec![0xff], vec![0xff, 0xfe, 0], "straße".into(), "鍵".into()];
    keys.extend((0..4).map(|tail| vec![b'a'; 64 + tail]));
    while keys.len() < 3_000 {
        let length = dice.roll(40);
        keys.push((0..length).map(|_| dice.roll(256) as u8).collect());
    }
    keys
}

fn hex(bytes: Option<&[u8]>) -> String {
    bytes.map_or("-".to_owned(), |bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Record `n` as `Interop.java` writes it.
fn interop(n: usize, key: &[u8]) -> Record {
    let number = n.to_string();
    Record {
        key: Some(key.to_vec().into()),
        value: (n % 7 != 6).then(|| number.clone().into()),
        time: Some(Timestamp::from_millis(1_700_000_000_000 + n as i64)),
        headers: vec![
            ("n".into(), Some(number.into())),
            ("n".into(), Some(vec![0xff, 0].into())),
            ("none".into(), None),
        ],
        ..Record::new("x", "")
    }
}

/// A record as `Interop.java` prints it.
fn line(record: &Record) -> String {
    let headers = record.headers.iter().map(|(name, value)| format!("{name}={},", hex(value.as_deref())));
    let time = record.time.unwrap().as_millis();
    let (key, value) = (hex(record.key.as_deref()), hex(record.value.as_deref()));
    format!("{}|{time}|{key}|{value}|{}", record.origin.shard, headers.collect::<String>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_java_client_and_we_read_each_other_and_choose_the_same_partitions() {
    let (ours, theirs, keys) = (topic(7), topic(7), keys());
    let program = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/java/Interop.java"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let listed: String = keys.iter().map(|key| hex(Some(key)) + "\n").collect();
    std::fs::write(file.path(), listed).unwrap();
    let path = file.path().display().to_string();
    let wrote = tokio::task::block_in_place(|| kafka().java(program, &["write", &theirs, &path]));
    started!(wrote);
    let records: Vec<_> = keys.iter().enumerate().map(|(n, key)| interop(n, key)).collect();
    write_all(&ours, json!({}), &records).await;
    // What the Java client has written, as we read it; and what we have written, as it reads it: the same, in the same places.
    let mut read: Vec<String> = read_to_end(&theirs, json!({})).await.iter().map(line).collect();
    let printed = tokio::task::block_in_place(|| kafka().java(program, &["read", &ours])).unwrap();
    let mut printed: Vec<String> = printed.lines().map(str::to_owned).collect();
    read.sort_unstable();
    printed.sort_unstable();
    assert_eq!(read.len(), keys.len());
    for (we_read, java_read) in read.iter().zip(&printed) {
        assert_eq!(we_read, java_read);
    }
    let mut contents: Vec<String> = records.iter().map(|record| line(record)[1..].to_owned()).collect();
    let mut without_partitions: Vec<String> = read.iter().map(|line| line[1..].to_owned()).collect();
    contents.sort_unstable();
    without_partitions.sort_unstable();
    assert_eq!(without_partitions, contents, "nothing has changed on the way");
}
