//! A producer, and the thread that takes its reports.

use std::{sync::Arc, thread, time::Duration};

use millstream_core::{Error, ErrorKind, Result};
use rdkafka::{ClientConfig, config::FromClientConfigAndContext, producer::BaseProducer};

use crate::{context::Context, error::failed, native::Reports, properties::Access};

/// How long the thread waits for reports, and so at most until it sees that nobody is left.
const TURN: Duration = Duration::from_millis(100);

/// A producer. The thread that takes its reports ends, and lets it go, when nobody else holds it: letting go may block.
pub(crate) type Producer = Arc<BaseProducer<Context>>;

/// Makes a producer and starts its thread.
pub(crate) fn start(access: &Access, config: &ClientConfig, context: Context) -> Result<Producer> {
    let producer = BaseProducer::from_config_and_context(config, context)
        .map_err(|error| failed(format!("cannot make a producer for {}", access.shown), error))?;
    let producer = Arc::new(producer);
    let reports = Reports::of(producer.clone());
    let spawned = thread::Builder::new().name("kafka-reports".to_owned()).spawn(move || {
        while Arc::strong_count(&reports.producer) > 1 {
            reports.take(TURN);
        }
    });
    spawned.map_err(|error| Error::new(ErrorKind::Unavailable, "cannot start a thread").caused_by(error))?;
    Ok(producer)
}
