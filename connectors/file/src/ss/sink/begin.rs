//! The first bytes that a sink writes: a new file, or the end of one that is there; and the sequences that go on.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::Path};

use millstream_codec::ss::{End, HEADER_BYTES, SsWriter, Tail, find_end};
use millstream_core::{Error, ErrorKind, Result, ShardKey};

use super::output::{Begun, Output};
use crate::{error::failed, ss::view::of};

/// How much of a tail is looked at at once.
const LOOK_BYTES: usize = 64 << 10;

impl Output {
    /// Goes on with the file that is open, behind its last whole message. `mark`: what the checkpoint counts of it.
    pub(super) fn take_up(&mut self, mark: Option<u64>) -> Result<Begun> {
        let Some(part) = &mut self.files.part else {
            return Err(Error::new(ErrorKind::Bug, "there is no file to go on with"));
        };
        let (path, mut out) = (part.path.clone(), Vec::new());
        let mut writer = match end(part.file(), &path)? {
            None => {
                part.cut(0)?;
                let header = self.target.header(part.rename.as_deref().unwrap_or(&part.name))?;
                SsWriter::new(&header, &mut out)
            }
            Some(end) => {
                check_cut(part.file(), &path, &end, mark)?;
                part.cut(end.offset)?;
                SsWriter::resume(&end, &mut out).map_err(|error| of(&path, error))?
            }
        };
        part.write(&out)?;
        let started_at = Some(part.started_at);
        self.carry(&mut writer)?;
        Ok(Begun { writer, out: Vec::new(), started_at })
    }

    /// Lets sequences go on behind those of earlier files.
    pub(super) fn carry(&self, writer: &mut SsWriter) -> Result<()> {
        self.carried.iter().try_for_each(|(shard, sequence)| writer.carry(&shard.stream, shard.shard, *sequence))
    }

    /// Takes note of the sequences of a file that is not gone on with, because the options are others by now.
    pub(super) fn carry_retired(&mut self) -> Result<()> {
        for part in &self.files.done {
            carry_from(&mut self.carried, part.file(), &part.path)?;
        }
        Ok(())
    }

    /// Takes note of the sequences of all rotated files that are there: the checkpoint knows nothing of them.
    pub(super) fn carry_all(&mut self) -> Result<()> {
        let Some(rotation) = &self.target.place.rotation else { return Ok(()) };
        for (_, name) in rotation.template.list(&self.files.folder)? {
            let path = self.files.folder.join(name);
            let file = File::open(&path).map_err(|error| failed("open", &path, error))?;
            carry_from(&mut self.carried, &file, &path)?;
        }
        Ok(())
    }
}

fn carry_from(carried: &mut BTreeMap<ShardKey, u64>, file: &File, path: &Path) -> Result<()> {
    for stream in end(file, path)?.into_iter().flat_map(|end| end.streams) {
        let sequence = carried.entry(ShardKey::new(stream.key, stream.shard)).or_default();
        *sequence = stream.sequence.max(*sequence);
    }
    Ok(())
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
