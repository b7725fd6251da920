//! A connection on which commands are under way: written and answered at the same time.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memchr;
use millstream_core::{Error, Result, WriteId};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::again::{Again, Time};
use crate::{
    client::{Client, Redirect, Wire},
    error::{broken, is_of_server, malformed},
    id::{EntryId, number},
    resp::Malformed,
    server::Server,
};

/// Bytes that one read asks for: some thousand answers.
const READ_BYTES: usize = 64 << 10;

/// An answer to `XADD` is an id or an error, both short.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// One command of a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Row of the batch.
    pub(super) row: u32,
    /// One past its last byte in the chunk.
    pub(super) end: u32,
    pub(super) slot: u16,
}

/// Commands of one write for one node. Kept until they are answered, to be sent again if they are not.
#[derive(Debug)]
pub(super) struct Chunk {
    write: WriteId,
    bytes: Bytes,
    cuts: Vec<Cut>,
    answered: usize,
}

impl Chunk {
    pub(super) fn new(write: WriteId, bytes: Bytes, cuts: Vec<Cut>) -> Self {
        Chunk { write, bytes, cuts, answered: 0 }
    }

    fn command(&self, i: usize) -> Option<Again> {
        let cut = self.cuts.get(i)?;
        let start = i.checked_sub(1).and_then(|before| self.cuts.get(before)).map_or(0, |before| before.end);
        let bytes = self.bytes.get(start as usize..cut.end as usize)?;
        let (write, bytes) = (self.write, self.bytes.slice_ref(bytes));
        Some(Again { write, row: cut.row, slot: cut.slot, bytes, repeated: false, time: Time::Own })
    }
}

/// What a server said to one command.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) write: WriteId,
    pub(super) row: u32,
    pub(super) said: Said,
}

/// What a server said.
#[derive(Debug)]
pub(super) enum Said {
    /// The entry's id.
    Id(EntryId),
    /// It is staged in a list of this slot.
    Staged(u16),
    /// What is wrong with the record, and its command.
    Rejected(String, Again),
    /// The server, or another one, may carry it out later: what it said, and the command.
    Refused(String, Again),
    /// It was answered, but an earlier command of its slot was refused, and would come behind it: so it is sent once more.
    Behind(Again),
}

/// Slots of which the server refused a command, until all that was under way with it is answered.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeSet<u16>);

impl Refusals {
    /// What the answer to a command means: an id, none for what was staged, or an error.
    pub(super) fn said(
        &mut self,
        answer: Result<Option<EntryId>, String>,
        slot: u16,
        command: impl FnOnce() -> Again,
    ) -> Said {
        match answer {
            Err(text) if is_of_server(&text) => {
                self.0.insert(slot);
                Said::Refused(text, command())
            }
            // Whoever has the key now gets all that is behind it, too; others of the slot may still be here.
            Err(text) if Redirect::read(&text, "").is_some() => Said::Refused(text, command()),
            _ if self.0.contains(&slot) => Said::Behind(command()),
            Ok(Some(id)) => Said::Id(id),
            Ok(None) => Said::Staged(slot),
            Err(text) => Said::Rejected(text, command()),
        }
    }
}

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// All is written, and no more than so many bytes wait for their answers.
    Written(usize),
    /// All is answered.
    Answered,
}

/// A connection and what is under way on it.
#[derive(Debug)]
pub(super) struct Pipe {
    wire: Wire,
    node: Arc<str>,
    server: Arc<Server>,
    unread: BytesMut,
    /// What one read goes to.
    scratch: Vec<u8>,
    chunks: VecDeque<Chunk>,
    refusals: Refusals,
    /// The chunk that is being written, and how much of it has been.
    writing: usize,
    written: usize,
    /// Written, and not yet seen to leave.
    unflushed: bool,
    /// Bytes of commands that are not answered.
    in_flight: usize,
    /// Bytes that went either way so far: whether anything moves.
    moved: u64,
}

impl Pipe {
    pub(super) async fn connect(server: &Arc<Server>, node: &Arc<str>) -> Result<Self> {
        let (wire, unread) = Client::connect(server, node).await?.into_wire();
        Ok(Pipe {
            wire,
            node: node.clone(),
            server: server.clone(),
            unread,
            scratch: vec![0; READ_BYTES],
            chunks: VecDeque::new(),
            refusals: Refusals::default(),
            writing: 0,
            written: 0,
            unflushed: false,
            in_flight: 0,
            moved: 0,
        })
    }

    /// The node at the other end.
    pub(super) fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Bytes that went either way so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Takes commands, to be written by `poll`.
    pub(super) fn push(&mut self, chunk: Chunk) {
        self.in_flight += chunk.bytes.len();
        self.chunks.push_back(chunk);
    }

    /// Commands that have no answer.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Again> {
        self.chunks.iter().flat_map(|chunk| (chunk.answered..chunk.cuts.len()).filter_map(|i| chunk.command(i)))
    }

    fn reached(&self, until: Until) -> bool {
        match until {
            Until::Written(most) => self.writing >= self.chunks.len() && !self.unflushed && self.in_flight <= most,
            Until::Answered => self.chunks.is_empty(),
        }
    }

    /// Writes and reads as much as goes, until it has come so far. After an error the pipe is to be dropped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, until: Until, answers: &mut Vec<Answer>) -> Poll<Result<()>> {
        loop {
            let wrote = self.poll_write(cx);
            if let Poll::Ready(Err(cause)) = wrote {
                // What it said before it closed tells which record it does not take.
                while let Poll::Ready(Ok(())) = self.poll_read(cx) {
                    self.answers(answers)?;
                }
                return Poll::Ready(Err(broken("write to", &self.node, &self.server, cause)));
            }
            if self.reached(until) {
                return Poll::Ready(Ok(()));
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => self.answers(answers)?,
                Poll::Ready(Err(cause)) => {
                    return Poll::Ready(Err(broken("read from", &self.node, &self.server, cause)));
                }
                Poll::Pending => return Poll::Pending,
            }
            if self.reached(until) {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(chunk) = self.chunks.get(self.writing) {
            let left = chunk.bytes.get(self.written..).unwrap_or_default();
            if left.is_empty() {
                (self.writing, self.written) = (self.writing + 1, 0);
                continue;
            }
            let wrote = ready!(Pin::new(&mut self.wire).poll_write(cx, left))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += wrote;
            self.moved += wrote as u64;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.wire).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(&mut self.scratch);
        let read = Pin::new(&mut self.wire).poll_read(cx, &mut buffer);
        let filled = buffer.filled();
        self.unread.extend_from_slice(filled);
        self.moved += filled.len() as u64;
        match ready!(read) {
            Ok(()) if filled.is_empty() => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            done => Poll::Ready(done),
        }
    }

    /// Takes the answers that are there.
    fn answers(&mut self, answers: &mut Vec<Answer>) -> Result<()> {
        let wrong = |why| malformed(&self.node, &self.server, why);
        let mut at = 0;
        while let Some((said, next)) = answer(self.unread.get(at..).unwrap_or_default()).map_err(wrong)? {
            at += next;
            // An answer without a question.
            let chunk = self.chunks.front_mut().ok_or(Malformed::Length).map_err(wrong)?;
            let command = chunk.command(chunk.answered).ok_or(Malformed::Length).map_err(wrong)?;
            chunk.answered += 1;
            let (write, row, slot) = (command.write, command.row, command.slot);
            answers.push(Answer { write, row, said: self.refusals.said(said, slot, || command) });
            if chunk.answered == chunk.cuts.len() {
                self.in_flight -= chunk.bytes.len();
                self.chunks.pop_front();
                // Nothing is answered before it is written.
                self.writing = self.writing.saturating_sub(1);
                if self.chunks.is_empty() {
                    // What was refused is sent again before anything new.
                    self.refusals = Refusals::default();
                    self.written = 0;
                }
            }
        }
        self.unread.advance(at);
        Ok(())
    }
}

/// An id, none for what was staged, or an error; and its length.
type Parsed = Option<(Result<Option<EntryId>, String>, usize)>;

/// The answer at the front of `data`, and its length.
fn answer(data: &[u8]) -> Result<Parsed, Malformed> {
    let Some(end) = memchr(b'\n', data) else {
        return match data.first() {
            Some(kind) if !b"$-:".contains(kind) => Err(Malformed::Kind(*kind)),
            _ if data.len() > ANSWER_BYTES_MAX => Err(Malformed::Length),
            _ => Ok(None),
        };
    };
    let line = data.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Malformed::Length)?;
    match line.split_first() {
        Some((b'-', text)) => Ok(Some((Err(String::from_utf8_lossy(text).into_owned()), end + 1))),
        Some((b'$', length)) => {
            let length = number(length).filter(|length| *length <= ANSWER_BYTES_MAX as u64).ok_or(Malformed::Length)?;
            let (start, next) = (end + 1, end + 1 + length as usize + 2);
            if data.len() < next {
                return Ok(None);
            }
            let id = data.get(start..next - 2).and_then(EntryId::parse).ok_or(Malformed::Length)?;
            Ok(Some((Ok(Some(id)), next)))
        }
        Some((b':', count)) => match number(count) {
            Some(_) => Ok(Some((Ok(None), end + 1))),
            None => Err(Malformed::Length),
        },
        Some((kind, _)) => Err(Malformed::Kind(*kind)),
        None => Err(Malformed::Length),
    }
}

/// The error for a pipe on which nothing moves any more.
pub(super) fn stuck(pipe: &Pipe) -> Error {
    crate::error::too_slow("get an answer from", &pipe.node, &pipe.server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_ids_and_errors() {
        let bytes = b"$3\r\n1-2\r\n-OOM no\r\n";
        let (first, next) = answer(bytes).unwrap().unwrap();
        assert_eq!((first, next), (Ok(Some(EntryId { ms: 1, seq: 2 })), 9));
        assert_eq!(answer(&bytes[next..]).unwrap().unwrap(), (Err("OOM no".to_owned()), 9));
        for cut in 0..9 {
            assert!(answer(&bytes[..cut]).unwrap().is_none(), "{cut}");
        }
        for wrong in ["$x\r\n", "$3\r\nabc\r\n", ":x\r\n", "HTTP", "\n"] {
            assert!(answer(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
