//! From options to a sink, without connecting.

use std::sync::Arc;

use millstream_core::{PlanContext, Result, Sink, SinkCapabilities, SinkPlan, Way, parse_options};
use serde_json::Value;

use super::{RedisSink, encode::Encoder};
use crate::{
    options::RedisSinkOptions,
    server::{Server, spelled_out},
};

/// Redis' own limit for one value (`proto-max-bulk-len`).
const RECORD_BYTES_MAX: u64 = 512 << 20;

/// A sink as planned.
#[derive(Debug)]
struct RedisSinkPlan {
    options: RedisSinkOptions,
    server: Arc<Server>,
}

/// Plans a sink.
pub(crate) fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    let options: RedisSinkOptions = parse_options(&spelled_out(options)?)?;
    options.validate()?;
    let server = Arc::new(Server::of_sink(&options)?);
    Encoder::new(&options)?;
    Ok(Box::new(RedisSinkPlan { options, server }))
}

impl SinkPlan for RedisSinkPlan {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            way: Way::None,
            per_record: true,
            sequences: true,
            keys: true,
            headers: true,
            tombstones: true,
            times: true,
            record_bytes_max: Some(RECORD_BYTES_MAX),
        }
    }

    fn describe(&self) -> String {
        format!("writing to {} of {}", self.options.stream.as_deref().unwrap_or_default(), self.server)
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(RedisSink::new(&self.options, self.server.clone())?))
    }
}
