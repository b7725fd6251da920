//! Where control sockets are, who may use them, and who is found there.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{DirBuilderExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use millstream_core::{Error, ErrorKind, Result};

/// The folder of sockets in a state directory. No pipeline's name begins with a dot.
const FOLDER: &str = ".control";
/// Behind the pid.
const EXTENSION: &str = "sock";
/// The system's limit for the path of a socket is 108 bytes, with its end.
const PATH_BYTES_MAX: usize = 100;
/// Processes with the same pid, in containers that share a state directory.
const SAME_PID_MAX: u32 = 16;

/// A socket on which this process can be asked. Dropping it removes it, and what it has made and is empty.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: Option<UnixListener>,
    path: PathBuf,
    /// The state directory, if it was made for the socket.
    made: Option<PathBuf>,
}

/// A process that runs pipelines of a state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id, as it sees itself.
    pub pid: u32,
    /// Its socket.
    pub socket: PathBuf,
}

impl ControlSocket {
    /// Makes the socket of this process in a state directory.
    pub fn bind(state_dir: &Path) -> Result<Self> {
        let folder = state_dir.join(FOLDER);
        let cannot = |error| Error::io(format!("cannot make a control socket in `{}`", folder.display()), error);
        let made = (!state_dir.exists()).then(|| state_dir.to_owned());
        fs::create_dir_all(state_dir).map_err(cannot)?;
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(error)),
            _ => {}
        }
        // Nobody else gets past the folder, so that the socket's own mode may come a moment late.
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).map_err(cannot)?;
        sweep(&folder);
        let (path, listener) = bind(&folder).map_err(cannot)?;
        let socket = ControlSocket { listener: Some(listener), path, made };
        fs::set_permissions(&socket.path, Permissions::from_mode(0o600)).map_err(cannot)?;
        Ok(socket)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // What cannot be removed is swept by the next process; folders are removed only if they are empty.
        let _ = fs::remove_file(&self.path);
        let folders = self.path.parent().into_iter().chain(self.made.as_deref());
        folders.for_each(|folder| drop(fs::remove_dir(folder)));
    }
}

fn bind(folder: &Path) -> io::Result<(PathBuf, UnixListener)> {
    let pid = std::process::id();
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for number in 1..=SAME_PID_MAX {
        let stem = if number == 1 { pid.to_string() } else { format!("{pid}-{number}") };
        let path = folder.join(format!("{stem}.{EXTENSION}"));
        match short(&path, |path| UnixListener::bind(path)) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok((path, listener));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Removes sockets that nobody listens on.
fn sweep(folder: &Path) {
    for process in in_folder(folder) {
        if connect(&process.socket).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(&process.socket);
        }
    }
}

/// Connects to a socket.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    short(path, |path| UnixStream::connect(path))
}

/// Calls `with` with a path that is short enough for a socket.
fn short<T>(path: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return with(path) };
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return with(path);
    }
    let folder = File::open(folder)?;
    with(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

fn in_folder(folder: &Path) -> Vec<Process> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<Process> = entries
        .filter_map(|entry| {
            let socket = entry.path();
            let stem = socket.file_stem()?.to_str()?;
            let pid = stem.split('-').next()?.parse().ok()?;
            (socket.extension()? == EXTENSION).then(|| Process { pid, socket: socket.clone() })
        })
        .collect();
    found.sort_by(|a, b| a.socket.cmp(&b.socket));
    found
}

/// The processes that can be asked about the pipelines of a state directory, in order of their ids. One that is gone may
/// be among them.
pub fn processes(state_dir: &Path) -> Vec<Process> {
    let mut found = in_folder(&state_dir.join(FOLDER));
    found.sort_by_key(|process| process.pid);
    found
}

/// Who is refused: whoever is another user and not root.
pub(super) fn may_ask(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// An error of the other side, or of the way to it.
pub(super) fn lost(socket: &Path, error: io::Error) -> Error {
    let message = format!("cannot ask the process behind `{}`", socket.display());
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::Closed, message).caused_by(error).hint("it has ended, or is about to")
        }
        _ => Error::io(message, error),
    }
}
