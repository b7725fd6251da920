//! A producer, and the thread that takes its reports.

use std::{sync::Arc, thread, time::Duration};

use millstream_core::{Error, ErrorKind, Result};
use rdkafka::{ClientConfig, config::FromClientConfigAndContext, producer::BaseProducer};

use crate::{
    context::Context,
    error::failed,
    native::Reports,
    properties::{Access, GATHER_MAX},
};

/// How long the thread waits for reports, and so at most until it sees that nobody is left.
const TURN: Duration = Duration::from_millis(100);

/// Records are to be sent at once, and may not be able to go yet: the client is told again after this.
const AGAIN: Duration = Duration::from_millis(10);

/// A producer. The thread that takes its reports ends, and lets it go, when nobody else holds it: letting go may block.
pub(crate) type Producer = Arc<BaseProducer<Context>>;

/// Makes a producer and starts its thread. If it `gathers`, records wait for others only while some are on their way.
pub(crate) fn start(access: &Access, config: &ClientConfig, context: Context, gathers: bool) -> Result<Producer> {
    let ledgers = context.ledgers.clone();
    let producer = BaseProducer::from_config_and_context(config, context)
        .map_err(|error| failed(format!("cannot make a producer for {}", access.shown), error))?;
    let producer = Arc::new(producer);
    let reports = Reports::of(producer.clone());
    let spawned = thread::Builder::new().name("kafka-reports".to_owned()).spawn(move || {
        let (mut wait, mut hurried) = (TURN, GATHER_MAX);
        while Arc::strong_count(&reports.producer) > 1 {
            if reports.take(wait) {
                // All that have come, before anything that takes time.
                wait = Duration::ZERO;
                continue;
            }
            if ledgers.hurries() {
                hurried = Duration::ZERO;
            }
            // What is older is sent anyway.
            let hurry = gathers && hurried < GATHER_MAX && !ledgers.is_idle();
            wait = if hurry { AGAIN } else { TURN };
            if hurry {
                hurried += AGAIN;
                reports.hurry();
            }
        }
    });
    spawned.map_err(|error| Error::new(ErrorKind::Unavailable, "cannot start a thread").caused_by(error))?;
    Ok(producer)
}
