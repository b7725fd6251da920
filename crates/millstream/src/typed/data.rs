//! What may flow through a typed pipeline, and what may be a key.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// A value that can flow through a pipeline. Implemented for everything that fits.
///
/// A record may have to wait for another try, or for the rest of its batch, while the process crashes: so its value must be
/// one that can be written down and read back. It is written as MessagePack with names, so what serde says of a value must say all of
/// it: fields that are skipped come back as their default; and there is one word for "nothing", so that `Some(None)` of an
/// `Option<Option<_>>`, or `Some(())`, comes back as `None`. Say such a thing by an enum of yours.
#[diagnostic::on_unimplemented(
    message = "values of type `{Self}` cannot flow through a pipeline",
    label = "this type cannot be written down and read back",
    note = "a record may wait for another try, or for the rest of its batch, across a crash: so it must be possible to save it",
    note = "derive `Clone`, `serde::Serialize` and `serde::Deserialize` for `{Self}`; it must be `Send + Sync + 'static`, too"
)]
pub trait Data: Clone + Send + Sync + Serialize + DeserializeOwned + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Clone + Send + Sync + Serialize + DeserializeOwned + 'static> Data for T {}

/// What can be the key or a header of a record: bytes, text, a number as decimal text; `None` for none.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key or a header of a record",
    note = "it can be a text, bytes or an integer, owned or `'static`; or an `Option` of one of them, where `None` means none"
)]
pub trait ToBytes {
    /// Appends its bytes; `false` if there is none.
    fn append(&self, bytes: &mut Vec<u8>) -> bool;
}

macro_rules! as_bytes {
    ($as:ident: $($type:ty),*) => { $(
        impl ToBytes for $type {
            fn append(&self, bytes: &mut Vec<u8>) -> bool {
                let text: &$as = self.as_ref();
                bytes.extend_from_slice(AsRef::<[u8]>::as_ref(text));
                true
            }
        }
    )* };
}

type Octets = [u8];

as_bytes!(str: String, &str, Box<str>, std::sync::Arc<str>, std::borrow::Cow<'_, str>);
as_bytes!(Octets: Vec<u8>, &[u8], Bytes);

macro_rules! as_decimal {
    ($($type:ty),*) => { $(
        impl ToBytes for $type {
            fn append(&self, bytes: &mut Vec<u8>) -> bool {
                // Without `fmt`: a key is made for each record.
                let mut digits = [0; 40];
                let (mut rest, mut start) = (self.unsigned_abs_of(), digits.len());
                while start > 0 {
                    start -= 1;
                    digits[start] = b'0' + (rest % 10) as u8;
                    rest /= 10;
                    if rest == 0 {
                        break;
                    }
                }
                if self.negative() {
                    bytes.push(b'-');
                }
                bytes.extend_from_slice(&digits[start..]);
                true
            }
        }
    )* };
}

/// The parts of an integer's decimal text.
trait Integer {
    type Unsigned;
    fn unsigned_abs_of(&self) -> Self::Unsigned;
    fn negative(&self) -> bool;
}

macro_rules! integers {
    ($($unsigned:ty, $signed:ty);*) => { $(
        impl Integer for $unsigned {
            type Unsigned = $unsigned;
            fn unsigned_abs_of(&self) -> $unsigned {
                *self
            }
            fn negative(&self) -> bool {
                false
            }
        }
        impl Integer for $signed {
            type Unsigned = $unsigned;
            fn unsigned_abs_of(&self) -> $unsigned {
                self.unsigned_abs()
            }
            fn negative(&self) -> bool {
                *self < 0
            }
        }
        as_decimal!($unsigned, $signed);
    )* };
}

integers!(u8, i8; u16, i16; u32, i32; u64, i64; u128, i128; usize, isize);

impl<B: ToBytes> ToBytes for Option<B> {
    fn append(&self, bytes: &mut Vec<u8>) -> bool {
        self.as_ref().is_some_and(|inner| inner.append(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: impl ToBytes) -> Option<String> {
        let mut bytes = Vec::new();
        value.append(&mut bytes).then(|| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn numbers_are_keys_as_decimal_text() {
        for value in [0, 7, -1, i64::MAX, i64::MIN] {
            assert_eq!(text(value), Some(value.to_string()));
        }
        assert_eq!(text(u128::MAX), Some(u128::MAX.to_string()));
        assert_eq!((text(None::<u8>), text(Some("k"))), (None, Some("k".to_owned())));
    }
}
