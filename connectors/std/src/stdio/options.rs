//! Options of `stdin`, `stdout` and `stdio`.

use millstream_codec::{CodecOptions, Newline, log::Headers, print::Format};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Options of the source `stdin`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StdinOptions {
    /// How bytes become records.
    pub codec: CodecOptions,
    /// Whether lines may begin with a header, `[time | stream | sequence | shard]`: `off` takes them verbatim, `lenient` reads
    /// those that have one, `strict` refuses other lines that begin with a bracket.
    pub headers: Headers,
    /// With headers: the streams to read, beside `broadcast`; none: all.
    pub streams: Vec<String>,
}

/// Options of the sink `stdout`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StdoutOptions {
    /// How values become bytes. Default: `lines`; JSON values print as ndjson.
    pub codec: Option<CodecOptions>,
    /// How whole records are printed, instead of `codec`: `log` (the line protocol, with stream, sequence and time), `ndjson` (an object with
    /// everything) or `raw` (the bare value).
    pub format: Option<Format>,
    /// With `format`: what becomes of a value with a line break.
    pub newline: Newline,
}

/// Options of the source `stdio`, the line protocol on standard input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StdioSourceOptions {
    /// The streams to read, beside `broadcast`; none: all. In a URL the path: `stdio:///a,b`.
    pub streams: Vec<String>,
    /// Which lines have a header: `lenient` those that are one (a bracket with only a key counts if that stream is asked for),
    /// `strict` all that begin with a bracket, `off` none.
    pub headers: Headers,
    /// What payloads are.
    pub codec: CodecOptions,
    /// Accepted for symmetry with other systems: the members of a group in one process share the records in turn.
    pub group: Option<String>,
}

impl Default for StdioSourceOptions {
    fn default() -> Self {
        StdioSourceOptions {
            streams: Vec::new(),
            headers: Headers::Lenient,
            codec: CodecOptions::default(),
            group: None,
        }
    }
}

/// Options of the sink `stdio`, the line protocol on standard output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StdioSinkOptions {
    /// The stream that every record is printed under; default: its own. In a URL the path: `stdio:///a`.
    pub stream: Option<String>,
    /// `log`: `[time | stream | sequence | shard] payload`; `raw`: the payload only; `ndjson`: an object with everything.
    pub format: Format,
    /// What becomes of a payload with a line break.
    pub newline: Newline,
    /// The sequence that is printed: `own` counts the records of each stream and shard from 1; `origin` keeps the one that the record was read with.
    pub sequences: PrintedSequences,
}

/// Which sequence is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PrintedSequences {
    /// Records are counted by stream and shard, from 1.
    #[default]
    Own,
    /// The record's own.
    Origin,
}
