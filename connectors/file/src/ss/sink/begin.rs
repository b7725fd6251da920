//! The first bytes that a sink writes: a new file, or the end of one that is there.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use millstream_codec::ss::{End, HEADER_BYTES, Header, SsWriter, Tail, find_end};
use millstream_core::{Error, ErrorKind, Result, Timestamp};

use super::output::{Current, Output};
use crate::{error::failed, identity::FileId, ss::view::of};

/// How much of a tail is looked at at once.
const LOOK_BYTES: usize = 64 << 10;

impl Output {
    /// Begins a new file, instead of any that has the name.
    pub(super) fn create(&mut self, name: String, rename: Option<String>) -> Result<SsWriter> {
        self.append(name, rename, Some(0))
    }

    /// Opens a file to write behind `length`, or behind its last whole message.
    pub(super) fn append(&mut self, name: String, rename: Option<String>, length: Option<u64>) -> Result<SsWriter> {
        let path = self.folder.join(&name);
        let problem = |error| failed("write", &path, error);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(problem)?;
        let metadata = file.metadata().map_err(problem)?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::Option, format!("`{}` is not a regular file", path.display()))
                .hint("a .ss file must be one that can be cut"));
        }
        let len = metadata.len();
        if let Some(length) = length.filter(|length| *length < len) {
            if length > 0 {
                tracing::info!(path = %path.display(), bytes = len - length, "cutting what was written after the checkpoint");
            }
            file.set_len(length).map_err(problem)?;
        }
        let (mut out, id) = (Vec::new(), FileId::from(&metadata));
        let (writer, at) = match end(&file, &path)? {
            None => (SsWriter::new(&self.header(rename.as_deref().unwrap_or(&name))?, &mut out), 0),
            Some(end) => {
                check_cut(&file, &path, &end, length)?;
                file.set_len(end.offset).map_err(problem)?;
                (SsWriter::resume(&end, &mut out).map_err(|error| of(&path, error))?, end.offset)
            }
        };
        self.take(Current { file, name, rename, id, length: at, dirty: true, fresh: true });
        self.put(&out)?;
        Ok(writer)
    }

    fn header(&self, name: &str) -> Result<Header> {
        let now = u64::try_from(Timestamp::now().as_millis()).unwrap_or(0);
        Header::new(name, now, self.target.beacon_interval)
    }
}

/// The end of a file; `None` if it has not been begun.
fn end(file: &File, path: &Path) -> Result<Option<End>> {
    let problem = |error| failed("read", path, error);
    let len = file.metadata().map_err(problem)?.len();
    if len < HEADER_BYTES as u64 {
        let mut bytes = [0; HEADER_BYTES];
        let bytes = &mut bytes[..usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(bytes, 0).map_err(problem)?;
        let begun = bytes.starts_with(b"Ss") || bytes == b"S" || bytes.iter().all(|byte| *byte == 0);
        if !begun {
            return Err(Error::new(ErrorKind::Corrupt, format!("`{}` is not a .ss file", path.display()))
                .hint("choose another path, or `existing: replace`"));
        }
        if len > 0 {
            tracing::warn!(path = %path.display(), bytes = len, "cutting a header that a crash has left unfinished");
        }
        file.set_len(0).map_err(problem)?;
        return Ok(None);
    }
    find_end(file).map(Some).map_err(|error| of(path, error))
}

/// Reports what is cut off, or refuses to: damage is not a crash.
fn check_cut(file: &File, path: &Path, end: &End, mark: Option<u64>) -> Result<()> {
    let shown = path.display();
    match end.tail {
        Tail::Damaged { offset, damage } if !is_blank(file, offset).map_err(|error| failed("read", path, error))? => {
            return Err(of(path, damage.error(offset)).hint(format!(
                "`millstream file repair {shown}` writes a new file with all that is whole; then append to that"
            )));
        }
        Tail::Torn { offset } | Tail::Damaged { offset, .. } => {
            let bytes = end.file_bytes.saturating_sub(offset);
            tracing::warn!(path = %shown, offset, bytes, "cutting a record that a crash has left unfinished");
        }
        Tail::Whole => {}
    }
    match mark {
        // An end of stream may stand right before the mark, and goes.
        Some(mark) if mark > 0 && end.offset < mark && end.end_of_stream.is_none() => {
            let text =
                format!("the checkpoint counts {mark} bytes of `{shown}`, and its records end at {}", end.offset);
            Err(Error::new(ErrorKind::StateMismatch, text)
                .hint("bring the file back, or begin anew with `millstream state reset PIPELINE`"))
        }
        _ => Ok(()),
    }
}

/// Zeros up to the end of the file: space that a power failure has left unwritten.
fn is_blank(file: &File, mut offset: u64) -> io::Result<bool> {
    let mut bytes = vec![0; LOOK_BYTES];
    loop {
        match file.read_at(&mut bytes, offset)? {
            0 => return Ok(true),
            read if bytes[..read].iter().any(|byte| *byte != 0) => return Ok(false),
            read => offset += read as u64,
        }
    }
}
