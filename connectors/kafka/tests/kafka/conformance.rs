//! The conformance suite.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use millstream_testkit::{
    conformance::{Able, Making, Setting},
    servers::{Kafka, Listener},
};

fn able() -> Able {
    Able {
        keeps: true,
        shards: true,
        binary: true,
        empty: true,
        value_bytes: 900_000,
        time_step: 1_000_000,
        ends: false,
        fails_over: Some(Duration::from_secs(20)),
    }
}

fn setting_of(kafka: &'static Kafka, bootstrap: &str) -> Setting {
    let mut setting = Setting::new(&format!("kafka://{bootstrap}"), millstream_kafka::components(), able());
    setting.make_stream = Arc::new(move |topic: String, partitions| {
        Box::pin(async move { kafka.create_topic(&topic, partitions as usize, &[]) }) as Making
    });
    setting
}

async fn setting() -> Result<Setting, String> {
    let kafka = Kafka::shared().map_err(|missing| missing.to_string())?;
    Ok(setting_of(kafka, &kafka.bootstrap()))
}

/// A broker behind a proxy that can cut the connections; not shared, because a cut is felt by all.
async fn proxied() -> Result<Setting, String> {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    if KAFKA.get().is_none() {
        let kafka = Kafka::setup().patient().proxied().start().map_err(|missing| missing.to_string())?;
        let _ = KAFKA.set(kafka);
    }
    let kafka = KAFKA.get().ok_or("no broker")?;
    let mut setting = setting_of(kafka, &kafka.bootstrap_of(Listener::Proxied));
    setting.cut = Some(Arc::new(move || kafka.proxy(1).cut()));
    Ok(setting)
}

millstream_testkit::conformance!(setting());

mod behind_a_proxy {
    millstream_testkit::conformance! { super::proxied(); a_cut_connection_is_mended }
}
