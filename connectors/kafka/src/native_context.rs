//! The context of clients that programs make themselves.

use millstream_core::Error;
use rdkafka::{
    ClientContext, client::OAuthToken, config::RDKafkaLogLevel, consumer::ConsumerContext, error::KafkaError,
    message::DeliveryResult, producer::ProducerContext,
};

use crate::{context::Context, properties::Access};

/// The context of a client that [`Kafka::native`](crate::Kafka::native) has made: librdkafka's lines go to the program's log
/// (`tracing`), bearer tokens come from where `auth.token` says. Rebalances and deliveries are librdkafka's own business.
pub struct NativeContext(Context);

/// Ten seconds: what is older says nothing of now.
const RECENT: std::time::Duration = std::time::Duration::from_secs(10);

impl NativeContext {
    pub(crate) fn new(access: &Access) -> Self {
        NativeContext(Context::new(access))
    }

    /// The newest trouble with the connection, as an error with a hint; `None`: there was none in the last 10 s.
    pub fn trouble(&self) -> Option<Error> {
        self.0.trouble(RECENT)
    }
}

impl ClientContext for NativeContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.0.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.0.generate_oauth_token(config)
    }
}

impl ConsumerContext for NativeContext {}

impl ProducerContext for NativeContext {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
