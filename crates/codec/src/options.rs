//! The option `codec`: a name, or a name with options.

use std::{fmt, path::Path, sync::Arc};

use millstream_core::{Codec, Error, ErrorKind, Form, Result, suggest};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor},
};

use crate::{
    csv::{Csv, CsvOptions},
    lines::{Invalid, Lines, LinesOptions},
    message::MessageCodec,
    ndjson::{Ndjson, NdjsonOptions},
    whole::{BytesOptions, Check, JsonOptions, TextOptions, Whole},
};

macro_rules! codecs {
    ($( $variant:ident($options:ty) = $name:literal, $summary:literal; )*) => {
        /// The option `codec` of sources and sinks: `codec: csv`, or `codec: { csv: { delimiter: ";" } }`.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum CodecOptions { $( #[doc = $summary] $variant($options), )* }

        impl CodecOptions {
            /// Names of all codecs, with one line each.
            pub const ALL: &'static [(&'static str, &'static str)] = &[ $( ($name, $summary), )* ];

            const NAMES: &'static [&'static str] = &[ $( $name, )* ];

            /// The codec `name` with its defaults.
            pub fn named(name: &str) -> Result<Self> {
                match name {
                    $( $name => Ok(CodecOptions::$variant(<$options>::default())), )*
                    _ => {
                        let error = Error::new(ErrorKind::Option, format!("there is no codec `{name}`"));
                        Err(suggest(name, Self::NAMES).into_iter().fold(error, |error, hint| error.hint(hint)))
                    }
                }
            }

            /// Its name.
            pub fn name(&self) -> &'static str {
                match self { $( CodecOptions::$variant(_) => $name, )* }
            }
        }

        impl<'de> Visitor<'de> for CodecVisitor {
            type Value = CodecOptions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a codec, or one name with its options")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<CodecOptions, E> {
                match name {
                    $( $name => Ok(CodecOptions::$variant(<$options>::default())), )*
                    _ => Err(E::custom(unknown(name))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<CodecOptions, A::Error> {
                let one = || de::Error::custom("expected one codec with its options, such as `csv: { header: true }`");
                let name = map.next_key::<String>()?.ok_or_else(one)?;
                let codec = match name.as_str() {
                    $( $name => CodecOptions::$variant(map.next_value::<Option<$options>>()?.unwrap_or_default()), )*
                    _ => return Err(de::Error::custom(unknown(&name))),
                };
                match map.next_key::<String>()? {
                    None => Ok(codec),
                    Some(_) => Err(one()),
                }
            }
        }

        impl JsonSchema for CodecOptions {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                "Codec".into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let mut properties = serde_json::Map::new();
                $( properties.insert($name.to_owned(), generator.subschema_for::<$options>().to_value()); )*
                json_schema!({
                    "description": "How bytes become records and back: a name, or one name with its options.",
                    "anyOf": [
                        { "enum": Self::NAMES },
                        {
                            "type": "object", "properties": properties, "additionalProperties": false,
                            "minProperties": 1, "maxProperties": 1,
                        },
                    ],
                })
            }
        }
    };
}

codecs! {
    Lines(LinesOptions)   = "lines", "Each line is a record, as text.";
    Ndjson(NdjsonOptions) = "ndjson", "Each line is a record, as one JSON value.";
    Json(JsonOptions)     = "json", "A whole message or file is one JSON value.";
    Text(TextOptions)     = "text", "A whole message or file is one text.";
    Bytes(BytesOptions)   = "bytes", "A whole message or file is one record.";
    Csv(CsvOptions)       = "csv", "Each row is a record, as a JSON object of its columns.";
    Tsv(CsvOptions)       = "tsv", "The same as `csv`, with tabs between columns.";
}

struct CodecVisitor;

/// In the words of [`millstream_core::parse_options`], which makes a suggestion of it.
fn unknown(name: &str) -> String {
    let known: Vec<_> = CodecOptions::NAMES.iter().map(|name| format!("`{name}`")).collect();
    format!("unknown option `{name}`, expected {}", known.join(" or "))
}

impl<'de> Deserialize<'de> for CodecOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CodecVisitor)
    }
}

impl Default for CodecOptions {
    fn default() -> Self {
        CodecOptions::Lines(LinesOptions::default())
    }
}

impl CodecOptions {
    /// The codec with these options. Errors name the option below `codec`.
    pub fn plan(&self) -> Result<Arc<dyn Codec>> {
        Ok(match self {
            CodecOptions::Lines(options) => Arc::new(Lines(options.clone())),
            CodecOptions::Ndjson(options) => Arc::new(Ndjson(options.clone())),
            CodecOptions::Json(options) => {
                let check = if options.validate { Check::Json } else { Check::Nothing };
                Arc::new(Whole { form: Form::Json, check, bytes_max: options.bytes_max.0 })
            }
            CodecOptions::Text(options) => {
                let (form, check) = match options.invalid {
                    Invalid::Fail => (Form::Text, Check::Utf8),
                    Invalid::Pass => (Form::Bytes, Check::Nothing),
                };
                Arc::new(Whole { form, check, bytes_max: options.bytes_max.0 })
            }
            CodecOptions::Bytes(options) => {
                Arc::new(Whole { form: Form::Bytes, check: Check::Nothing, bytes_max: options.bytes_max.0 })
            }
            CodecOptions::Csv(options) => Arc::new(Csv::new(options, b',').map_err(|error| error.within("csv"))?),
            CodecOptions::Tsv(options) => Arc::new(Csv::new(options, b'\t').map_err(|error| error.within("tsv"))?),
        })
    }

    /// The same for systems whose records are single values.
    pub fn message(&self) -> Result<MessageCodec> {
        MessageCodec::of(self)
    }
}

/// The codec `name` with its defaults.
pub fn by_name(name: &str) -> Result<Arc<dyn Codec>> {
    CodecOptions::named(name)?.plan()
}

/// The codec that a file's name tells, behind `.gz` or `.zst`: `ndjson` (also for `.jsonl`), `json`, `csv`, `tsv`, else `lines`.
pub fn default_for_path(path: &Path) -> CodecOptions {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let name = [".gz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "ndjson" | "jsonl" => CodecOptions::Ndjson(NdjsonOptions::default()),
        "json" => CodecOptions::Json(JsonOptions::default()),
        "csv" => CodecOptions::Csv(CsvOptions::default()),
        "tsv" => CodecOptions::Tsv(CsvOptions::default()),
        _ => CodecOptions::default(),
    }
}
