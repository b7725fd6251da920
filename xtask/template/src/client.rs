//! The one place that speaks the system's protocol.

use bytes::{Bytes, BytesMut};
use millstream_core::{Error, ErrorKind, Result, Span};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use crate::error::{failed, too_slow};

/// Bytes that one read asks for: enough to fill batches, little enough to keep for each connection.
const READ_BYTES: usize = 64 << 10;

/// Longest line; a longer one is no line but a mistake, and would fill the memory.
const LINE_BYTES_MAX: usize = 16 << 20;

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    address: String,
    /// Read and not yet handed over.
    unread: BytesMut,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(address: &str, timeout: Span) -> Result<Self> {
        let connecting = time::timeout(timeout.0, TcpStream::connect(address)).await;
        let stream = connecting
            .map_err(|_| too_slow("connect to", address))?
            .map_err(|cause| failed("connect to", address, cause))?;
        Ok(Client { stream, address: address.to_owned(), unread: BytesMut::new() })
    }

    /// The whole lines that are there, with their line feeds; waits for the first. Nothing: the server has closed.
    ///
    /// Cancel-safe: what was read stays in `unread`.
    pub(crate) async fn lines(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.unread.iter().rposition(|byte| *byte == b'\n') {
                return Ok(Some(self.unread.split_to(end + 1).freeze()));
            }
            if self.unread.len() > LINE_BYTES_MAX {
                return Err(Error::new(ErrorKind::TooLarge, format!("a line is longer than {LINE_BYTES_MAX} bytes")));
            }
            self.unread.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.unread).await;
            if read.map_err(|cause| failed("read from", &self.address, cause))? == 0 {
                let rest = self.unread.split().freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
        }
    }

    /// Sends bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await.map_err(|cause| failed("write to", &self.address, cause))
    }

    /// Waits until all that was sent has left. A system that acknowledges is asked for it here: accepted is not durable.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        self.stream.flush().await.map_err(|cause| failed("write to", &self.address, cause))
    }
}
