//! Redis by hand: commands written to a socket, replies looked through.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result, ensure};

/// A blocking connection.
pub(super) struct Raw {
    socket: TcpStream,
    /// Read and not yet looked through.
    read: Vec<u8>,
    buffer: Vec<u8>,
}

impl Raw {
    pub(super) fn connect(address: &str) -> Result<Raw> {
        let socket = TcpStream::connect(address).context("cannot connect to Redis")?;
        socket.set_nodelay(true)?;
        Ok(Raw { socket, read: Vec::new(), buffer: vec![0; 64 << 10] })
    }

    /// Sends commands as they are.
    pub(super) fn send(&mut self, commands: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(commands)?)
    }

    /// One command, whose reply does not matter.
    pub(super) fn tell(&mut self, command: &[&[u8]]) -> Result<()> {
        let mut out = Vec::new();
        words(&mut out, command);
        self.send(&out)?;
        self.replies(1, |_| {})
    }

    /// Reads so many replies; `each` gets every text in them.
    pub(super) fn replies(&mut self, count: usize, mut each: impl FnMut(&[u8])) -> Result<()> {
        let (mut at, mut missing) = (0, count as i64);
        while missing > 0 {
            let (kind, number, next) = self.line(at)?;
            at = next;
            missing -= 1;
            match kind {
                b'$' if number >= 0 => {
                    let end = at + usize::try_from(number)?;
                    while self.read.len() < end + 2 {
                        self.more()?;
                    }
                    each(&self.read[at..end]);
                    at = end + 2;
                }
                b'*' if number > 0 => missing += number,
                _ => {}
            }
        }
        self.read.drain(..at);
        Ok(())
    }

    /// Kind and number of the line at a place, and where the next one begins.
    fn line(&mut self, at: usize) -> Result<(u8, i64, usize)> {
        loop {
            if let Some(end) = self.read[at..].iter().position(|byte| *byte == b'\n') {
                let line = self.read[at..at + end].trim_ascii_end();
                let (kind, number) = line.split_first().context("an empty line")?;
                let number = std::str::from_utf8(number)?;
                ensure!(*kind != b'-', "Redis says {number}");
                return Ok((*kind, number.parse().unwrap_or(0), at + end + 1));
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<()> {
        let read = self.socket.read(&mut self.buffer)?;
        ensure!(read > 0, "Redis has closed the connection");
        self.read.extend_from_slice(&self.buffer[..read]);
        Ok(())
    }
}

/// A command as it is sent.
pub(super) fn words(out: &mut Vec<u8>, words: &[&[u8]]) {
    let number = |out: &mut Vec<u8>, kind: u8, number: usize| {
        out.push(kind);
        out.extend_from_slice(number.to_string().as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    number(out, b'*', words.len());
    for word in words {
        number(out, b'$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// An `XADD` of one value.
pub(super) fn xadd(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    words(out, &[b"XADD", key.as_bytes(), b"*", b"msg", value]);
}

/// Whether a text of an answer is the id of an entry, and no value or name: values here are letters.
pub(super) fn is_id(text: &[u8]) -> bool {
    text.contains(&b'-') && text.first().is_some_and(u8::is_ascii_digit)
}
