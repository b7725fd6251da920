//! What can be asked, and how answers look.

use millstream_core::{Error, ErrorKind, Result};
use millstream_runtime::RateLimit;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

/// Version of the protocol.
pub const VERSION: u64 = 1;
/// Length of a request: options and expressions, nothing large.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Length of an answer: a thousand keys of state, with room.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What can be asked of a process. `pipeline` may be absent where there is only one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// How all pipelines get on: a [`Report`](crate::Report).
    Status,
    /// Work off what is in flight, commit, and end.
    Drain {
        /// Which.
        #[serde(default)]
        pipeline: Option<String>,
        /// What is not done by then stays for the next run.
        deadline_seconds: f64,
    },
    /// End at once, without a last epoch.
    Stop {
        /// Which.
        #[serde(default)]
        pipeline: Option<String>,
    },
    /// Read nothing more until `resume`; what has been read is worked off.
    Pause {
        /// Which.
        #[serde(default)]
        pipeline: Option<String>,
    },
    /// Read again.
    Resume {
        /// Which.
        #[serde(default)]
        pipeline: Option<String>,
    },
    /// Give a step another number of workers; answers when it has them.
    Concurrency {
        /// Which.
        #[serde(default)]
        pipeline: Option<String>,
        /// The step.
        step: String,
        /// How many.
        workers: u32,
    },
    /// Give a source or step another rate limit.
    RateLimit {
        /// Which.
        #[serde(default)]
        pipeline: Option<String>,
        /// The source or step.
        stage: String,
        /// As in a pipeline file: `{"records":1000,"per":"1s"}`.
        limit: RateLimit,
    },
    /// Change an option of a step.
    Option {
        /// Which.
        #[serde(default)]
        pipeline: Option<String>,
        /// The step.
        step: String,
        /// The option.
        option: String,
        /// Its value, as in a pipeline file.
        value: Value,
    },
    /// The records that pass a point, sampled: see [`Sight`](super::Sight) for what is answered. Ends with `ok` at `count`, or when the
    /// pipeline is over; whatever is sent meanwhile ends the connection.
    Tap {
        /// Which.
        #[serde(default)]
        pipeline: Option<String>,
        /// `STAGE`, `STAGE.in` or `STAGE.out`.
        point: String,
        /// Only records for which this VRL expression is true.
        #[serde(default)]
        r#where: Option<String>,
        /// At most so many records.
        #[serde(default)]
        count: Option<u64>,
        /// At most so many records a second.
        rate: u64,
    },
    /// Commit what has been read so far; answers with the epoch.
    Checkpoint {
        /// Which.
        #[serde(default)]
        pipeline: Option<String>,
    },
    /// Keyed state, as `millstream state show` prints it.
    State {
        /// Which.
        #[serde(default)]
        pipeline: Option<String>,
        /// Of this stage only.
        #[serde(default)]
        stage: Option<String>,
        /// At most so many keys of each stage.
        limit: usize,
    },
}

/// A request as it travels.
#[derive(Debug, Serialize)]
pub(super) struct Request<'a> {
    pub(super) v: u64,
    pub(super) id: u64,
    #[serde(flatten)]
    pub(super) ask: &'a Ask,
}

/// An answer as it travels: one of `ok`, `error`, `record`, `left_out`.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) v: u64,
    #[serde(default)]
    pub(super) record: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) left_out: Option<LeftOut>,
    #[serde(default)]
    pub(super) ok: Option<Value>,
    #[serde(default)]
    pub(super) error: Option<Fault>,
}

/// What a tap has not shown, since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// Records beyond the rate, or that came while nobody had time for them.
    pub records: u64,
    /// Records for which the expression of `where` failed.
    pub failed: u64,
    /// Why, for one of them.
    pub failure: Option<String>,
}

/// An error as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Fault {
    pub(super) code: String,
    pub(super) message: String,
    #[serde(default)]
    pub(super) hint: Option<String>,
    /// Bytes of the text that was sent, such as the expression of `where`, at which it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) span: Option<(usize, usize)>,
}

/// Reads a request: its id as far as that can be read, and what is asked.
pub(super) fn read(line: &[u8]) -> (u64, Result<Ask>) {
    let wrong = |error: serde_json::Error| {
        Error::new(ErrorKind::Syntax, "cannot read the request").caused_by(error).hint("one JSON object a line")
    };
    let value: Value = match serde_json::from_slice(line) {
        Ok(value) => value,
        Err(error) => return (0, Err(wrong(error))),
    };
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let id = number("id").unwrap_or(0);
    if number("v") != Some(VERSION) {
        let message = format!("this process speaks version {VERSION} of the control protocol");
        return (id, Err(Error::new(ErrorKind::Version, message).hint("use the program of the same version")));
    }
    (id, serde_json::from_value(value).map_err(wrong))
}

/// An answer as a line.
pub(super) fn write(id: u64, answer: Result<Value>) -> Vec<u8> {
    let answer = match answer {
        Ok(value) => json!({ "v": VERSION, "id": id, "ok": value }),
        Err(error) => json!({ "v": VERSION, "id": id, "error": Fault::from(&error) }),
    };
    let mut line = answer.to_string().into_bytes();
    if line.len() >= ANSWER_BYTES_MAX {
        let error = Error::new(ErrorKind::TooLarge, format!("the answer has {} bytes", line.len()))
            .hint("ask for less, with a limit");
        return write(id, Err(error));
    }
    line.push(b'\n');
    line
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        Fault {
            code: error.facts().code.to_owned(),
            message: error.chain(),
            hint: error.hint_text().map(str::to_owned),
            span: error.place().and_then(|place| place.span),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let kind = ErrorKind::ALL.iter().find(|kind| kind.facts().code == fault.code);
        let error = Error::new(kind.copied().unwrap_or(ErrorKind::Bug), fault.message);
        let error = fault.hint.into_iter().fold(error, |error, hint| error.hint(hint));
        fault.span.into_iter().fold(error, |error, (start, end)| error.span(start, end))
    }
}
