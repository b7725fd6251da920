//! What `millstream file info|verify|repair` do.

use std::fs;

use millstream_codec::ss::Tail;
use millstream_core::{ErrorKind, Last};
use millstream_file::ss::{info, repair, verify};

use super::*;

#[tokio::test]
async fn a_file_is_described() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut sink = open_sink(&json!({"path": path, "beacon_interval": "4KiB"}), &exactly_once(), &[]).await.unwrap();
    epoch(&mut *sink, batch(&[("a", 0, 5, "1"), ("b", 3, 9, "2"), ("a", 0, 7, "3")]), Last::No).await;
    let found = info(&path).unwrap();
    assert_eq!((found.file_name.as_str(), found.beacon_interval, found.tail), ("x.ss", 4096, Tail::Whole));
    assert_eq!(found.committed, Some(found.bytes));
    let streams: Vec<_> = found.streams.iter().map(|stream| (&*stream.key, stream.shard, stream.sequence)).collect();
    assert_eq!(streams, [("a", 0, 2), ("b", 3, 1)]);
    assert_eq!(found.streams[0].time, Timestamp::from_millis(7));
    assert_eq!(info(&dir.path().join("y.ss")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn damage_is_found_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mended) = (dir.path().join("x.ss"), dir.path().join("y.ss"));
    let text = "v".repeat(70);
    written(&path, &vec![("s", 0, 1, text.as_str()); 500]).await;
    let mut told = Vec::new();
    let report = verify(&path, &mut |done, total| told.push((done, total))).unwrap();
    assert!(report.whole() && report.messages == 500);
    let len = fs::metadata(&path).unwrap().len();
    assert_eq!(told.last(), Some(&(len, len)));
    assert!(told.is_sorted());
    let mut bytes = fs::read(&path).unwrap();
    bytes[10_000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(!verify(&path, &mut |_, _| ()).unwrap().whole());
    assert!(!repair(&path, &mended, None, &mut |_, _| ()).unwrap().whole());
    let report = verify(&mended, &mut |_, _| ()).unwrap();
    assert!(report.whole() && report.messages >= 480, "{}", report.messages);
    assert_eq!(repair(&path, &mended, None, &mut |_, _| ()).unwrap_err().kind(), ErrorKind::Exists);
    // A lost header.
    bytes[..128].fill(b'x');
    fs::write(&path, &bytes).unwrap();
    let again = dir.path().join("z.ss");
    assert_eq!(verify(&path, &mut |_, _| ()).unwrap_err().kind(), ErrorKind::Corrupt);
    repair(&path, &again, Some(1024), &mut |_, _| ()).unwrap();
    assert!(verify(&again, &mut |_, _| ()).unwrap().messages >= 480);
}
