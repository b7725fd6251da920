//! The sink `skeleton`.

use async_trait::async_trait;
use millstream_core::{
    Batch, Epoch, Error, ErrorKind, Outcomes, PlanContext, Result, Sink, SinkCapabilities, SinkPlan, Token, Way, WriteId,
    parse_options,
};
use serde_json::Value;

use crate::{
    client::Client,
    error::not_open,
    options::{SkeletonSinkOptions, address},
};

/// A sink as planned.
#[derive(Debug)]
struct SkeletonSinkPlan {
    options: SkeletonSinkOptions,
    address: String,
}

/// Plans a sink, without I/O.
pub(crate) fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    let options: SkeletonSinkOptions = parse_options(options)?;
    let address = address(&options.url)?;
    Ok(Box::new(SkeletonSinkPlan { options, address }))
}

impl SinkPlan for SkeletonSinkPlan {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            way: Way::None,
            per_record: true,
            sequences: false,
            keys: false,
            headers: false,
            tombstones: false,
            times: false,
            record_bytes_max: None,
        }
    }

    fn describe(&self) -> String {
        format!("writing to {}", self.options.url)
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        let (options, address) = (self.options.clone(), self.address.clone());
        Ok(Box::new(SkeletonSink { options, address, client: None, writes: 0, outcomes: Outcomes::default() }))
    }
}

/// Writes lines. The runtime owns the loop around it, retries and reconnects.
struct SkeletonSink {
    options: SkeletonSinkOptions,
    address: String,
    client: Option<Client>,
    /// Writes accepted so far.
    writes: WriteId,
    /// Since the last flush.
    outcomes: Outcomes,
}

#[async_trait]
impl Sink for SkeletonSink {
    async fn open(&mut self, _: &[(Epoch, Token)]) -> Result<()> {
        self.client = Some(Client::connect(&self.address, self.options.timeout).await?);
        self.outcomes = Outcomes::default();
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        let client = self.client.as_mut().ok_or_else(not_open)?;
        let (mut lines, mut rejected) = (Vec::with_capacity(batch.size()), Vec::new());
        for (row, record) in batch.into_bytes().iter().enumerate() {
            match record.value().filter(|value| !value.contains(&b'\n')) {
                Some(value) => {
                    lines.extend_from_slice(value);
                    lines.push(b'\n');
                }
                None => rejected.push((self.writes + 1, row as u32, no_line())),
            }
        }
        client.send(&lines).await?;
        self.writes += 1;
        self.outcomes.rejected.append(&mut rejected);
        Ok(self.writes)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        self.client.as_mut().ok_or_else(not_open)?.flush().await?;
        Ok(std::mem::take(&mut self.outcomes))
    }
}

/// A record that is not one line. Only it is refused, not its batch.
fn no_line() -> Error {
    Error::new(ErrorKind::Rejected, "a value that is absent or holds a line feed is no line")
        .hint("leave such records out with a `filter`, or change them with a `map`")
}
