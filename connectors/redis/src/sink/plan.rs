//! From options to a sink, without connecting.

use std::sync::{Arc, atomic::AtomicU64};

use millstream_core::{Delivery, Host, PlanContext, Result, Sink, SinkCapabilities, SinkPlan, Way, parse_options};
use serde_json::Value;

use super::{
    RedisSink,
    encode::{Encoder, WORD_BYTES_MAX},
};
use crate::{
    exact::RedisHost,
    options::RedisSinkOptions,
    server::{Server, spelled_out},
};

/// A sink as planned.
#[derive(Debug)]
struct RedisSinkPlan {
    options: RedisSinkOptions,
    server: Arc<Server>,
    exactly_once: bool,
    /// That of all keys, if there is only one.
    slot: Option<u16>,
    /// Bytes of the longest word that the server may take, as records that it refused have shown. Outlives the sinks: with
    /// `exactly_once` such a record spoils its epoch, and the next sink is to refuse it before it is sent.
    word_bytes_max: Arc<AtomicU64>,
}

/// Plans a sink.
pub(crate) fn plan(options: &Value, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    let options: RedisSinkOptions = parse_options(&spelled_out(options)?)?;
    options.validate()?;
    let server = Arc::new(Server::of_sink(&options)?);
    let slot = Encoder::new(&options)?.slot();
    let exactly_once = context.delivery == Delivery::ExactlyOnce;
    let word_bytes_max = Arc::new(AtomicU64::new(WORD_BYTES_MAX));
    Ok(Box::new(RedisSinkPlan { options, server, exactly_once, slot, word_bytes_max }))
}

impl RedisSinkPlan {
    fn way(&self) -> Way {
        match (self.exactly_once, self.server.is_cluster()) {
            // What is written is there.
            (false, _) => Way::None,
            // Also where one slot could host: other sinks may have other slots.
            (true, true) => Way::TwoPhase,
            (true, false) => Way::Hosting,
        }
    }
}

impl SinkPlan for RedisSinkPlan {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            way: self.way(),
            per_record: true,
            // What is staged has no id yet.
            sequences: !self.exactly_once,
            keys: true,
            headers: true,
            tombstones: true,
            times: true,
            record_bytes_max: Some(WORD_BYTES_MAX),
        }
    }

    fn describe(&self) -> String {
        match &self.options.stream {
            Some(stream) => format!("writing to {stream} of {}", self.server),
            None => format!("writing to {}", self.server),
        }
    }

    fn transaction(&self) -> Option<String> {
        self.server.transaction(self.slot)
    }

    fn host(&self) -> Result<Box<dyn Host>> {
        let bytes_max = usize::try_from(self.options.script_bytes.0).unwrap_or(usize::MAX);
        let slot = self.slot.filter(|_| self.server.is_cluster());
        Ok(Box::new(RedisHost::new(self.server.clone(), slot, bytes_max, self.options.wait)))
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        let learned = self.word_bytes_max.clone();
        Ok(Box::new(RedisSink::new(&self.options, self.server.clone(), self.exactly_once, learned)?))
    }
}
