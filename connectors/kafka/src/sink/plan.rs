//! The sink as planned: options checked, nothing opened.

use std::{fmt, sync::Arc};

use millstream_codec::{CodecOptions, MessageCodec};
use millstream_core::{Host, PlanContext, Result, Sink, SinkCapabilities, SinkPlan, Way, parse_options};
use rdkafka::ClientConfig;
use serde_json::Value;

use super::KafkaSink;
use crate::{
    host::KafkaHost,
    options::{Acks, Address, KafkaSinkOptions},
    properties::{self, Access},
};

/// The largest batch where nobody says otherwise: Kafka's own default of `max.message.bytes`.
const BATCH_BYTES: u64 = 1_048_588;

/// What the options come to.
pub(crate) struct Planned {
    pub(crate) options: KafkaSinkOptions,
    pub(crate) address: Address,
    pub(crate) access: Access,
    pub(crate) codec: MessageCodec,
    config: ClientConfig,
}

#[derive(Debug)]
struct KafkaSinkPlan(Arc<Planned>);

/// Plans a sink, without I/O.
pub(crate) fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    let options: KafkaSinkOptions = parse_options(options)?;
    let address = options.validate()?;
    let (access, config) = properties::sink(&options, &address)?;
    let codec = options.codec.clone().map_or_else(|| CodecOptions::named("bytes"), Ok)?;
    let codec = codec.message().map_err(|error| error.within("codec"))?;
    Ok(Box::new(KafkaSinkPlan(Arc::new(Planned { options, address, access, codec, config }))))
}

/// Shows the options: the properties of the client hold secrets.
impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

impl Planned {
    /// The producer's properties, for batches of at most `cap` bytes.
    pub(crate) fn config_of(&self, cap: u64) -> ClientConfig {
        let mut config = self.config.clone();
        config.set("batch.size", cap.min(self.options.batch.bytes.0).max(1).to_string());
        // A record that the topic takes alone may be larger than a batch.
        let largest =
            self.options.record_bytes_max.map_or(BATCH_BYTES, |size| size.0).max(cap).max(self.options.buffer.0);
        config.set("message.max.bytes", largest.clamp(1000, 1_000_000_000).to_string());
        config
    }

    /// Whether records wait for others only while some are on their way.
    pub(crate) fn gathers(&self) -> bool {
        self.options.batch.linger.is_none()
    }

    /// Whether the brokers say which offsets records got.
    pub(crate) fn tells_offsets(&self) -> bool {
        self.options.acks != Acks::None
    }
}

impl SinkPlan for KafkaSinkPlan {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            way: if self.0.options.idempotent() { Way::Hosting } else { Way::None },
            per_record: true,
            sequences: self.0.tells_offsets(),
            keys: true,
            headers: true,
            tombstones: true,
            times: true,
            record_bytes_max: self.0.options.record_bytes_max.map(|size| size.0),
        }
    }

    fn describe(&self) -> String {
        format!("writing {}", self.0.access.shown)
    }

    fn transaction(&self) -> Option<String> {
        self.0.options.idempotent().then(|| self.0.address.cluster())
    }

    fn host(&self) -> Result<Box<dyn Host>> {
        Ok(Box::new(KafkaHost::new(self.0.clone())))
    }

    fn warnings(&self) -> Vec<String> {
        match self.0.options.acks {
            Acks::None => vec!["with `acks: 0` records may be lost without a word".to_owned()],
            Acks::One => vec!["with `acks: 1` records are lost with the leader that alone has them".to_owned()],
            Acks::All => Vec::new(),
        }
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(KafkaSink::new(self.0.clone())))
    }
}
