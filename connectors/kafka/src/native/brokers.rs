//! Which brokers a client has, and more for it; see `contact` for why.

use std::{ffi::CStr, ptr};

use rdkafka::{bindings as rd, client::Client, error::RDKafkaErrorCode as Code};

use crate::context::Context;

/// Whether a client has a broker that it could ask something now. Waits for nothing; where it has one, that is asked for what is
/// known of the client's own topics.
pub(crate) fn has_broker(client: &Client<Context>) -> bool {
    let mut metadata = ptr::null();
    // SAFETY: the client is alive, and the answer is written; without time to wait there is hardly one, and it is ours to destroy.
    unsafe {
        let answer = rd::rd_kafka_metadata(client.native_ptr(), 0, ptr::null_mut(), &mut metadata, 0);
        if !metadata.is_null() {
            rd::rd_kafka_metadata_destroy(metadata);
        }
        Code::from(answer) != Code::BrokerTransportFailure
    }
}

/// Lets a client know of these servers, `host:port,...`, besides the brokers that it has.
pub(crate) fn add_brokers(client: &Client<Context>, servers: &CStr) {
    // SAFETY: the client is alive, and the text ends with a null byte and is copied.
    let added = unsafe { rd::rd_kafka_brokers_add(client.native_ptr(), servers.as_ptr()) };
    tracing::debug!(added, "a client without brokers goes back to the bootstrap servers");
}
