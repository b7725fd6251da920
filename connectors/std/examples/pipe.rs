//! Three programs in one, to be joined with pipes:
//!
//! ```text
//! seq 1000000 | pipe produce | pipe relay | pipe consume | tail -1
//! ```
//!
//! `produce` prints verbatim lines with headers, `relay` reads and prints headers, `consume` prints payloads; `loop` is the
//! same amount of work for a line loop by hand: read a line, write a line.

use std::io::{BufRead, Write};

use millstream_codec::{log::Headers, print::Format};
use millstream_core::{ErrorKind, Event, Result, Resume, SinkPlan, SourcePlan};
use millstream_std::{Reading, Stdio, StdioSinkOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let command = std::env::args().nth(1).unwrap_or_default();
    if command == "loop" {
        return by_hand().or_else(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => Ok(()),
            _ => Err(millstream_core::Error::io("cannot copy lines", error)),
        });
    }
    let headers = if command == "produce" { Headers::Off } else { Headers::Lenient };
    let stdio = Stdio::new(Reading { headers, ..Reading::default() })?;
    let format = if command == "consume" { Format::Raw } else { Format::Log };
    let source = stdio.consumer(Vec::new(), None);
    let sink = stdio.producer(&StdioSinkOptions { format, ..StdioSinkOptions::default() })?;
    match copy(&*source, &*sink).await {
        Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
        other => other,
    }
}

async fn copy(source: &dyn SourcePlan, sink: &dyn SinkPlan) -> Result<()> {
    let (mut source, mut sink) = (source.create()?, sink.create()?);
    source.open(&Resume::default()).await?;
    sink.open(&[]).await?;
    while let Event::Batch(read) = source.next().await? {
        sink.write(read.batch).await?;
    }
    sink.flush().await?;
    sink.close().await
}

fn by_hand() -> std::io::Result<()> {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::BufWriter::new(std::io::stdout().lock()));
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        output.write_all(line.as_bytes())?;
        line.clear();
    }
    output.flush()
}
