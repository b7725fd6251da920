//! What users write for `.ss` files.

use millstream_codec::ss::{BEACON_INTERVAL_DEFAULT, BEACON_INTERVAL_STEP, HEADER_BYTES, STREAM_KEY_BYTES_MAX};
use millstream_core::{Error, ErrorKind, Result, SeekTo, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Existing, Rotate};

/// Options of the source `file` for a `.ss` file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SsSourceOptions {
    /// A file, or by `*`, `?` and `**` several that are read one behind the other, in order of the numbers in their names:
    /// `clicks-*.ss` are those of a sink that rotates `clicks.ss`, the one that is still written included. Relative to the
    /// working directory.
    pub path: String,
    /// `ss`; only needed where the path does not end in `.ss`.
    pub codec: Option<SsCodec>,
    /// Streams to read, a list or names with commas between. By default all, also those that begin later.
    #[serde(default, alias = "stream", deserialize_with = "names")]
    #[schemars(with = "Option<Vec<String>>")]
    pub streams: Option<Vec<String>>,
    /// Where to begin without a saved position: `beginning`, `end`, a sequence number or a time. The default is
    /// `beginning`, and `end` with `follow`.
    pub start: Option<SeekTo>,
    /// Go on at the end of the file and wait for more, until the file is ended or removed.
    #[serde(default)]
    pub follow: bool,
    /// What the values are.
    #[serde(default)]
    pub value: ValueForm,
}

/// The codec of a stream file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SsCodec {
    /// The `.ss` format.
    Ss,
}

/// What values are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueForm {
    /// Nobody has said.
    #[default]
    Bytes,
    /// UTF-8 text; a value that is none fails.
    Text,
    /// JSON; looked at by the steps that need it.
    Json,
}

impl ValueForm {
    /// The codec of this name.
    pub(super) fn codec(self) -> &'static str {
        match self {
            ValueForm::Bytes => "bytes",
            ValueForm::Text => "text",
            ValueForm::Json => "json",
        }
    }
}

impl SsSourceOptions {
    /// What can be said without looking at the disk.
    pub fn validate(&self) -> Result<()> {
        check_path(&self.path)?;
        if self.start == Some(SeekTo::Committed) {
            return Err(Error::new(ErrorKind::Option, "a file does not know what was committed")
                .hint("leave `start` out: a saved position comes first anyway")
                .within("start"));
        }
        if self.streams.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::new(ErrorKind::Option, "`streams` names no stream")
                .hint("leave it out to read all streams")
                .within("streams"));
        }
        let long = self.streams.iter().flatten().find(|name| name.len() > STREAM_KEY_BYTES_MAX);
        match long {
            Some(name) => Err(Error::new(ErrorKind::Option, format!("no stream of a .ss file can be called `{name}`"))
                .hint(format!("the longest name has {STREAM_KEY_BYTES_MAX} bytes"))
                .within("streams")),
            None => Ok(()),
        }
    }
}

/// Options of the sink `file` for a `.ss` file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SsSinkOptions {
    /// The file. Relative to the working directory; missing folders of a relative path are made.
    pub path: String,
    /// `ss`; only needed where the path does not end in `.ss`.
    pub codec: Option<SsCodec>,
    /// The stream that all records go to. By default each goes to the stream that it came from.
    pub stream: Option<String>,
    /// The shard that all records go to. By default each goes to the shard that it came from.
    pub shard: Option<u64>,
    /// Bytes between signposts of a new file; a multiple of 1KiB. Smaller ones make seeking faster and the file larger.
    #[serde(default = "beacon_interval")]
    pub beacon_interval: Size,
    /// What to do with a file that is there: `append`, `replace` or `fail`. The default is `replace` if all sources end by
    /// themselves, else `append`.
    pub existing: Option<Existing>,
    /// Begin a new file from time to time; the sequences of streams go on in it. `name` must put files in order: `{start}`
    /// stands before `{n}`.
    pub rotate: Option<Rotate>,
    /// Largest size of the file; a record that would make it larger stops the pipeline, unless an error rule for
    /// `E_OPTION` says otherwise. Not with `rotate`.
    pub size_max: Option<Size>,
    /// When the file is brought to the disk itself.
    #[serde(default)]
    pub fsync: Fsync,
    /// End the file with an end-of-stream message when all sources have ended: its readers then end too.
    #[serde(default)]
    pub end_of_stream: bool,
}

/// When a sink brings its file to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// Before an epoch counts: what counts is never lost.
    #[default]
    Epoch,
    /// Before a write is reported as done: receipts then speak of the disk. Slow.
    Flush,
    /// Never: a power failure may take away what counted, which the next start reports as a mismatch.
    Never,
}

impl SsSinkOptions {
    /// What can be said without looking at the disk.
    pub fn validate(&self) -> Result<()> {
        check_path(&self.path)?;
        if self.path.ends_with('/') {
            return Err(
                Error::new(ErrorKind::Option, format!("`{}` is a folder, not a file", self.path)).within("path")
            );
        }
        if let Some(stream) = &self.stream
            && let Some(what) = refused(stream)
        {
            return Err(
                Error::new(ErrorKind::Option, format!("no stream can be called `{stream}`: {what}")).within("stream")
            );
        }
        self.check_sizes()?;
        self.interval().map(drop)
    }

    fn check_sizes(&self) -> Result<()> {
        let wrong = |text: &str, hint: &str| Error::new(ErrorKind::Option, text.to_owned()).hint(hint.to_owned());
        if let Some(size) = self.size_max {
            if size.0 <= HEADER_BYTES as u64 {
                let hint = format!("a file begins with {HEADER_BYTES} bytes; write `16GiB`, say");
                return Err(wrong("no record fits into the file", &hint).within("size_max"));
            }
            if self.rotate.is_some() {
                let hint = "leave `size_max` out; `rotate: { size, keep }` limits all files together";
                return Err(wrong("a sink that rotates goes on with another file", hint).within("size_max"));
            }
        }
        let Some(rotate) = &self.rotate else { return Ok(()) };
        rotate.validate().map_err(|error| error.within("rotate"))?;
        match (rotate.name.find("{start}"), rotate.name.find("{n}")) {
            (Some(start), Some(n)) if n < start => {
                let hint = "write `{stem}-{start}-{n}{ext}`, say";
                Err(wrong("names with `{n}` before `{start}` do not put files in order", hint)
                    .within("name")
                    .within("rotate"))
            }
            _ => Ok(()),
        }
    }

    /// The beacon interval in bytes.
    pub(super) fn interval(&self) -> Result<u32> {
        let interval = u32::try_from(self.beacon_interval.0).ok();
        let fits = |interval: &u32| *interval > 0 && interval.is_multiple_of(BEACON_INTERVAL_STEP);
        interval.filter(fits).ok_or_else(|| {
            Error::new(ErrorKind::Option, format!("cannot use a beacon interval of {}", self.beacon_interval))
                .hint("write a multiple of 1KiB below 4GiB; the default is 1MiB")
                .within("beacon_interval")
        })
    }
}

fn beacon_interval() -> Size {
    Size(BEACON_INTERVAL_DEFAULT.into())
}

/// Longest stream key that we write: the rule of the line protocol, so that every stream can be piped.
const STREAM_KEY_WRITTEN_BYTES_MAX: usize = 249;

/// Why a stream cannot be called so, if it cannot.
pub(super) fn refused(stream: &str) -> Option<&'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match stream {
        "" => Some("the name is empty"),
        millstream_codec::ss::CONTROL_KEY => Some("this name is kept for control messages"),
        _ if stream.len() > STREAM_KEY_WRITTEN_BYTES_MAX => Some("names have at most 249 bytes"),
        _ if !stream.bytes().all(plain) => Some("names are made of letters, digits, `.`, `_` and `-`"),
        _ => None,
    }
}

fn check_path(path: &str) -> Result<()> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::new(ErrorKind::Option, "the path is empty or no path").hint("name a file").within("path"));
    }
    Ok(())
}

/// A list of names, or one text with commas between them.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        List(Vec<String>),
        Text(String),
    }
    Ok(Option::<Names>::deserialize(deserializer)?.map(|names| match names {
        Names::List(names) => names,
        Names::Text(text) => {
            text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
        }
    }))
}
