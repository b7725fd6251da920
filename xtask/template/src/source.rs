//! The source `skeleton`.

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use millstream_codec::{CodecOptions, MessageCodec};
use millstream_core::{
    BatchBuilder, Event, Form, PlanContext, Position, Read, Result, Resume, ShardKey, Source, SourceCapabilities,
    SourcePlan, parse_options,
};
use serde_json::Value;

use crate::{
    client::Client,
    error::not_open,
    options::{SkeletonSourceOptions, address},
};

/// A source as planned.
#[derive(Debug)]
struct SkeletonSourcePlan {
    options: SkeletonSourceOptions,
    address: String,
    codec: MessageCodec,
}

/// Plans a source, without I/O.
pub(crate) fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    let options: SkeletonSourceOptions = parse_options(options)?;
    let address = address(&options.url)?;
    let codec = options.codec.clone().map_or_else(|| CodecOptions::named("bytes"), Ok)?;
    let codec = codec.message().map_err(|error| error.within("codec"))?;
    Ok(Box::new(SkeletonSourcePlan { options, address, codec }))
}

impl SourcePlan for SkeletonSourcePlan {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::ONCE
    }

    fn form(&self) -> Form {
        self.codec.form()
    }

    fn describe(&self) -> String {
        format!("reading {}", self.options.url)
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(SkeletonSource {
            options: self.options.clone(),
            address: self.address.clone(),
            codec: self.codec,
            origin: ShardKey::new(self.address.as_str(), 0),
            client: None,
            lines: Bytes::new(),
            sequence: 0,
        }))
    }
}

/// Reads lines. The runtime owns the loop around it, retries and reconnects.
struct SkeletonSource {
    options: SkeletonSourceOptions,
    address: String,
    codec: MessageCodec,
    origin: ShardKey,
    client: Option<Client>,
    /// Whole lines that did not fit into the last batch.
    lines: Bytes,
    /// Of the newest record.
    sequence: u128,
}

#[async_trait]
impl Source for SkeletonSource {
    async fn open(&mut self, _: &Resume) -> Result<()> {
        self.client = Some(Client::connect(&self.address, self.options.timeout).await?);
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        if self.lines.is_empty() {
            // The only await comes before anything is changed: that makes it cancel-safe.
            let client = self.client.as_mut().ok_or_else(not_open)?;
            match client.lines().await? {
                Some(lines) => self.lines = lines,
                None => return Ok(Event::End),
            }
        }
        Ok(Event::Batch(self.cut()))
    }

    fn position(&self) -> Result<Position> {
        Ok(Position::default())
    }
}

impl SkeletonSource {
    /// A batch of the lines that are there; records that are at fault are named beside it.
    fn cut(&mut self) -> Read {
        let (mut builder, mut failed) = (BatchBuilder::new(), Vec::new());
        while !self.lines.is_empty() && !builder.is_full() {
            let end = self.lines.iter().position(|byte| *byte == b'\n').unwrap_or(self.lines.len());
            let value = self.lines.split_to(end);
            self.lines.advance(self.lines.len().min(1));
            if let Err(error) = self.codec.check(&value) {
                failed.push((builder.len() as u32, error));
            }
            self.sequence += 1;
            builder.push_value(&self.origin, self.sequence, None, self.codec.form(), None, Some(&value));
        }
        Read::new(builder.finish(), failed)
    }
}
