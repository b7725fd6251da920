//! What can be sent.

use bytes::Bytes;
use millstream_core::Record;

/// What a producer sends: a [`Record`], a value, or a key and a value.
///
/// Values and keys are `&str`, `String`, `&[u8]`, `Vec<u8>` or [`Bytes`]. A record's stream says where it goes if the producer
/// names none; its shard, if [`ShardBy::Record`](crate::ShardBy::Record) says so; its sequence is not used: the system gives one.
pub trait IntoRecord {
    /// The record, with an empty stream for the producer's own.
    fn into_record(self) -> Record;
}

/// Something that is a byte string.
pub trait IntoBytes {
    /// The bytes; owned ones are not copied.
    fn into_bytes(self) -> Bytes;
}

impl IntoBytes for &str {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl IntoBytes for &String {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl IntoBytes for &[u8] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl IntoBytes for String {
    fn into_bytes(self) -> Bytes {
        self.into()
    }
}

impl IntoBytes for Vec<u8> {
    fn into_bytes(self) -> Bytes {
        self.into()
    }
}

impl IntoBytes for Bytes {
    fn into_bytes(self) -> Bytes {
        self
    }
}

impl<V: IntoBytes> IntoRecord for V {
    fn into_record(self) -> Record {
        Record::new("", self.into_bytes())
    }
}

impl<K: IntoBytes, V: IntoBytes> IntoRecord for (K, V) {
    fn into_record(self) -> Record {
        Record { key: Some(self.0.into_bytes()), ..Record::new("", self.1.into_bytes()) }
    }
}

impl IntoRecord for Record {
    fn into_record(self) -> Record {
        self
    }
}
