use std::{
    io::Write,
    process::{Command, Stdio},
};

use millstream_core::Record;
use serde_json::json;

use crate::support::{kafka, read_to_end, topic, write_all};

fn kcat(arguments: &[&str], input: &[u8]) -> String {
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
