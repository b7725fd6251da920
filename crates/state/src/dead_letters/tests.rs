use millstream_core::{BatchBuilder, Record};

use super::*;

fn letter(number: u64) -> DeadLetter {
    let mut record = Record::new("in", format!("value {number}"));
    record.sequence = u128::from(number) << 70;
    record.headers = vec![("h".into(), None), ("h".into(), Some("x".into()))];
    let error = Error::new(ErrorKind::Decode, "cannot read a number").hint("look at it").caused_by(std::fmt::Error);
    DeadLetter::new(record, "parse", &error, 3)
}

fn batch(numbers: impl IntoIterator<Item = u64>) -> Batch {
    let mut builder = BatchBuilder::new();
    for number in numbers {
        builder.push(&Record::new("dead", encode_dead_letter(&letter(number)).unwrap()));
    }
    builder.finish()
}

fn numbers(dir: &Path) -> Vec<u64> {
    let read = read_dead_letters(dir, 0, usize::MAX).unwrap();
    assert!(read.iter().map(|(number, _)| *number).eq(1..=read.len() as u64));
    read.iter().map(|(_, letter)| (letter.record.sequence >> 70) as u64).collect()
}

async fn opened(dir: &Path, resume: &[(Epoch, Token)]) -> Result<DeadLetterLog> {
    let mut log = DeadLetterLog::new(dir);
    log.open(resume).await?;
    Ok(log)
}

async fn epoch(log: &mut DeadLetterLog, letters: impl IntoIterator<Item = u64>) -> Option<Token> {
    log.write(batch(letters)).await.unwrap();
    assert!(log.flush().await.unwrap().rejected.is_empty());
    log.prepare(1, Last::No).await.unwrap()
}

#[tokio::test]
async fn letters_are_read_once_they_are_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = opened(dir.path(), &[]).await.unwrap();
    assert_eq!(log.prepare(1, Last::No).await.unwrap(), None);
    assert!(!dir.path().join(FILE).exists(), "nothing is made before the first letter");
    let first = epoch(&mut log, 1..=3).await.unwrap();
    assert!(numbers(dir.path()).is_empty());
    log.commit(&first).await.unwrap();
    let second = epoch(&mut log, 4..=5).await.unwrap();
    assert_eq!(numbers(dir.path()), [1, 2, 3]);
    log.commit(&second).await.unwrap();
    log.commit(&first).await.unwrap();
    assert_eq!(numbers(dir.path()), [1, 2, 3, 4, 5]);
    let some = read_dead_letters(dir.path(), 4, 1).unwrap();
    let expected = DeadLetter { failed_at: some[0].1.failed_at, ..letter(4) };
    assert_eq!(some, [(4, expected)]);
    assert!(read_dead_letters(dir.path(), 6, 1).unwrap().is_empty());
    assert!(read_dead_letters(&dir.path().join("none"), 0, 9).unwrap().is_empty());
}

#[tokio::test]
async fn recovery_keeps_what_counts_and_cuts_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = opened(dir.path(), &[]).await.unwrap();
    let first = epoch(&mut log, 1..=2).await.unwrap();
    log.commit(&first).await.unwrap();
    let second = epoch(&mut log, 3..=4).await.unwrap();
    log.write(batch([5])).await.unwrap();
    drop(log);
    // Killed between the decision and its commit: the checkpoint has the token.
    let mut log = opened(dir.path(), &[(1, first.clone()), (2, second)]).await.unwrap();
    assert_eq!(numbers(dir.path()), [1, 2, 3, 4]);
    epoch(&mut log, [6]).await.unwrap();
    drop(log);
    // A run that starts anew keeps the letters of the runs before it.
    let mut log = opened(dir.path(), &[]).await.unwrap();
    assert_eq!(numbers(dir.path()), [1, 2, 3, 4]);
    let third = epoch(&mut log, [7]).await.unwrap();
    log.commit(&third).await.unwrap();
    assert_eq!(numbers(dir.path()), [1, 2, 3, 4, 7]);
    log.close().await.unwrap();
    // A checkpoint of earlier: what came after it will come again.
    let _log = opened(dir.path(), &[(1, first)]).await.unwrap();
    assert_eq!(numbers(dir.path()), [1, 2]);
}

#[tokio::test]
async fn a_crash_before_the_first_commit_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = opened(dir.path(), &[]).await.unwrap();
    epoch(&mut log, 1..=3).await;
    drop(log);
    let _log = opened(dir.path(), &[]).await.unwrap();
    assert!(numbers(dir.path()).is_empty());
    assert_eq!(std::fs::metadata(dir.path().join(FILE)).unwrap().len(), HEADER_BYTES);
}

#[tokio::test]
async fn a_file_that_does_not_fit_is_a_mismatch_and_damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let mut log = opened(dir.path(), &[]).await.unwrap();
    let token = epoch(&mut log, 1..=3).await.unwrap();
    log.commit(&token).await.unwrap();
    drop(log);
    let resume = [(1, token)];
    let bytes = std::fs::read(&path).unwrap();
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    assert_eq!(opened(dir.path(), &resume).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(read_dead_letters(dir.path(), 0, 9).unwrap_err().kind(), ErrorKind::Corrupt);
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    for resume in [&resume[..], &[]] {
        assert_eq!(opened(dir.path(), resume).await.unwrap_err().kind(), ErrorKind::StateMismatch);
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(opened(dir.path(), &resume).await.unwrap_err().kind(), ErrorKind::StateMismatch);
    let mut other = opened(dir.path(), &[]).await.unwrap();
    epoch(&mut other, 1..=9).await;
    drop(other);
    assert_eq!(opened(dir.path(), &resume).await.unwrap_err().kind(), ErrorKind::StateMismatch);
}

#[tokio::test]
async fn a_record_without_a_value_is_rejected_and_the_others_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = opened(dir.path(), &[]).await.unwrap();
    let mut builder = BatchBuilder::new();
    builder.push(&Record { value: None, ..Record::new("dead", "") });
    builder.push(&Record::new("dead", encode_dead_letter(&letter(1)).unwrap()));
    let id = log.write(builder.finish()).await.unwrap();
    let rejected = log.flush().await.unwrap().rejected;
    assert_eq!(rejected.iter().map(|(write, row, _)| (*write, *row)).collect::<Vec<_>>(), [(id, 0)]);
    let token = log.prepare(1, Last::Finished).await.unwrap().unwrap();
    log.commit(&token).await.unwrap();
    assert_eq!(numbers(dir.path()), [1]);
}

#[tokio::test]
async fn a_full_disk_writes_none_of_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = opened(dir.path(), &[]).await.unwrap();
    epoch(&mut log, [1]).await;
    log.writer.lock().unwrap().log.as_mut().unwrap().faults.room = Some(250);
    let many = batch((0..10).map(|n| n * 1000));
    // One letter fits where the second does not: each write asks for its own room.
    log.writer.lock().unwrap().log.as_mut().unwrap().faults.after = Some(3);
    assert_eq!(log.write(many).await.unwrap_err().kind(), ErrorKind::Unavailable);
    log.writer.lock().unwrap().log.as_mut().unwrap().faults = Default::default();
    let token = epoch(&mut log, [2]).await.unwrap();
    log.commit(&token).await.unwrap();
    assert_eq!(numbers(dir.path()), [1, 2]);
}
