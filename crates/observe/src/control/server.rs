//! The side of the process that is asked.

use std::{io, sync::Arc, time::Duration};

use millstream_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
};

use super::{
    protocol::{Ask, REQUEST_BYTES_MAX, read, write},
    socket::{ControlSocket, may_ask},
    tapping::{Tapping, Wanted},
};
use crate::observer::Observer;

/// Connections at once; more wait until one is closed.
const CONNECTIONS_MAX: usize = 32;
/// Waiting after the system has refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// No deadline of a drain is longer than a year.
const DEADLINE_SECONDS_MAX: f64 = 366.0 * 86_400.0;

impl ControlSocket {
    /// Answers for ever. Dropping the future removes the socket and closes all connections. Needs a tokio runtime.
    pub async fn serve(mut self, observer: Observer) -> Result<()> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let cannot = |error| Error::io(format!("cannot listen on `{}`", self.path().display()), error);
        let listener = UnixListener::from_std(listener).map_err(cannot)?;
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            // Never closed.
            let Ok(place) = room.clone().acquire_owned().await else { return Ok(()) };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // Only to forget those that are over.
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let observer = observer.clone();
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, &observer).await {
                            tracing::debug!(%error, "a control connection ended early");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: UnixStream, observer: &Observer) -> io::Result<()> {
    if !may_ask(stream.peer_cred()?.uid()) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while next_line(&mut reader, &mut line).await? {
        let (id, ask) = read(&line);
        let answer = match ask {
            Ok(Ask::Tap { pipeline, point, r#where, count, rate }) => {
                let wanted = Wanted { point, r#where, count, rate };
                match open(observer, id, pipeline.as_deref(), &wanted) {
                    Err(error) => Err(error),
                    Ok(mut tapping) => {
                        tokio::select! {
                            shown = tapping.run(&mut writer) => shown?,
                            // The other side has gone, or has had enough: a line may have been cut short.
                            _ = reader.fill_buf() => return Ok(()),
                        }
                        Ok(Value::Null)
                    }
                }
            }
            Ok(ask) => answer(observer, ask).await,
            Err(error) => Err(error),
        };
        writer.write_all(&write(id, answer)).await?;
    }
    Ok(())
}

/// Reads a line without its end; `false` at the end.
async fn next_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let block = reader.fill_buf().await?;
        if block.is_empty() {
            return Ok(false);
        }
        let end = block.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(block.len());
        if line.len() + taken > REQUEST_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a request is too long"));
        }
        line.extend_from_slice(&block[..taken]);
        reader.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(true);
        }
    }
}

fn open(observer: &Observer, id: u64, pipeline: Option<&str>, wanted: &Wanted) -> Result<Tapping> {
    Tapping::open(id, &*observer.find(pipeline)?, observer.registry(), wanted)
}

async fn answer(observer: &Observer, ask: Ask) -> Result<Value> {
    match ask {
        Ask::Status => serde_json::to_value(observer.report())
            .map_err(|error| Error::new(ErrorKind::Bug, "cannot write the status").caused_by(error)),
        Ask::Drain { pipeline, deadline_seconds } => {
            let deadline = deadline_seconds.clamp(0.0, DEADLINE_SECONDS_MAX);
            if !deadline.is_finite() {
                return Err(Error::new(ErrorKind::Option, "a deadline is a number of seconds"));
            }
            observer.find(pipeline.as_deref())?.drain(Duration::from_secs_f64(deadline));
            Ok(Value::Null)
        }
        Ask::Stop { pipeline } => {
            observer.find(pipeline.as_deref())?.handle.stop();
            Ok(Value::Null)
        }
        Ask::Pause { pipeline } => {
            observer.find(pipeline.as_deref())?.handle.pause();
            Ok(Value::Null)
        }
        Ask::Resume { pipeline } => {
            observer.find(pipeline.as_deref())?.handle.resume();
            Ok(Value::Null)
        }
        Ask::Concurrency { pipeline, step, workers } => {
            observer.find(pipeline.as_deref())?.handle.set_concurrency(&step, workers).await?;
            Ok(Value::Null)
        }
        Ask::RateLimit { pipeline, stage, limit } => {
            observer.find(pipeline.as_deref())?.handle.set_rate_limit(&stage, &limit)?;
            Ok(Value::Null)
        }
        Ask::Option { pipeline, step, option, value } => {
            observer.find(pipeline.as_deref())?.handle.set_option(&step, &option, &value)?;
            Ok(Value::Null)
        }
        Ask::Tap { .. } => Err(Error::new(ErrorKind::Bug, "a tap is more than one answer")),
        Ask::Checkpoint { pipeline } => {
            let epoch = observer.find(pipeline.as_deref())?.handle.checkpoint().await?;
            Ok(json!({ "epoch": epoch }))
        }
        Ask::State { pipeline, stage, limit } => {
            let observed = observer.find(pipeline.as_deref())?;
            let Some(read) = observed.state.clone() else {
                return Err(Error::new(ErrorKind::Unsupported, "this pipeline keeps its state in memory"));
            };
            let read = tokio::task::spawn_blocking(move || read(stage.as_deref(), limit));
            read.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Bug, "reading the state was stopped")))
        }
    }
}
