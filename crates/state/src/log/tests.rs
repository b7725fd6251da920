use super::*;

fn entries(path: &Path) -> Result<(Vec<Vec<u8>>, Option<Torn>)> {
    let mut log = Log::open(path, Purpose::Checkpoints)?.unwrap();
    let mut found = Vec::new();
    let torn = log.recover(|entry| {
        found.push(entry.body.to_vec());
        Ok(())
    })?;
    Ok((found, torn))
}

fn log_of(path: &Path, bodies: &[&[u8]]) -> Log {
    let mut log = Log::create(path, Purpose::Checkpoints, Id::random(), []).unwrap();
    for body in bodies {
        log.append(7, body).unwrap();
    }
    log
}

#[test]
fn what_was_appended_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    assert!(Log::open(&path, Purpose::Checkpoints).unwrap().is_none());
    let large = vec![3; TOGETHER_BYTES + 1];
    let mut log = log_of(&path, &[b"one", b"", &large]);
    log.sync().unwrap();
    assert_eq!(entries(&path).unwrap(), (vec![b"one".to_vec(), vec![], large], None));
}

#[test]
fn a_crash_at_any_byte_leaves_whole_entries() {
    let dir = tempfile::tempdir().unwrap();
    let (path, cut) = (dir.path().join("a.log"), dir.path().join("b.log"));
    let log = log_of(&path, &[b"one", b"two", b"three"]);
    drop(log);
    let bytes = std::fs::read(&path).unwrap();
    let ends = [64, 64 + 16, 64 + 32, 64 + 50];
    assert_eq!(bytes.len() as u64, ends[3]);
    for length in 64..=bytes.len() {
        std::fs::write(&cut, &bytes[..length]).unwrap();
        let (found, torn) = entries(&cut).unwrap();
        let whole = ends.iter().filter(|end| **end <= length as u64).count() - 1;
        assert_eq!(found.len(), whole, "cut at {length}");
        assert_eq!(torn.is_some(), ends[whole] != length as u64);
        assert_eq!(std::fs::metadata(&cut).unwrap().len(), ends[whole]);
        // The mark is now there, so the same damage again is an error.
        if whole > 0 {
            let kept = std::fs::read(&cut).unwrap();
            std::fs::write(&cut, &kept[..kept.len() - 1]).unwrap();
            assert_eq!(entries(&cut).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}

#[test]
fn a_flipped_bit_in_what_was_synced_is_an_error_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (path, flipped) = (dir.path().join("a.log"), dir.path().join("b.log"));
    drop(log_of(&path, &[b"one", b"two", b"three"]));
    let good = entries(&path).unwrap().0;
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(&flipped, &damaged).unwrap();
            match entries(&flipped) {
                // The mark and the padding carry no entry.
                Ok((found, _)) => assert!((40..64).contains(&at) && found == good, "byte {at} bit {bit}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at} bit {bit}: {error:?}");
                    assert!(error.message().contains("b.log") && error.message().contains("at offset"), "{error:?}");
                }
            }
        }
    }
}

#[test]
fn a_newer_version_is_told_apart_from_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    drop(log_of(&path, &[]));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    let check = xxhash_rust::xxh3::xxh3_64(&bytes[..32]);
    bytes[32..40].copy_from_slice(&check.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(Log::open(&path, Purpose::Checkpoints).unwrap_err().kind(), ErrorKind::Version);
}

#[test]
fn a_log_of_another_purpose_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    drop(log_of(&path, &[]));
    assert_eq!(Log::open(&path, Purpose::DeadLetters).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_full_disk_leaves_the_log_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    let mut log = log_of(&path, &[b"one"]);
    for room in 0..16 {
        log.faults.room = Some(room);
        let error = log.append(7, b"two").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), log.length());
    }
    log.faults.room = None;
    log.append(7, b"three").unwrap();
    log.sync().unwrap();
    assert_eq!(entries(&path).unwrap(), (vec![b"one".to_vec(), b"three".to_vec()], None));
}

#[test]
fn a_failed_sync_takes_back_what_it_could_not_promise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    let mut log = log_of(&path, &[b"one"]);
    log.sync().unwrap();
    log.append(7, b"two").unwrap();
    log.faults.sync = true;
    assert_eq!(log.sync().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(log.append(7, b"three").unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(entries(&path).unwrap(), (vec![b"one".to_vec()], None));
}
