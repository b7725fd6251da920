//! Codecs for systems whose records are single values: Redis entries, Kafka messages, channels.

use millstream_core::{Error, ErrorKind, Form, Result};

use crate::{CodecOptions, Invalid, json, whole::Check};

/// What a value of a message system is, and how a record becomes one. See [`CodecOptions::message`].
///
/// Reading changes no byte: the value is the record's, with [`MessageCodec::form`].
#[derive(Clone, Copy, Debug)]
pub struct MessageCodec {
    form: Form,
    check: Check,
}

impl MessageCodec {
    pub(crate) fn of(options: &CodecOptions) -> Result<Self> {
        let json = |validate: bool| (Form::Json, if validate { Check::Json } else { Check::Nothing });
        let text = |invalid: Invalid| match invalid {
            Invalid::Fail => (Form::Text, Check::Utf8),
            Invalid::Pass => (Form::Bytes, Check::Nothing),
        };
        let (form, check) = match options {
            CodecOptions::Lines(lines) => text(lines.invalid),
            CodecOptions::Text(options) => text(options.invalid),
            CodecOptions::Ndjson(options) => json(options.validate),
            CodecOptions::Json(options) => json(options.validate),
            CodecOptions::Bytes(_) => (Form::Bytes, Check::Nothing),
            CodecOptions::Csv(_) | CodecOptions::Tsv(_) => {
                let name = options.name();
                return Err(Error::new(ErrorKind::Unsupported, format!("codec `{name}` needs a file, not messages"))
                    .hint("known here are: bytes, text, json"));
            }
        };
        Ok(MessageCodec { form, check })
    }

    /// What the values are.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Whether a value that was read is what it should be. Free for bytes, and for JSON without `validate`.
    pub fn check(&self, value: &[u8]) -> Result<()> {
        self.check.check(value)
    }

    /// Appends what is to be sent for a value. After an error `out` may hold a part of it.
    pub fn encode(&self, value: &[u8], form: Form, out: &mut Vec<u8>) -> Result<()> {
        match self.form {
            Form::Json if form != Form::Json => json::write_value(value, form, out),
            _ => {
                out.extend_from_slice(value);
                Ok(())
            }
        }
    }
}
