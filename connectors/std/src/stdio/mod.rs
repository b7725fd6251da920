//! Standard input and output, as verbatim lines (`stdin`, `stdout`) and in the stdio line protocol (`stdio:`).
//!
//! [`Stdio`] is one pair of input and output with all its consumers and producers; there is nothing process-wide, so any
//! number of them may live side by side. A pipeline's component makes one for itself; a `Streamer` keeps one for all.

mod backend;
mod hub;
mod input;
mod numbered;
mod options;
mod output;
mod sink;
mod source;
mod stdin;
mod stdout;
mod url;

use std::{
    fmt, io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use millstream_codec::{
    CodecOptions,
    log::{BROADCAST, Headers, LogDecoder, LogOptions},
};
use millstream_core::{Error, ErrorKind, Form, Result, ShardKey, SinkPlan, SourcePlan};

pub use options::{PrintedSequences, StdinOptions, StdioSinkOptions, StdioSourceOptions, StdoutOptions};
pub(crate) use stdin::{STDIN, STDIO_SOURCE};
pub(crate) use stdout::{STDIO_SINK, STDOUT};

use hub::Hub;
use input::{Cutter, read_all};
use output::Output;
use source::{Subscription, source_plan};

type Input = Box<dyn io::Read + Send>;
type Out = Box<dyn io::Write + Send>;

/// Size that a pipe on standard input or output is asked to have: fewer switches between the two programs.
#[cfg(target_os = "linux")]
const PIPE_BYTES: usize = 1 << 20;

/// How an input is read; the same for all consumers of a [`Stdio`].
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Which lines have a header. Default: `lenient`.
    pub headers: Headers,
    /// What payloads are. Default: `lines`.
    pub codec: CodecOptions,
    /// The stream of records without a key. Default: `broadcast`.
    pub stream: String,
    /// Records that are produced reach the consumers too. Then the end of the input ends nobody, as long as there may be a
    /// producer; see [`Stdio::end`]. Default: no.
    pub loopback: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Reading {
            headers: Headers::Lenient,
            codec: CodecOptions::default(),
            stream: BROADCAST.to_owned(),
            loopback: false,
        }
    }
}

/// One input and one output, with any number of consumers and producers. Cheap to clone; closed when the last clone and
/// the last plan made from it are gone.
#[derive(Clone)]
pub struct Stdio(Arc<Handle>);

struct Handle {
    hub: Arc<Hub>,
    reading: Reading,
    form: Form,
    input: Mutex<Option<Input>>,
    writer: Mutex<Option<Out>>,
    output: OnceLock<Arc<Output>>,
    /// It is the process's own input and output.
    own: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.hub.abandon();
    }
}

impl fmt::Debug for Stdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdio").field("reading", &self.0.reading).finish_non_exhaustive()
    }
}

impl Stdio {
    /// The process's standard input and output. Does no I/O yet; an error says what in `reading` does not fit together.
    pub fn new(reading: Reading) -> Result<Self> {
        Stdio::make(reading, Box::new(io::stdin()), Box::new(io::stdout()), true)
    }

    /// Any input and output, such as the two ends of pipes.
    pub fn with(
        reading: Reading,
        input: impl io::Read + Send + 'static,
        output: impl io::Write + Send + 'static,
    ) -> Result<Self> {
        Stdio::make(reading, Box::new(input), Box::new(output), false)
    }

    fn make(reading: Reading, input: Input, output: Out, own: bool) -> Result<Self> {
        cutter(&reading)?;
        let form = reading.codec.plan()?.form();
        Ok(Stdio(Arc::new(Handle {
            hub: Arc::new(Hub::new(reading.loopback)),
            reading,
            form,
            input: Mutex::new(Some(input)),
            writer: Mutex::new(Some(output)),
            output: OnceLock::new(),
            own,
        })))
    }

    /// A consumer of `streams` (and of `broadcast`; none: of all), alone or as a member of a group whose members share the
    /// records in turn.
    ///
    /// It is subscribed from here on. Reading begins when the first source of any consumer is opened: make all consumers
    /// before that, then none misses a line.
    pub fn consumer(&self, streams: Vec<String>, group: Option<String>) -> Box<dyn SourcePlan> {
        source_plan(Subscription::new(self.clone(), streams, group))
    }

    /// A producer.
    pub fn producer(&self, options: &StdioSinkOptions) -> Result<Box<dyn SinkPlan>> {
        sink::producer_plan(self.clone(), options)
    }

    /// No more will be produced: with loopback, every consumer ends behind what it has been given.
    pub fn end(&self) {
        self.0.hub.end();
    }

    fn hub(&self) -> &Hub {
        &self.0.hub
    }

    fn form(&self) -> Form {
        self.0.form
    }

    /// The shard of plain records.
    fn shard(&self) -> ShardKey {
        ShardKey::new(self.0.reading.stream.as_str(), 0)
    }

    /// Best effort: pipes work at any size.
    fn widen_pipes(&self) {
        #[cfg(target_os = "linux")]
        if self.0.own {
            let _ = rustix::pipe::fcntl_setpipe_size(io::stdin(), PIPE_BYTES);
            let _ = rustix::pipe::fcntl_setpipe_size(io::stdout(), PIPE_BYTES);
        }
    }

    /// Starts the reading thread, the first time.
    fn start_reading(&self) -> Result<()> {
        if !self.hub().opened() {
            return Ok(());
        }
        let Some(mut input) = self.0.input.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        let (hub, mut cutter) = (self.0.hub.clone(), cutter(&self.0.reading)?);
        self.widen_pipes();
        let read = move || {
            let mut version = None;
            let ask = |cutter: &mut Cutter| {
                if let (Cutter::Lines(decoder), Some(asked)) = (cutter, hub.asked(version)) {
                    version = Some(asked.version);
                    decoder.ask(asked.streams, true); // What nobody asks for is left out when it is delivered.
                }
            };
            read_all(&mut *input, &mut cutter, ask, |item| hub.deliver_blocking(item));
            hub.end_input();
        };
        let thread = std::thread::Builder::new().name("millstream-in".to_owned()).spawn(read);
        thread.map(drop).map_err(|error| Error::io("cannot start the thread that reads", error))
    }

    /// The writing thread, started the first time.
    fn output(&self) -> Result<Arc<Output>> {
        let mut writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(output) = self.0.output.get() {
            return Ok(output.clone());
        }
        let writer =
            writer.take().ok_or_else(|| Error::new(ErrorKind::Closed, "the output could not be started before"))?;
        self.widen_pipes();
        let output = Arc::new(Output::start(writer)?);
        Ok(self.0.output.get_or_init(|| output).clone())
    }
}

/// What cuts the input into records.
fn cutter(reading: &Reading) -> Result<Cutter> {
    let by_line = matches!(reading.codec, CodecOptions::Lines(_) | CodecOptions::Ndjson(_));
    if reading.headers == Headers::Off && !by_line {
        let codec = reading.codec.plan()?;
        let shard = ShardKey::new(reading.stream.as_str(), 0);
        return Ok(Cutter::Codec { decoder: codec.decoder(), form: codec.form(), shard, read: 0 });
    }
    let options = LogOptions {
        headers: reading.headers,
        streams: Vec::new(),
        stream: reading.stream.clone(),
        codec: reading.codec.clone(),
    };
    LogDecoder::new(&options).map(Box::new).map(Cutter::Lines)
}
