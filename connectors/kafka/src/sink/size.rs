//! How large a record is on the wire, so that one that is too large is refused alone.

use millstream_core::{Error, ErrorKind, RecordRef, Result};

use super::plan::Planned;

/// Bytes around the records of a batch (message format 2).
const BATCH_OVERHEAD: u64 = 61;

/// More than a record without headers takes on the wire beside key and value.
const AROUND_MAX: u64 = 128;

/// Refuses a record that the topic or the queue could not take.
pub(super) fn check(
    plan: &Planned,
    record: &RecordRef<'_>,
    value: Option<&[u8]>,
    limit: Option<u64>,
    name: &str,
) -> Result<()> {
    let contents = of_contents(record, value);
    let ours = plan.options.record_bytes_max.map_or(u64::MAX, |size| size.0).min(plan.options.buffer.0);
    let near = limit.is_some_and(|limit| contents + AROUND_MAX > limit) || record.headers().next().is_some();
    let wire = if near { on_the_wire(record, value) } else { 0 };
    let (bytes, most, whose) = match limit {
        Some(limit) if wire > limit => (wire, limit, "the topic's `max.message.bytes`"),
        _ if contents > ours => (contents, ours, "the sink's `record_bytes_max` or `buffer`"),
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::TooLarge, format!("the record takes {bytes} bytes, and `{name}` takes {most}"))
        .hint(format!("the limit is {whose}")))
}

/// Bytes of a batch that holds only this record, before compression: what a topic's `max.message.bytes` counts.
fn on_the_wire(record: &RecordRef<'_>, value: Option<&[u8]>) -> u64 {
    let mut headers = 0;
    let mut count = 0;
    for (name, value) in record.headers() {
        headers += length(Some(name.as_bytes())) + length(value);
        count += 1;
    }
    // Attributes, and the distances of time and offset from the batch's own.
    let body = 1 + 1 + 1 + length(record.key()) + length(value) + varint(count) + headers;
    BATCH_OVERHEAD + varint(body as i64) + body
}

/// Bytes of its key, value and headers.
fn of_contents(record: &RecordRef<'_>, value: Option<&[u8]>) -> u64 {
    let headers: usize = record.headers().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len)).sum();
    (record.key().map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers) as u64
}

fn length(bytes: Option<&[u8]>) -> u64 {
    bytes.map_or(varint(-1), |bytes| varint(bytes.len() as i64) + bytes.len() as u64)
}

/// Bytes of a zigzag number.
fn varint(number: i64) -> u64 {
    let zigzag = ((number << 1) ^ (number >> 63)) as u64;
    u64::from((64 - zigzag.leading_zeros()).max(1).div_ceil(7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_seven_bits_a_byte() {
        let expected = [(0, 1), (-1, 1), (63, 1), (64, 2), (-64, 1), (-65, 2), (8191, 2), (8192, 3), (i64::MAX, 10)];
        for (number, bytes) in expected {
            assert_eq!(varint(number), bytes, "{number}");
        }
    }
}
