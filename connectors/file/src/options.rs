//! What users write.

use millstream_codec::{CodecOptions, Compression};
use millstream_core::{Error, ErrorKind, Result, SeekTo, Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Options of the source `file`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSourceOptions {
    /// A file, or several by `*`, `?` (within a folder) and `**` (across folders). Relative to the working directory.
    pub path: String,
    /// How bytes become records. By default what the file's extension says, else `lines`.
    pub codec: Option<CodecOptions>,
    /// Where to begin without a saved position: `beginning`, `end` or a record number, counted from 1. The default is
    /// `beginning`, and `end` with `follow`.
    pub start: Option<SeekTo>,
    /// Go on at the end of the file and wait for more, also across rotation, like `tail -F`.
    #[serde(default)]
    pub follow: bool,
    /// Join lines of a file to one record.
    pub multiline: Option<Multiline>,
    /// How the file is compressed. By default what its name says (`.gz`, `.zst`).
    pub compression: Option<Compression>,
}

/// Records of several lines.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Multiline {
    /// A regular expression for the first line of a record, such as `^\d{4}-`.
    pub start: String,
    /// With `follow`: the last record is complete when nothing has come for this long.
    #[serde(default = "multiline_wait")]
    pub wait: Span,
    /// Largest record; longer ones fail.
    #[serde(default = "multiline_bytes_max")]
    pub bytes_max: Size,
}

pub(crate) fn multiline_wait() -> Span {
    Span(std::time::Duration::from_secs(1))
}

fn multiline_bytes_max() -> Size {
    Size(16 << 20)
}

impl FileSourceOptions {
    /// What can be said without looking at the disk.
    pub fn validate(&self) -> Result<()> {
        check_path(&self.path)?;
        match &self.start {
            Some(SeekTo::Time(_)) => {
                Err(Error::new(ErrorKind::Option, "the records of a file have no times to start at")
                    .hint("use `beginning`, `end` or a record number")
                    .within("start"))
            }
            Some(SeekTo::Committed) => Err(Error::new(ErrorKind::Option, "a file does not know what was committed")
                .hint("leave `start` out: a saved position comes first anyway")
                .within("start")),
            _ => Ok(()),
        }
    }
}

/// Options of the sink `file`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSinkOptions {
    /// The file. Relative to the working directory; missing folders of a relative path are made.
    pub path: String,
    /// How records become bytes. By default what the file's extension says, else `lines`.
    pub codec: Option<CodecOptions>,
    /// What to do with a file that is there: `append`, `replace` or `fail`. The default is `replace` if all sources end
    /// by themselves, else `append`.
    pub existing: Option<Existing>,
    /// Begin a new file from time to time.
    pub rotate: Option<Rotate>,
    /// How to compress the file. By default what its name says (`.gz`, `.zst`).
    pub compression: Option<Compression>,
}

/// What a sink does with a file that is there when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// Write behind what is there.
    Append,
    /// Write another file, and give it the name when all is written.
    Replace,
    /// Stop with an error.
    Fail,
}

/// When a sink begins a new file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// At every multiple of this time since 1970 in UTC: `1h` at the full hour. Files without records are not made.
    pub every: Option<Span>,
    /// Before a file grows beyond this size; a record is never cut in two. Compressed files may be a block larger.
    pub size: Option<Size>,
    /// How many finished files to keep; the oldest are deleted. By default all.
    pub keep: Option<u32>,
    /// Names of the files: `{stem}` and `{ext}` of the path, `{start}` of the file in UTC, a number `{n}`.
    #[serde(default = "rotate_name")]
    pub name: String,
}

fn rotate_name() -> String {
    "{stem}-{start}-{n}{ext}".into()
}

impl FileSinkOptions {
    /// What can be said without looking at the disk.
    pub fn validate(&self) -> Result<()> {
        check_path(&self.path)?;
        if self.path.ends_with('/') {
            return Err(
                Error::new(ErrorKind::Option, format!("`{}` is a folder, not a file", self.path)).within("path")
            );
        }
        let Some(rotate) = &self.rotate else { return Ok(()) };
        rotate.validate().map_err(|error| error.within("rotate"))
    }
}

impl Rotate {
    pub(crate) fn validate(&self) -> Result<()> {
        let wrong = |key: &str, text: &str, hint: &str| {
            Err(Error::new(ErrorKind::Option, text).hint(hint.to_owned()).within(key))
        };
        if self.every.is_none() && self.size.is_none() {
            return wrong("every", "`rotate` does not say when", "give `every: 1h`, `size: 100MiB`, or both");
        }
        if self.every.is_some_and(|every| every.0.as_secs() == 0) {
            return wrong("every", "files cannot be rotated more often than once a second", "write `1m`, say");
        }
        if self.size.is_some_and(|size| size.0 == 0) {
            return wrong("size", "a file of no size holds no record", "write `100MiB`, say");
        }
        if self.keep == Some(0) {
            return wrong("keep", "keeping no file would delete all that is written", "leave `keep` out to keep all");
        }
        if !self.name.contains("{n}") {
            return wrong(
                "name",
                "without `{n}` two files could get the same name",
                "add `{n}`, as in `{stem}-{start}-{n}{ext}`",
            );
        }
        if self.name.contains('/') {
            return wrong("name", "rotated files stay in the folder of `path`", "put the folder into `path`");
        }
        Ok(())
    }
}

fn check_path(path: &str) -> Result<()> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::new(ErrorKind::Option, "the path is empty or no path").hint("name a file").within("path"));
    }
    Ok(())
}
