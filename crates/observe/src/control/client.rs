//! The side that asks: blocking, for commands.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use millstream_core::{Error, ErrorKind, Result};
use serde_json::Value;

use super::{
    Process,
    protocol::{ANSWER_BYTES_MAX, Answer, Ask, LeftOut, Request, VERSION},
    socket::{connect, lost},
};
use crate::report::Report;

/// A process that is alive answers at once; reading a large state may take a moment.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What a tap shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A record, as one JSON object of the format `ndjson` ([`millstream_codec::print`]).
    Record(String),
    /// What it has not shown so far.
    LeftOut(LeftOut),
}

/// A connection to a running process. All calls block.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    socket: PathBuf,
    id: u64,
}

impl Client {
    /// Connects. `Closed` if the process is gone.
    pub fn connect(process: &Process) -> Result<Self> {
        let cannot = |error| lost(&process.socket, error);
        let stream = connect(&process.socket).map_err(cannot)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(cannot)?;
        stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(cannot)?;
        Ok(Client { stream: BufReader::new(stream), socket: process.socket.clone(), id: 0 })
    }

    /// Asks, and waits for the answer. After an error of the connection (`Closed`, `Timeout`) connect anew.
    pub fn ask(&mut self, ask: &Ask) -> Result<Value> {
        self.send(ask)?;
        let answer = self.receive()?;
        match (answer.ok, answer.error) {
            (_, Some(fault)) => Err(fault.into()),
            (ok, None) => Ok(ok.unwrap_or_default()),
        }
    }

    /// Opens a tap: records that come from now on are seen. [`Client::see`] gives them.
    pub fn tap(&mut self, ask: &Ask) -> Result<()> {
        self.send(ask)?;
        // Nothing may pass for a long time.
        self.stream.get_ref().set_read_timeout(None).map_err(|error| lost(&self.socket, error))?;
        // The first answer says that it is open: nothing is left out yet.
        self.see().map(drop)
    }

    /// The next thing that a tap shows; `None` at its end.
    pub fn see(&mut self) -> Result<Option<Sight>> {
        let answer = self.receive()?;
        match (answer.record, answer.left_out, answer.error) {
            (Some(record), ..) => Ok(Some(Sight::Record(record.get().to_owned()))),
            (None, Some(left_out), _) => Ok(Some(Sight::LeftOut(left_out))),
            (None, None, Some(fault)) => Err(fault.into()),
            (None, None, None) => Ok(None),
        }
    }

    /// How all pipelines of the process get on.
    pub fn report(&mut self) -> Result<Report> {
        serde_json::from_value(self.ask(&Ask::Status)?).map_err(nonsense)
    }

    fn send(&mut self, ask: &Ask) -> Result<()> {
        self.id += 1;
        let request = Request { v: VERSION, id: self.id, ask };
        let mut line = serde_json::to_vec(&request).map_err(nonsense)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|error| lost(&self.socket, error))
    }

    fn receive(&mut self) -> Result<Answer> {
        let mut line = Vec::new();
        let most = ANSWER_BYTES_MAX as u64;
        let read = (&mut self.stream).take(most).read_until(b'\n', &mut line);
        read.map_err(|error| lost(&self.socket, error))?;
        if line.pop() != Some(b'\n') {
            return Err(lost(&self.socket, io::ErrorKind::UnexpectedEof.into()));
        }
        let answer: Answer = serde_json::from_slice(&line).map_err(nonsense)?;
        match answer.v {
            VERSION => Ok(answer),
            other => Err(Error::new(
                ErrorKind::Version,
                format!("the process speaks version {other} of the control protocol"),
            )
            .hint("use the program of the same version")),
        }
    }
}

fn nonsense(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Decode, "cannot read the answer of the running process").caused_by(error)
}
