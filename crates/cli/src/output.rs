//! Standard output of commands that print what they have found: data, and nothing else.

use std::io::{self, BufWriter, Write};

use millstream::core::Error;

use crate::exit::Failure;

/// Buffered standard output. Call [`Output::finish`], or the last lines are lost.
pub(crate) struct Output(BufWriter<io::StdoutLock<'static>>);

impl Output {
    pub(crate) fn new() -> Self {
        Output(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }

    /// Writes bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write_all(bytes).map_err(failed)
    }

    /// Makes sure that everything is written.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.0.flush().map_err(failed)
    }
}

/// Writes a whole text, with a line feed at its end.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut output = Output::new();
    output.write(text.as_bytes())?;
    if !text.ends_with('\n') && !text.is_empty() {
        output.write(b"\n")?;
    }
    output.finish()
}

fn failed(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::ReaderGone,
        _ => Error::io("cannot write to standard output", error).into(),
    }
}
