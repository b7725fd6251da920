//! A Kafka cluster as a system of the client API, with its options as types.

use millstream_core::{
    Backend, Error, ErrorKind, PlanContext, Result, Secret, SeekTo, SinkPlan, SourcePlan, parse_options,
};
use rdkafka::{ClientConfig, config::FromClientConfigAndContext};
use serde_json::{Value, json};

use crate::{
    error::failed,
    native_context::NativeContext,
    options::{
        Address, KafkaAuth, KafkaMembership, KafkaSinkOptions, KafkaSourceOptions, KafkaTls, PartitionBy, Properties,
        is_topic, wrong,
    },
    properties::{self, Access},
    sink, source,
};

/// A cluster of Kafka or Redpanda, chosen by type.
///
/// ```
/// use millstream_kafka::{Acks, Isolation, Kafka};
///
/// # fn main() -> millstream_core::Result<()> {
/// let mut kafka = Kafka::at("kafka://localhost:9092")?;
/// kafka.source.isolation = Isolation::ReadUncommitted;
/// kafka.sink.acks = Acks::One;
/// // Streamer::of(kafka)
/// # Ok(())
/// # }
/// ```
///
/// What is not wrapped here is done with librdkafka itself, reached in the same way ([`Kafka::native`]).
#[derive(Clone, Debug)]
pub struct Kafka {
    /// How topics are read. Those that a consumer names come behind the URL; the group is that of each consumer, with what is
    /// said of `membership`.
    pub source: KafkaSourceOptions,
    /// How topics are written. The one that a producer names comes behind the URL.
    pub sink: KafkaSinkOptions,
}

impl Kafka {
    /// The cluster of a URL, `kafka://[user:password@]host:9092[,host:9092...][/topic]`, with all options as they are by default.
    ///
    /// # Errors
    /// It is no such URL.
    pub fn at(url: &str) -> Result<Self> {
        Address::parse(url)?;
        let written = json!({ "url": url });
        Ok(Kafka { source: parse_options(&written)?, sink: parse_options(&written)? })
    }

    /// The properties of librdkafka by which the source reaches the cluster: brokers, TLS, authentication, and those of
    /// `property` that suit any client.
    ///
    /// They hold secrets. A bearer token is not among them: [`Kafka::native`] makes clients that fetch it.
    ///
    /// # Errors
    /// Options that do not fit together.
    pub fn native_config(&self) -> Result<ClientConfig> {
        self.access().map(|access| access.client())
    }

    /// A client of librdkafka for what is not wrapped, such as a
    /// [`BaseConsumer`](rdkafka::consumer::BaseConsumer), `StreamConsumer`, `FutureProducer` or
    /// [`AdminClient`](rdkafka::admin::AdminClient), with these properties besides those of [`Kafka::native_config`].
    ///
    /// ```no_run
    /// use millstream_kafka::{Kafka, NativeContext, rdkafka::admin::AdminClient};
    ///
    /// # fn main() -> millstream_core::Result<()> {
    /// let kafka = Kafka::at("kafka://localhost:9092")?;
    /// let admin: AdminClient<NativeContext> = kafka.native(&[])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It connects in the background. A client that logs in by a bearer token fetches it when it is polled.
    ///
    /// # Errors
    /// Options that do not fit together, or properties that librdkafka does not know.
    pub fn native<C: FromClientConfigAndContext<NativeContext>>(&self, properties: &[(&str, &str)]) -> Result<C> {
        let access = self.access()?;
        let mut config = access.client();
        for (name, value) in properties {
            config.set(*name, *value);
        }
        C::from_config_and_context(&config, NativeContext::new(&access))
            .map_err(|error| failed(format!("cannot make a client for {}", access.shown), error))
    }

    fn access(&self) -> Result<Access> {
        let KafkaSourceOptions { url, tls, auth, timeout, property, .. } = &self.source;
        let address = Address::parse(url.expose()).map_err(|error| error.within("url"))?;
        address.validate(tls, auth, *timeout)?;
        property.validate()?;
        properties::source(&self.source, &address).map(|(access, _)| access)
    }
}

/// The URL with topics behind it.
fn with_topics(url: &Secret<String>, topics: &[&str]) -> Result<Secret<String>> {
    if topics.is_empty() {
        return Ok(url.clone());
    }
    if let Some(topic) = topics.iter().find(|topic| !is_topic(topic)) {
        return Err(wrong("url", format!("`{topic}` is no name of a topic"), "use letters, digits, `.`, `_` and `-`"));
    }
    Ok(Secret::new(format!("{}/{}", url.expose().trim_end_matches('/'), topics.join(","))))
}

/// What options keep for themselves when they are written down.
struct Secrets<'a> {
    url: &'a Secret<String>,
    tls: &'a Option<KafkaTls>,
    auth: &'a Option<KafkaAuth>,
    property: &'a Properties,
}

impl Secrets<'_> {
    /// Options as they stand in a file, secrets and all.
    fn spelled_out(&self, options: serde_json::Result<Value>) -> Result<Value> {
        let mut options =
            options.map_err(|error| Error::new(ErrorKind::Bug, "options cannot be written down").caused_by(error))?;
        let mut set = |pointer: &str, secret: Option<&str>| {
            if let (Some(place), Some(secret)) = (options.pointer_mut(pointer), secret) {
                *place = Value::String(secret.to_owned());
            }
        };
        let text = |secret: Option<&Secret<String>>| secret.map(|secret| secret.expose().clone());
        set("/url", Some(self.url.expose()));
        set("/auth/password", text(self.auth.as_ref().and_then(|auth| auth.password.as_ref())).as_deref());
        set("/tls/key_password", text(self.tls.as_ref().and_then(|tls| tls.key_password.as_ref())).as_deref());
        let properties: serde_json::Map<String, Value> =
            self.property.iter().map(|(name, value)| (name.to_string(), Value::from(value.to_string()))).collect();
        if let Some(place) = options.pointer_mut("/property") {
            *place = Value::Object(properties);
        }
        Ok(options)
    }
}

impl Backend for Kafka {
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        let mut options = self.source.clone();
        options.url = with_topics(&options.url, streams)?;
        options.group = group.map(str::to_owned);
        if group.is_none() {
            // What is said of groups is not meant for a consumer of none.
            options.membership = KafkaMembership::default();
        }
        let KafkaSourceOptions { url, tls, auth, property, .. } = &options;
        let written = Secrets { url, tls, auth, property }.spelled_out(serde_json::to_value(&options))?;
        source::plan(&written, &PlanContext::default())
    }

    fn sink(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        let mut options = self.sink.clone();
        let topics: &[&str] = if stream.is_empty() { &[] } else { &[stream] };
        options.url = with_topics(&options.url, topics)?;
        let KafkaSinkOptions { url, tls, auth, property, .. } = &options;
        let written = Secrets { url, tls, auth, property }.spelled_out(serde_json::to_value(&options))?;
        sink::plan(&written, context)
    }

    fn sink_by_shard(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        let mut own = self.clone();
        own.sink.partition = PartitionBy::Origin;
        own.sink(stream, context)
    }

    fn start(&self) -> Option<SeekTo> {
        self.source.start.clone()
    }

    fn describe(&self) -> String {
        Address::parse(self.source.url.expose()).map_or_else(|_| "a Kafka cluster".to_owned(), |address| address.shown)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use millstream_core::{Size, Span};

    use super::*;
    use crate::{Acks, Compression, Isolation, Mechanism, OnMissing};

    #[test]
    fn options_by_type_come_out_as_they_went_in() {
        let mut kafka = Kafka::at("kafka+tls://me:geheim@a:1").unwrap();
        kafka.source.isolation = Isolation::ReadUncommitted;
        kafka.source.on_missing = OnMissing::End;
        kafka.source.discover = Span(Duration::from_millis(1500));
        kafka.source.prefetch = Size(3 << 20);
        kafka.source.start = Some(SeekTo::At(7));
        kafka.source.auth = Some(KafkaAuth {
            mechanism: Some(Mechanism::ScramSha512),
            user: Some("you".to_owned()),
            password: Some(Secret::new("topsecret".to_owned())),
            token: None,
        });
        kafka.source.tls =
            Some(KafkaTls { key_password: Some(Secret::new("key".to_owned())), verify: true, ..KafkaTls::default() });
        kafka.source.property =
            parse_options(&json!({"socket.keepalive.enable": "true", "client": {"rack": "r"}})).unwrap();
        let options = &kafka.source;
        let KafkaSourceOptions { url, tls, auth, property, .. } = options;
        let written = Secrets { url, tls, auth, property }.spelled_out(serde_json::to_value(options)).unwrap();
        assert!(!written.to_string().contains("***"), "{written}");
        let again: KafkaSourceOptions = parse_options(&written).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(options).unwrap());
        assert_eq!(again.auth.unwrap().password.unwrap().expose(), "topsecret");
        assert_eq!(again.tls.unwrap().key_password.unwrap().expose(), "key");
        assert_eq!(again.url.expose(), "kafka+tls://me:geheim@a:1");
        assert!(again.property.iter().eq(options.property.iter()));
        assert!(!format!("{kafka:?} {}", kafka.describe()).contains("geheim"));
    }

    #[test]
    fn a_sink_by_type_is_planned_for_the_topic_of_its_producer() {
        let mut kafka = Kafka::at("kafka://a:1").unwrap();
        kafka.sink.acks = Acks::One;
        kafka.sink.compression = Compression::Lz4;
        kafka.sink.partition = PartitionBy::Number(3);
        let plan = kafka.sink("orders", &PlanContext::default()).unwrap();
        assert_eq!(plan.describe(), "writing kafka://a:1/orders");
        assert!(format!("{plan:?}").contains("Lz4") && format!("{plan:?}").contains("Number(3)"), "{plan:?}");
        let plan = kafka.sink_by_shard("", &PlanContext::default()).unwrap();
        assert!(format!("{plan:?}").contains("Origin"), "{plan:?}");
        let error = kafka.source(&["no topic"], None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Option);
        let member = kafka.source(&["orders", "bills"], Some("team")).unwrap();
        assert!(member.capabilities().groups && member.describe().contains("a:1/orders,bills"), "{member:?}");
    }

    #[test]
    fn the_group_is_that_of_each_consumer() {
        let mut kafka = Kafka::at("kafka://a:1/orders").unwrap();
        kafka.source.group = Some("other".to_owned());
        kafka.source.membership.instance = Some("one".to_owned());
        assert!(!kafka.source(&[], None).unwrap().capabilities().groups);
        let member = kafka.source(&[], Some("team")).unwrap();
        assert!(member.describe().contains("group team"), "{member:?}");
    }
}
