//! The way out: many records in one call, to a topic that is looked up once, and all reports of an event together.
//!
//! rdkafka's `BaseProducer` looks the topic up by its name for each record, and makes an `Arc` for each report.

use std::{
    ffi::{CString, c_void},
    iter,
    marker::PhantomData,
    ptr,
    time::Duration,
};

use rdkafka::{
    ClientContext as _,
    bindings::{
        self as rd, rd_kafka_event_t, rd_kafka_message_t, rd_kafka_queue_t, rd_kafka_topic_t, rd_kafka_vtype_t,
    },
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::{DeliveryResult, Producer as _},
};

use super::{Message, set_token, text};
use crate::sink::producer::Producer;

/// A topic as a producer writes to it: looked up once.
pub(crate) struct Topic {
    topic: *mut rd_kafka_topic_t,
    /// Lives longer than the topic: fields are dropped after `drop` has let that go.
    producer: Producer,
}

// SAFETY: librdkafka's topics may be used by any thread.
unsafe impl Send for Topic {}
// SAFETY: as above; each call locks what it needs.
unsafe impl Sync for Topic {}

impl Topic {
    /// The topic of this name. Asks no broker and waits for none.
    pub(crate) fn new(producer: &Producer, name: &str) -> Result<Self, Code> {
        let name = CString::new(name).map_err(|_| Code::InvalidTopic)?;
        // SAFETY: the client lives as long as `producer`; the name ends with a null byte; without a configuration the
        // client's own counts.
        let topic = unsafe { rd::rd_kafka_topic_new(producer.client().native_ptr(), name.as_ptr(), ptr::null_mut()) };
        if topic.is_null() {
            return Err(Code::InvalidTopic);
        }
        Ok(Topic { topic, producer: producer.clone() })
    }

    /// Sends one record; librdkafka copies it. Without a partition its key chooses one; without a time it is now.
    pub(crate) fn send<'a>(
        &self,
        (partition, time, ticket): (Option<i32>, Option<i64>, usize),
        (key, value): (Option<&[u8]>, Option<&[u8]>),
        headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> Result<(), Code> {
        use rd_kafka_vtype_t::*;
        let headers = native_headers(headers);
        let ((key, key_len), (value, len)) = (start_and_len(key), start_and_len(value));
        // SAFETY: client and topic are alive; each tag is followed by what it stands for; key and value are copied; the
        // headers are librdkafka's only where it answers that it took the record.
        let answer = Code::from(unsafe {
            rd::rd_kafka_producev(
                self.producer.client().native_ptr(),
                RD_KAFKA_VTYPE_RKT,
                self.topic,
                RD_KAFKA_VTYPE_PARTITION,
                partition.unwrap_or(ANY),
                RD_KAFKA_VTYPE_MSGFLAGS,
                rd::RD_KAFKA_MSG_F_COPY,
                RD_KAFKA_VTYPE_VALUE,
                value,
                len,
                RD_KAFKA_VTYPE_KEY,
                key,
                key_len,
                RD_KAFKA_VTYPE_OPAQUE,
                ptr::without_provenance_mut::<c_void>(ticket),
                RD_KAFKA_VTYPE_TIMESTAMP,
                time.unwrap_or(0),
                RD_KAFKA_VTYPE_HEADERS,
                headers,
                RD_KAFKA_VTYPE_END,
            )
        });
        if answer == Code::NoError {
            return Ok(());
        }
        if !headers.is_null() {
            // SAFETY: the record was not taken, so the headers are ours still.
            unsafe { rd::rd_kafka_headers_destroy(headers) }
        }
        Err(answer)
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the topic is ours, and is not used after this.
        unsafe { rd::rd_kafka_topic_destroy(self.topic) }
    }
}

/// Headers as librdkafka has them; null where there are none. A name may hold any byte.
fn native_headers<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> *mut rd::rd_kafka_headers_t {
    let mut list: *mut rd::rd_kafka_headers_t = ptr::null_mut();
    for (name, value) in headers {
        let (value, len) = start_and_len(value);
        // SAFETY: the list is null or what was made here; lengths belong to their starts, and fit where slices do; both are
        // copied.
        unsafe {
            if list.is_null() {
                list = rd::rd_kafka_headers_new(8);
            }
            rd::rd_kafka_header_add(list, name.as_ptr().cast(), name.len() as isize, value, len as isize);
        }
    }
    list
}

/// The partition that stands for any.
const ANY: i32 = -1;

fn start_and_len(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((ptr::null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}

/// Records without headers and times that go to a topic in one call. It holds what it was given for `'a`.
pub(crate) struct Run<'a> {
    messages: Vec<rd_kafka_message_t>,
    lent: PhantomData<&'a [u8]>,
}

// SAFETY: the pointers are to bytes that are lent for `'a`, and are only read.
unsafe impl Send for Run<'_> {}

impl<'a> Run<'a> {
    /// With room for so many.
    pub(crate) fn with_capacity(records: usize) -> Self {
        Run { messages: Vec::with_capacity(records), lent: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn push(&mut self, key: Option<&'a [u8]>, value: Option<&'a [u8]>, ticket: usize) {
        let ((key, key_len), (payload, len)) = (start_and_len(key), start_and_len(value));
        self.messages.push(rd_kafka_message_t {
            err: rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
            rkt: ptr::null_mut(),
            partition: ANY,
            payload,
            len,
            key,
            key_len,
            offset: 0,
            _private: ptr::without_provenance_mut(ticket),
        });
    }

    /// Sends all of them, which librdkafka copies, and is empty again. Says which were not taken, by ticket and bytes; after
    /// one for which the queue was full none is.
    pub(crate) fn send(&mut self, topic: &Topic, partition: Option<i32>) -> Vec<(usize, usize, Code)> {
        let count = i32::try_from(self.messages.len()).unwrap_or(i32::MAX);
        // SAFETY: the topic is alive, and with it its client; there are `count` messages, whose bytes are lent for `'a` and
        // are copied before the call returns. The flag for a partition of each message is not used: where such a one is not
        // there, librdkafka 2.12 forgets the record, and counts it for ever.
        let taken = unsafe {
            rd::rd_kafka_produce_batch(
                topic.topic,
                partition.unwrap_or(ANY),
                rd::RD_KAFKA_MSG_F_COPY,
                self.messages.as_mut_ptr(),
                count,
            )
        };
        let mut left = Vec::new();
        if taken != count {
            let refused = self.messages.iter().map(|message| (message, Code::from(message.err)));
            let refused = refused.filter(|(_, code)| *code != Code::NoError);
            left.extend(refused.map(|(message, code)| {
                let (ticket, bytes) = Message(message).ticket();
                (ticket, bytes, code)
            }));
        }
        self.messages.clear();
        left
    }
}

/// What a producer says: reports of its records, and trouble with its connection.
pub(crate) struct Reports {
    queue: *mut rd_kafka_queue_t,
    /// Lives longer than the queue: fields are dropped after `drop` has let that go.
    pub(crate) producer: Producer,
}

// SAFETY: librdkafka's queues may be used by any thread.
unsafe impl Send for Reports {}

impl Reports {
    pub(crate) fn of(producer: Producer) -> Self {
        // SAFETY: the client lives as long as `producer`; the reference to its queue is ours to destroy.
        let queue = unsafe { rd::rd_kafka_queue_get_main(producer.client().native_ptr()) };
        Reports { queue, producer }
    }

    /// Takes one event, and waits for it, or until it is woken; whether there was one. The reports in one come to the books together.
    pub(crate) fn take(&self, wait: Duration) -> bool {
        let context = self.producer.context();
        context.contact.keep(self.producer.client());
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is alive; the event is null or ours to destroy, which `Event` does.
        let event = Event(unsafe { rd::rd_kafka_queue_poll(self.queue, wait) });
        // SAFETY: the event is alive, or null, which is of no type.
        match unsafe { rd::rd_kafka_event_type(event.0) } {
            rd::RD_KAFKA_EVENT_DR => {
                // SAFETY: the event is alive, and its messages with it; after the last the answer is null.
                let next = || unsafe { rd::rd_kafka_event_message_next(event.0).as_ref() };
                context.ledgers.settle(iter::from_fn(next).map(Message));
            }
            rd::RD_KAFKA_EVENT_ERROR => {
                // SAFETY: the event is alive, and is an error.
                let (code, reason) =
                    unsafe { (rd::rd_kafka_event_error(event.0), text(rd::rd_kafka_event_error_string(event.0))) };
                context.error(KafkaError::Global(code.into()), reason.trim());
            }
            rd::RD_KAFKA_EVENT_LOG => {
                let (mut facility, mut line, mut level) = (ptr::null(), ptr::null(), 0);
                // SAFETY: the event is alive, and is a line of the log; the three are written where the answer is 0.
                unsafe {
                    if rd::rd_kafka_event_log(event.0, &mut facility, &mut line, &mut level) == 0 {
                        context.log(level_of(level), text(facility).trim(), text(line).trim());
                    }
                }
            }
            rd::RD_KAFKA_EVENT_OAUTHBEARER_TOKEN_REFRESH => self.refresh_token(),
            _ => {}
        }
        !event.0.is_null()
    }

    /// For a millisecond no record waits for others: what can go is sent. Returns sooner where nothing is left.
    pub(crate) fn hurry(&self) {
        // SAFETY: the client is alive. What it answers is only whether all was reported in time.
        unsafe { rd::rd_kafka_flush(self.producer.client().native_ptr(), 1) };
    }

    fn refresh_token(&self) {
        let client = self.producer.client();
        let failed = match self.producer.context().generate_oauth_token(None) {
            Ok(token) if set_token(client, &token) => return,
            Ok(_) => "the token cannot be used".to_owned(),
            Err(error) => error.to_string(),
        };
        let failed = CString::new(failed).unwrap_or_default();
        // SAFETY: the client is alive, and the text ends with a null byte.
        unsafe { rd::rd_kafka_oauthbearer_set_token_failure(client.native_ptr(), failed.as_ptr()) };
    }
}

/// Wakes whoever waits for a producer's reports, or keeps him from waiting the next time.
pub(crate) fn wake(producer: &Producer) {
    // SAFETY: the client is alive; the reference to its queue is ours to destroy, and is not used after that.
    unsafe {
        let queue = rd::rd_kafka_queue_get_main(producer.client().native_ptr());
        rd::rd_kafka_queue_yield(queue);
        rd::rd_kafka_queue_destroy(queue);
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        // SAFETY: the reference to the queue is ours, and is not used after this.
        unsafe { rd::rd_kafka_queue_destroy(self.queue) }
    }
}

/// An event of a queue, or null.
struct Event(*mut rd_kafka_event_t);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is ours, and is not used after this; null is let be.
        unsafe { rd::rd_kafka_event_destroy(self.0) }
    }
}

/// As syslog numbers them; the rest is for those who debug.
fn level_of(level: i32) -> RDKafkaLogLevel {
    match level {
        0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        _ => RDKafkaLogLevel::Info,
    }
}

impl<'a> Message<'a> {
    /// The report of a record that rdkafka has taken.
    pub(crate) fn reported(report: &'a DeliveryResult<'_>) -> Self {
        let (Ok(message) | Err((_, message))) = report;
        // SAFETY: the report holds the message alive.
        Message(unsafe { &*message.ptr() })
    }

    /// Of a report: what the record was sent with, and how many bytes key and value had.
    pub(crate) fn ticket(&self) -> (usize, usize) {
        (self.0._private.addr(), self.0.key_len + self.0.len)
    }
}
