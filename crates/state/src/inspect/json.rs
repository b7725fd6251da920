//! State in readable form: bytes and MessagePack as JSON.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, json};

/// Deepest nesting that is shown: values of state are flat, and the stack ends.
const DEPTH_MAX: usize = 100;

/// Bytes as a string, or as `{"hex": ..}` where they are no text.
pub fn json_of_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// A MessagePack value as JSON, or its bytes as `{"hex": ..}` where they are not one value of it.
pub fn json_of_messagepack(bytes: &[u8]) -> Value {
    let mut deserializer = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
    deserializer.set_max_depth(DEPTH_MAX);
    match Readable::deserialize(&mut deserializer) {
        Ok(Readable(value)) if deserializer.position() == bytes.len() as u64 => value,
        _ => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

/// Anything that MessagePack can say; what JSON cannot becomes text.
struct Readable(Value);

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Readable)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        // An extension: its type and its bytes.
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or_else(|| Value::from(value.to_string()), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(json_of_bytes(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Readable(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((Readable(key), Readable(value))) = access.next_entry()? {
            let key = match key {
                Value::String(text) => text,
                other => other.to_string(),
            };
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_all_kinds_are_readable() {
        #[derive(serde::Serialize)]
        struct Window {
            count: u64,
            mean: f64,
            names: Vec<String>,
            by_number: std::collections::BTreeMap<u8, Option<bool>>,
            raw: bytes::Bytes,
        }
        let window = Window {
            count: 3,
            mean: f64::NAN,
            names: vec!["a".into()],
            by_number: [(7, None), (8, Some(true))].into(),
            raw: bytes::Bytes::from_static(b"\xff\x00"),
        };
        let bytes = rmp_serde::to_vec_named(&window).unwrap();
        let expected = json!({
            "count": 3, "mean": "NaN", "names": ["a"], "by_number": { "7": null, "8": true }, "raw": { "hex": "ff00" },
        });
        assert_eq!(json_of_messagepack(&bytes), expected);
        assert!(json_of_messagepack(b"").get("hex").is_some());
        assert!(json_of_messagepack(b"\x01\x02").get("hex").is_some());
        // Nested without end: an error, not the end of the stack.
        assert!(json_of_messagepack(&[0x91; 100_000]).get("hex").is_some());
    }
}
