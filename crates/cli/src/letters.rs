//! Dead letters of pipelines that keep no state: each is printed on standard error, and gone.

use async_trait::async_trait;
use millstream::core::{Batch, DeadLetter, Epoch, Outcomes, Result, Sink, SinkCapabilities, SinkPlan, Token, WriteId};

use crate::talk;

/// Bytes of a value that are shown.
const SHOWN_BYTES_MAX: usize = 200;

/// The sink of such letters.
#[derive(Debug)]
pub(crate) struct Printed;

impl SinkPlan for Printed {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities::VALUES
    }

    fn describe(&self) -> String {
        "printed above".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Printer::default()))
    }
}

#[derive(Debug, Default)]
struct Printer {
    writes: WriteId,
}

#[async_trait]
impl Sink for Printer {
    async fn open(&mut self, _: &[(Epoch, Token)]) -> Result<()> {
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        for record in batch.into_bytes().iter() {
            match rmp_serde::from_slice::<DeadLetter>(record.value().unwrap_or_default()) {
                Ok(letter) => talk::say_line(&line(&letter)),
                Err(error) => talk::say_line(&format!("dead: a letter that cannot be read ({error})")),
            }
        }
        self.writes += 1;
        Ok(self.writes - 1)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        Ok(Outcomes::default())
    }
}

/// `dead: stdin/0@17: E_DATA `.total` is missing (filter): {"amount":1}`.
pub(crate) fn line(letter: &DeadLetter) -> String {
    let cause = letter.causes.join(": ");
    let value = letter.record.original.as_ref().or(letter.record.value.as_ref());
    let value = value.map_or("no value".to_owned(), |value| excerpt(value));
    format!("dead: {}: {} {cause} ({}): {value}", letter.record.id(), letter.code, letter.stage)
}

/// The front of a value, fit for a terminal.
pub(crate) fn excerpt(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(&value[..value.len().min(SHOWN_BYTES_MAX)]);
    let mut shown: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if value.len() > SHOWN_BYTES_MAX {
        shown.push_str(&format!("... ({} bytes)", value.len()));
    }
    shown
}
