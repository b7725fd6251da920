//! The blocking half of the sink: a queue of bytes, and the files they go to.

use std::collections::VecDeque;

use millstream_core::{Epoch, Error, ErrorKind, Last, Result, Token};

use super::{
    files::{Files, Op, Place},
    token::FileToken,
};
use crate::formats::Format;

/// What to write, and how; fixed when the pipeline is planned.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) place: Place,
    pub(crate) format: Format,
}

/// Writes files.
pub(super) struct Writer {
    format: Format,
    pub(super) files: Files,
    pub(super) queue: VecDeque<Op>,
    /// What stands before the first record of a file.
    header: Vec<u8>,
}

impl Writer {
    pub(super) fn new(target: Target) -> Self {
        let Target { place, format } = target;
        Writer { format, files: Files::new(place), queue: VecDeque::new(), header: Vec::new() }
    }

    /// Brings the files to where the checkpoint stands. If it cannot, others may.
    pub(super) fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        self.queue.clear();
        let opened = self.recover(resume);
        if opened.is_err() {
            self.files.close();
        }
        opened
    }

    fn recover(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        let tokens = resume.iter().map(|(_, token)| token.read()).collect::<Result<Vec<FileToken>>>()?;
        self.files.open(&tokens)?;
        if self.files.place.rotation.is_none() && self.files.part.is_none() {
            self.begin_single(tokens.is_empty())?;
        }
        Ok(())
    }

    fn begin_single(&mut self, fresh: bool) -> Result<()> {
        self.files.begin_single(fresh)?;
        if let Some(part) = self.files.part.as_mut().filter(|_| self.format.lines && !self.format.packed()) {
            part.end_line();
        }
        Ok(())
    }

    /// Says what stands before the first record of each file. A file that begins with something else is not appended to.
    pub(super) fn set_header(&mut self, header: Vec<u8>) -> Result<()> {
        if let Some(part) = &self.files.part
            && !self.format.packed()
            && part.length > 0
            && !part.begins_with(&header)?
        {
            return Err(Error::new(
                ErrorKind::Option,
                format!("cannot append to `{}`: its header line is not the one of the records", part.path.display()),
            )
            .hint("name the columns in the file's order: `codec: { csv: { columns: [...] } }`"));
        }
        self.header = header;
        Ok(())
    }

    /// Works the queue off. What fails stays in it; a record is written whole or not at all.
    pub(super) fn drain(&mut self) -> Result<()> {
        self.files.check()?;
        while let Some(op) = self.queue.front() {
            match op {
                Op::Rotate => self.files.rotate()?,
                Op::Data(_) => self.append()?,
            }
            self.queue.pop_front();
        }
        Ok(())
    }

    fn append(&mut self) -> Result<()> {
        let limit = self.files.place.rotation.as_ref().and_then(|rotation| rotation.size);
        // How large compressed bytes become is known only behind them.
        if self.format.packed() && self.files.part.as_ref().zip(limit).is_some_and(|(part, limit)| part.size() >= limit)
        {
            self.files.rotate()?;
        }
        self.begin_part()?;
        let (Some(Op::Data(bytes)), Some(part)) = (self.queue.front(), &mut self.files.part) else { return Ok(()) };
        if part.size() == 0 && !self.header.is_empty() {
            part.write(&self.header)?;
        }
        part.write(bytes)
    }

    fn begin_part(&mut self) -> Result<()> {
        match self.files.place.rotation {
            _ if self.files.part.is_some() => Ok(()),
            Some(_) => self.files.begin_rotated(),
            None => self.begin_single(false),
        }
    }

    /// Everything that was accepted is in the file, and readable.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.drain()?;
        match &mut self.files.part {
            Some(part) => part.close_member(),
            None => Ok(()),
        }
    }

    /// Everything that was flushed is durable; the token says how far it counts.
    pub(super) fn prepare(&mut self, last: Last) -> Result<Token> {
        self.flush()?;
        Token::new(&self.files.prepare(last, true)?)
    }

    /// Frees everything.
    pub(super) fn close(&mut self) {
        self.queue.clear();
        self.files.close();
    }
}
