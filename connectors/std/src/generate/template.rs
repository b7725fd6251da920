//! Values with placeholders.

use millstream_core::{Form, Timestamp};
use serde_json::Value;

/// JSON numbers are exact up to here everywhere.
const RANDOM_END: u64 = 1 << 53;

/// A value, cut at its placeholders once.
#[derive(Debug, Default)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Bytes(Vec<u8>),
    Number,
    Time,
    Random { end: u64 },
    Uuid,
}

impl Template {
    /// A value without placeholders.
    pub(super) fn fixed(value: &Value) -> (Self, Form) {
        let (bytes, form) = match value {
            Value::String(text) => (text.clone().into_bytes(), Form::Text),
            other => (other.to_string().into_bytes(), Form::Json),
        };
        (Template { parts: vec![Part::Bytes(bytes)] }, form)
    }

    /// A value with placeholders in its texts.
    pub(super) fn parse(value: &Value) -> (Self, Form) {
        let mut template = Template::default();
        let form = match value {
            Value::String(text) => {
                template.text(text, |literal| literal.as_bytes().to_vec());
                Form::Text
            }
            other => {
                template.json(other);
                Form::Json
            }
        };
        (template, form)
    }

    /// Appends the value of record `n`.
    pub(super) fn write(&self, n: u64, now: Timestamp, seed: u64, out: &mut Vec<u8>) {
        for (i, part) in self.parts.iter().enumerate() {
            let random = |k: u64| mix(seed ^ mix(n ^ mix(i as u64 * 2 + k)));
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(bytes),
                Part::Number => out.extend_from_slice(n.to_string().as_bytes()),
                Part::Time => out.extend_from_slice(now.to_rfc3339().as_bytes()),
                Part::Random { end } => out.extend_from_slice((random(0) % end).to_string().as_bytes()),
                Part::Uuid => out.extend_from_slice(uuid(random(0), random(1)).as_bytes()),
            }
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        match self.parts.last_mut() {
            Some(Part::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.parts.push(Part::Bytes(bytes.to_vec())),
        }
    }

    fn text(&mut self, text: &str, write: impl Fn(&str) -> Vec<u8>) {
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (before, behind) = rest.split_at(open);
            let placeholder = behind.find('}').and_then(|close| Some((placeholder(&behind[1..close])?, close)));
            match placeholder {
                Some((part, close)) => {
                    self.bytes(&write(before));
                    self.parts.push(part);
                    rest = &behind[close + 1..];
                }
                None => {
                    // An opening brace is one byte, and stands for itself.
                    self.bytes(&write(&rest[..open + 1]));
                    rest = &behind[1..];
                }
            }
        }
        self.bytes(&write(rest));
    }

    fn json(&mut self, value: &Value) {
        match value {
            Value::String(text) => match whole(text) {
                Some(part) => self.parts.push(part),
                None => {
                    self.bytes(b"\"");
                    self.text(text, |literal| {
                        let quoted = Value::from(literal).to_string();
                        quoted.as_bytes()[1..quoted.len() - 1].to_vec()
                    });
                    self.bytes(b"\"");
                }
            },
            Value::Array(items) => {
                self.bytes(b"[");
                for (i, item) in items.iter().enumerate() {
                    self.bytes(if i == 0 { b"" } else { b"," });
                    self.json(item);
                }
                self.bytes(b"]");
            }
            Value::Object(fields) => {
                self.bytes(b"{");
                for (i, (name, field)) in fields.iter().enumerate() {
                    self.bytes(if i == 0 { b"" } else { b"," });
                    self.bytes(Value::from(name.as_str()).to_string().as_bytes());
                    self.bytes(b":");
                    self.json(field);
                }
                self.bytes(b"}");
            }
            other => self.bytes(other.to_string().as_bytes()),
        }
    }
}

/// The placeholder of a JSON text that is nothing else, and becomes a number.
fn whole(text: &str) -> Option<Part> {
    let part = placeholder(text.strip_prefix('{')?.strip_suffix('}')?)?;
    matches!(part, Part::Number | Part::Random { .. }).then_some(part)
}

fn placeholder(name: &str) -> Option<Part> {
    match name {
        "n" => Some(Part::Number),
        "time" => Some(Part::Time),
        "random" => Some(Part::Random { end: RANDOM_END }),
        "uuid" => Some(Part::Uuid),
        _ => {
            let end = name.strip_prefix("random:")?.parse().ok().filter(|end| *end > 0)?;
            Some(Part::Random { end })
        }
    }
}

/// A number that looks random; the same for the same input (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// In the shape of a random (version 4) UUID.
fn uuid(high: u64, low: u64) -> String {
    let high = high & !0xf000 | 0x4000;
    let low = low & !(0xc << 60) | 0x8 << 60;
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &Value, n: u64) -> String {
        let mut out = Vec::new();
        Template::parse(template).0.write(n, Timestamp(0), 7, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        assert_eq!(render(&json!("{n}: {x} {} { {n}"), 3), "3: {x} {} { 3");
        assert_eq!(render(&json!("{time}"), 1), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            render(&json!({"n": "{n}", "text": "\"{n}\"\n", "list": [1.5, null, "{random:1}"]}), 2),
            "{\"n\":2,\"text\":\"\\\"2\\\"\\n\",\"list\":[1.5,null,0]}"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_records() {
        let template = json!("{random} {random} {uuid}");
        assert_eq!(render(&template, 5), render(&template, 5));
        let text = render(&template, 5);
        let parts: Vec<_> = text.split(' ').collect();
        assert!(parts[0] != parts[1] && render(&template, 6) != render(&template, 5));
        assert_eq!((parts[2].len(), &parts[2][14..15]), (36, "4"));
        let below: Vec<u64> = (0..100).map(|n| render(&json!("{random:10}"), n).parse().unwrap()).collect();
        assert!(below.iter().all(|n| *n < 10) && below.iter().any(|n| *n > 5));
    }
}
