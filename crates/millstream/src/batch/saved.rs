//! Records of open batches as the epoch saves them.

use bytes::Bytes;
use millstream_core::{
    Batch, BatchBuilder, Body, Change, Error, ErrorKind, Form, GROUPS, Record, Result, Timestamp, group,
};
use serde::{Deserialize, Serialize};

use crate::typed::{Data, pack, view};

/// The key under which a record is saved: unique among all workers and runs, because each has a number at random. The group
/// of that number is the one of records without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    pub(crate) run: u64,
    pub(crate) nth: u64,
}

impl Tag {
    fn bytes(self) -> Bytes {
        Bytes::from([self.run.to_be_bytes(), self.nth.to_be_bytes()].concat())
    }

    fn read(bytes: &[u8]) -> Option<Tag> {
        let (run, nth) = bytes.split_first_chunk::<8>()?;
        Some(Tag { run: u64::from_be_bytes(*run), nth: u64::from_be_bytes(nth.try_into().ok()?) })
    }
}

/// A record of an open batch.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// In this order they came.
    pub(crate) nth: u64,
    /// When the first record of its batch came.
    pub(crate) first_at: Timestamp,
    /// The key of its batch.
    pub(crate) batch_key: Option<Bytes>,
    /// The record; its value is one that can be read back.
    pub(crate) record: Record,
}

/// A number for a run whose records without a key are saved under a group: found in about as many steps as there are groups.
pub(crate) fn run_of(of: u16, random: u64) -> u64 {
    let (of, mut run) = (of % GROUPS, random);
    while group(&run.to_be_bytes()) != of {
        run = run.wrapping_add(1);
    }
    run
}

/// The group of a record's state: that of its key, so that it goes where the key goes.
fn group_of(key: Option<&[u8]>, tag: Tag) -> u16 {
    key.map_or_else(|| group(&tag.run.to_be_bytes()), group)
}

/// Saves a record.
pub(crate) fn save<T: Data>(
    batch: &Batch,
    row: u32,
    tag: Tag,
    first_at: Timestamp,
    batch_key: Option<Bytes>,
) -> Result<Change> {
    let record = batch.get(row as usize);
    let value = view::<T>(batch).get(row as usize).map(pack).transpose()?;
    let group = group_of(record.key(), tag);
    let record = Record { value, form: Form::Bytes, ..record.to_record() };
    let saved = Saved { nth: tag.nth, first_at, batch_key, record };
    let value = rmp_serde::to_vec_named(&saved)
        .map_err(|cause| Error::new(ErrorKind::Bug, "cannot save a record of an open batch").caused_by(cause))?;
    Ok(Change { group, key: tag.bytes(), value: Some(value.into()) })
}

/// A saved record has left its batch.
pub(crate) fn forget(key: Option<&[u8]>, tag: Tag) -> Change {
    Change { group: group_of(key, tag), key: tag.bytes(), value: None }
}

/// What was saved, in the order in which it came.
pub(crate) fn read(state: Vec<Change>) -> Result<Vec<(Tag, Saved)>> {
    let damaged = || Error::new(ErrorKind::Corrupt, "cannot read a record of an open batch from the saved state");
    let mut all = Vec::with_capacity(state.len());
    for change in state {
        let Some(value) = change.value else { continue };
        let tag = Tag::read(&change.key).ok_or_else(damaged)?;
        all.push((tag, rmp_serde::from_slice::<Saved>(&value).map_err(|cause| damaged().caused_by(cause))?));
    }
    all.sort_by_key(|(_, saved)| saved.nth);
    Ok(all)
}

/// The records as one batch, with values of `T`.
pub(crate) fn batch_of<T: Data>(saved: &[(Tag, Saved)]) -> Result<Batch> {
    let (mut builder, mut values) = (BatchBuilder::new(), Vec::with_capacity(saved.len()));
    for (_, Saved { record, .. }) in saved {
        values.push(crate::typed::unpack::<T>(record.value.as_deref().unwrap_or_default())?);
        builder.push(&Record { value: None, ..record.clone() });
    }
    let body: Body = crate::typed::Typed::body(values);
    Ok(builder.finish().with_body(body))
}
