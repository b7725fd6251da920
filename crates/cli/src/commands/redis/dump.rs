//! `millstream redis dump URL`

use clap::{Args, ValueEnum};
use millstream::admin::redis::{Entry, RedisAdmin, StreamKey};
use millstream_codec::base64;
use serde_json::{Value, json};

use super::Streams;
use crate::{
    exit::{Exit, Failure, Outcome},
    output::Output,
    system,
};

/// Print entries with all their fields, by their own names
///
/// Key by key, each in the order of its ids. Follows nothing, and makes nothing pending: `consume` does.
#[derive(Debug, Args)]
pub(super) struct Dump {
    #[command(flatten)]
    streams: Streams,
    /// Begin with this entry: an id (`ms-seq`, or `ms`), or a time in RFC 3339
    #[arg(long, value_name = "ID")]
    from: Option<String>,
    /// End with this entry, inclusive
    #[arg(long, value_name = "ID")]
    to: Option<String>,
    /// Stop after N entries
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// How an entry is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// [time | key | id] name="value" ..., with `\n`, `\"` and `\xff` for what is no printable text
    Text,
    /// One JSON object a line
    Ndjson,
}

impl Dump {
    pub(super) fn execute(self) -> Outcome {
        let mut admin = self.streams.admin()?;
        // What is mistyped is told before anybody is asked.
        admin.range(self.from.as_deref(), self.to.as_deref())?;
        system::wait(self.print(&mut admin))??;
        Ok(Exit::Done)
    }

    async fn print(&self, admin: &mut RedisAdmin) -> Result<(), Failure> {
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut output = Output::new();
        for key in admin.keys().await? {
            let mut range = admin.range(self.from.as_deref(), self.to.as_deref())?;
            loop {
                let entries = admin.read(&key, &mut range, left).await?;
                if entries.is_empty() {
                    break;
                }
                left = left.saturating_sub(entries.len() as u64);
                for entry in &entries {
                    let line = match self.format {
                        Format::Text => text(&key, entry),
                        Format::Ndjson => object(&key, entry).to_string(),
                    };
                    output.write(line.as_bytes())?;
                    output.write(b"\n")?;
                }
            }
        }
        output.finish()
    }
}

fn text(key: &StreamKey, entry: &Entry) -> String {
    let time = entry.time.map_or("-".to_owned(), |time| time.to_string());
    let mut line = format!("[{time} | {} | {}]", plain_or_quoted(key.name.as_bytes()), entry.id);
    for (name, value) in &entry.fields {
        line.push(' ');
        line.push_str(&plain_or_quoted(name));
        line.push('=');
        line.push_str(&quoted(value));
    }
    line
}

fn plain_or_quoted(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:/{}".contains(byte);
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && bytes.iter().all(plain) => text.to_owned(),
        _ => quoted(bytes),
    }
}

/// Bytes as a text that a terminal may show, and that says what they are.
fn quoted(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if c.is_control() => out.extend(c.escape_unicode()),
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out.push('"');
    out
}

fn object(key: &StreamKey, entry: &Entry) -> Value {
    let fields: Vec<Value> =
        entry.fields.iter().map(|(name, value)| json!([of_bytes(name), of_bytes(value)])).collect();
    json!({
        "key": &*key.name,
        "stream": &*key.stream,
        "shard": key.shard,
        "id": entry.id,
        "sequence": entry.sequence.to_string().parse::<serde_json::Number>().ok(),
        "time": entry.time.map(|time| time.to_string()),
        "fields": fields,
    })
}

/// A text, or `{"base64": ..}`, as for the headers that `consume` prints.
fn of_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => {
            let mut coded = Vec::new();
            base64::encode(bytes, &mut coded);
            json!({ "base64": String::from_utf8_lossy(&coded) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_shown_and_does_not_drive_a_terminal() {
        assert_eq!(quoted(b"a \"b\"\\\n\x1b[31m\xff\xc3\xa4"), "\"a \\\"b\\\"\\\\\\n\\x1b[31m\\xff\u{e4}\"");
        assert_eq!(quoted("\u{9b}".as_bytes()), "\"\\u{9b}\"");
        assert_eq!(plain_or_quoted(b"a.b:c"), "a.b:c");
        assert_eq!([plain_or_quoted(b"a=b"), plain_or_quoted(b"")], ["\"a=b\"", "\"\""]);
    }
}
