//! Where consumers keep how far they have come.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use millstream_core::{Error, ErrorKind, Position, Result, ShardKey};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// Version of [`Saved`] that this build writes.
const VERSION: u32 = 1;

/// How far a consumer has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Version of this format.
    pub version: u32,
    /// Everything before it is done.
    pub position: Position,
    /// What is done behind it too: first and last sequence of each run, ascending.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub done: BTreeMap<ShardKey, Vec<(u128, u128)>>,
}

impl Saved {
    /// Everything before `position`, and these runs of sequences behind it.
    pub fn new(position: Position, done: BTreeMap<ShardKey, Vec<(u128, u128)>>) -> Self {
        Saved { version: VERSION, position, done }
    }
}

/// Keeps positions of consumers by their names.
#[async_trait]
pub trait Positions: fmt::Debug + Send + Sync {
    /// What was saved last; `None` if nothing ever was.
    async fn load(&self, name: &str) -> Result<Option<Saved>>;

    /// Saves, and returns when it is durable. Whoever loads, also after a crash at any time, gets this or what was saved
    /// before, whole.
    async fn save(&self, name: &str, saved: &Saved) -> Result<()>;
}

/// Positions in files, one for each name: JSON, replaced as a whole, synced to the disk.
///
/// Runs on a tokio runtime, as the client's tasks do.
#[derive(Clone, Debug)]
pub struct PositionFiles {
    folder: PathBuf,
    prefix: String,
}

/// What stays as it is in a file's name.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

impl PositionFiles {
    /// Files in this folder, called `NAME.position`. The folder is made when the first one is saved.
    pub fn within(folder: impl Into<PathBuf>) -> Self {
        PositionFiles { folder: folder.into(), prefix: String::new() }
    }

    /// Hidden files beside this one, called `.FILE.NAME.position`.
    pub fn beside(file: impl AsRef<Path>) -> Self {
        let file = file.as_ref();
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        PositionFiles {
            folder: file.parent().map(Path::to_path_buf).unwrap_or_default(),
            prefix: format!(".{}.", utf8_percent_encode(&name, NAME)),
        }
    }

    /// The file of this name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}{}.position", self.prefix, utf8_percent_encode(name, NAME)))
    }
}

#[async_trait]
impl Positions for PositionFiles {
    async fn load(&self, name: &str) -> Result<Option<Saved>> {
        let path = self.path(name);
        blocking(move || {
            let text = match fs::read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(Error::io(format!("cannot read the position in {}", path.display()), error)),
            };
            read(&text).map(Some).map_err(|error| {
                error
                    .context(format!("cannot read the position in {}", path.display()))
                    .hint("delete the file to begin anew")
            })
        })
        .await
    }

    async fn save(&self, name: &str, saved: &Saved) -> Result<()> {
        let (path, folder) = (self.path(name), self.folder.clone());
        let text = serde_json::to_vec(saved)
            .map_err(|error| Error::new(ErrorKind::Bug, "cannot write a position as JSON").caused_by(error))?;
        blocking(move || {
            replace(&folder, &path, &text)
                .map_err(|error| Error::io(format!("cannot save the position in {}", path.display()), error))
        })
        .await
    }
}

fn read(text: &[u8]) -> Result<Saved> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let damaged = |error| Error::new(ErrorKind::Corrupt, "it is not a position of ours").caused_by(error);
    let Versioned { version } = serde_json::from_slice(text).map_err(damaged)?;
    if version > VERSION {
        return Err(Error::new(
            ErrorKind::Version,
            format!("it has version {version}, and this build reads {VERSION}"),
        ));
    }
    serde_json::from_slice(text).map_err(damaged)
}

/// Whoever looks sees the old bytes or the new ones, also after a crash.
fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    fs::create_dir_all(folder)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(folder)?.sync_all()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Interrupted, "the work on a position was stopped").caused_by(error)),
    }
}
