//! What rdkafka has no safe call for, or one that panics on foreign bytes, or one that is slow: the only unsafe code here.
//!
//! - All records of a queue in one call: 3.6 M/s where `BaseConsumer::poll` gives 1.6 M/s, which makes an event, an `Arc`
//!   and two clock readings for each (5 M records of 100 bytes, one partition; `rdkafka_performance` comes to the same 3.6).
//!   Not `rd_kafka_consume_batch_queue`: in librdkafka 2.12 it takes the end of a partition for a record, and the position
//!   that a rebalance goes on from is one too high.
//! - The end of a partition with its topic, which `KafkaError::PartitionEOF` does not name.
//! - Records out, and their reports: `outbox`.
//! - Where partitions end, without waiting for the answer: `ends`.
//! - Brokers for a client that has lost all of them: `brokers`.
//! - A token for an `AdminClient`, which does not ask for one.
//! - Headers whose name is no UTF-8, and metadata of offsets that is none: rdkafka 0.39 panics on both.
//! - Groups as they are since KIP-848: rdkafka's `fetch_group_list` shows those of the protocol `consumer` as dead and empty.
#![allow(unsafe_code)]

mod brokers;
mod ends;
mod outbox;

use std::{
    any::Any,
    ffi::{CStr, CString, c_void},
    panic::{self, AssertUnwindSafe},
    ptr, slice,
    sync::Arc,
    time::Duration,
};

use millstream_core::Timestamp;
use rdkafka::{
    TopicPartitionList,
    bindings::{self as rd, rd_kafka_message_t, rd_kafka_queue_t},
    client::{Client, OAuthToken},
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode as Code,
};

pub(crate) use self::{
    brokers::{add_brokers, has_broker},
    ends::Ends,
    outbox::{Reports, Run, Topic, wake},
};
use crate::context::Context;

type Consumer = BaseConsumer<Context>;

/// Most records of one call: what a batch holds at most.
const TAKE_MAX: usize = 4096;

/// A queue in which the records of chosen partitions come together, apart from the client's events.
pub(crate) struct Inbox {
    queue: *mut rd_kafka_queue_t,
    /// Lives longer than the queue: fields are dropped after `drop` has destroyed it.
    consumer: Arc<Consumer>,
}

// SAFETY: librdkafka's queues may be used by any thread.
unsafe impl Send for Inbox {}

/// One record, or an error of its partition, as long as its handler runs.
pub(crate) struct Message<'a>(&'a rd_kafka_message_t);

impl Inbox {
    pub(crate) fn new(consumer: Arc<Consumer>) -> Self {
        // SAFETY: the client lives as long as `consumer`; a new queue is ours to destroy.
        let queue = unsafe { rd::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Inbox { queue, consumer }
    }

    /// From now on the records of a partition come here. To be called before it is assigned.
    pub(crate) fn redirect(&self, topic: &CStr, partition: i32) {
        // SAFETY: both queues belong to the client, which is alive; what `get_partition` gives is ours to destroy, and
        // forwarding keeps its own reference. A null queue (unknown topic or partition) is left alone.
        unsafe {
            let of_partition =
                rd::rd_kafka_queue_get_partition(self.consumer.client().native_ptr(), topic.as_ptr(), partition);
            if !of_partition.is_null() {
                rd::rd_kafka_queue_forward(of_partition, self.queue);
                rd::rd_kafka_queue_destroy(of_partition);
            }
        }
    }

    /// Gives each record that is there to `each`, in order, up to a batch of them; waits for the first one.
    pub(crate) fn drain<F: FnMut(Message<'_>)>(&mut self, wait: Duration, each: F) {
        let client = self.consumer.client().native_ptr();
        let mut call = Call { each, taken: 0, client, panicked: None };
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is alive; `one::<F>` gets back the `Call<F>` that stands here until the call returns, and is
        // called by this thread only.
        unsafe { rd::rd_kafka_consume_callback_queue(self.queue, wait, Some(one::<F>), (&raw mut call).cast()) };
        if let Some(panicked) = call.panicked {
            std::panic::resume_unwind(panicked);
        }
    }
}

/// What the callback of a drain works on.
struct Call<F> {
    each: F,
    taken: usize,
    client: *mut rd::rd_kafka_t,
    panicked: Option<Box<dyn Any + Send>>,
}

/// Called by librdkafka for each message, which it destroys afterwards.
///
/// # Safety
/// `message` must be alive, and `call` a `Call<F>` that nobody else uses.
unsafe extern "C" fn one<F: FnMut(Message<'_>)>(message: *mut rd_kafka_message_t, call: *mut c_void) {
    // SAFETY: what the caller promises.
    let (message, call) = unsafe { (&*message, &mut *call.cast::<Call<F>>()) };
    call.taken += 1;
    if call.panicked.is_none() {
        let each = &mut call.each;
        // A panic must not go through C.
        call.panicked = panic::catch_unwind(AssertUnwindSafe(|| each(Message(message)))).err();
    }
    if call.taken >= TAKE_MAX || call.panicked.is_some() {
        // SAFETY: the client is alive; this only tells the running call to put the other messages back.
        unsafe { rd::rd_kafka_yield(call.client) }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, and is not used after this.
        unsafe { rd::rd_kafka_queue_destroy(self.queue) }
    }
}

impl<'a> Message<'a> {
    /// What is wrong with its partition, where it is no record.
    pub(crate) fn error(&self) -> Option<Code> {
        (self.0.err != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| Code::from(self.0.err))
    }

    /// Tells topics apart, as long as a partition of each is assigned.
    pub(crate) fn topic_address(&self) -> usize {
        self.0.rkt as usize
    }

    /// Its topic; empty where there is none, as for an error of the whole client.
    pub(crate) fn topic(&self) -> &'a str {
        if self.0.rkt.is_null() {
            return "";
        }
        // SAFETY: the message holds its topic alive, whose name ends with a null byte.
        unsafe { CStr::from_ptr(rd::rd_kafka_topic_name(self.0.rkt)) }.to_str().unwrap_or_default()
    }

    pub(crate) fn partition(&self) -> i32 {
        self.0.partition
    }

    pub(crate) fn offset(&self) -> i64 {
        self.0.offset
    }

    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: key and length belong together, and live as long as the message.
        unsafe { bytes(self.0.key.cast(), self.0.key_len) }
    }

    /// The value; of an error its text.
    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: as for the key.
        unsafe { bytes(self.0.payload.cast(), self.0.len) }
    }

    /// Its time, and whether the broker gave it.
    pub(crate) fn time(&self) -> (Option<Timestamp>, bool) {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, and `kind` is written.
        let ms = unsafe { rd::rd_kafka_message_timestamp(self.0, &mut kind) };
        match kind {
            _ if ms < 0 => (None, false),
            rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE => (None, false),
            rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_CREATE_TIME => (Some(Timestamp::from_millis(ms)), false),
            rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => {
                (Some(Timestamp::from_millis(ms)), true)
            }
        }
    }

    /// Its headers in order: name and value.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive, and keeps its headers alive; they are written only where the answer is no error.
        let found = unsafe { rd::rd_kafka_message_headers(self.0, &mut headers) };
        let found = Code::from(found) == Code::NoError && !headers.is_null();
        (0..).map_while(move |i| {
            if !found {
                return None;
            }
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: as above; past the last header the answer is an error. A name ends with a null byte.
            unsafe {
                let got = rd::rd_kafka_header_get_all(headers, i, &mut name, &mut value, &mut size);
                (Code::from(got) == Code::NoError && !name.is_null())
                    .then(|| (CStr::from_ptr(name).to_bytes(), bytes(value.cast(), size)))
            }
        })
    }
}

/// # Safety
/// `start` must be null, or the start of `len` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *const u8, len: usize) -> Option<&'a [u8]> {
    // SAFETY: what the caller promises.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start, len) })
}

/// The metadata beside each offset of a list, raw; rdkafka's own call panics where it is no UTF-8.
pub(crate) fn metadata(list: &TopicPartitionList) -> Vec<Option<Vec<u8>>> {
    let native = list.ptr();
    // SAFETY: the list is alive and borrowed; it has `cnt` elements, whose metadata is null or `metadata_size` bytes.
    unsafe {
        let (elements, count) = ((*native).elems, usize::try_from((*native).cnt).unwrap_or(0));
        (0..count)
            .map(|i| {
                let element = &*elements.add(i);
                bytes(element.metadata.cast(), element.metadata_size)
                    .filter(|bytes| !bytes.is_empty())
                    .map(<[u8]>::to_vec)
            })
            .collect()
    }
}

/// Gives a bearer token to a client whose wish for one nobody hears: rdkafka's `AdminClient` does not look at its events.
pub(crate) fn set_token(client: &Client<Context>, token: &OAuthToken) -> bool {
    let (Ok(value), Ok(principal)) = (CString::new(token.token.as_str()), CString::new(token.principal_name.as_str()))
    else {
        return false;
    };
    let mut text = [0; 512];
    // SAFETY: the client is alive; both strings end with a null byte; the text has the room that is named.
    let answer = unsafe {
        rd::rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.lifetime_ms,
            principal.as_ptr(),
            ptr::null_mut(),
            0,
            text.as_mut_ptr(),
            text.len(),
        )
    };
    Code::from(answer) == Code::NoError
}

/// The first and the next offset of a partition as the newest answers of its broker said; asks nobody.
pub(crate) fn watermarks(consumer: &Consumer, topic: &str, partition: i32) -> Option<(i64, i64)> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is alive, the name ends with a null byte, and both numbers are written.
    let answer = unsafe {
        rd::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    (Code::from(answer) == Code::NoError && low >= 0 && high >= 0).then_some((low, high))
}

/// The name of this member in its group, once it has one.
pub(crate) fn member_id(client: &Client<Context>) -> Option<String> {
    // SAFETY: the client is alive; what it answers is null or a text that is ours to let go, and is copied before that.
    unsafe {
        let id = rd::rd_kafka_memberid(client.native_ptr());
        let copied = text(id);
        rd::rd_kafka_mem_free(client.native_ptr(), id.cast());
        (!copied.is_empty()).then_some(copied)
    }
}

/// A group of consumers, as its coordinator describes it.
#[derive(Clone, Debug)]
pub(crate) struct GroupDescription {
    pub(crate) name: String,
    /// `Stable`, `Empty`, `Dead`, ...; of a group that is not there `Dead`.
    pub(crate) state: String,
    /// `Classic` or `Consumer`.
    pub(crate) protocol: String,
    pub(crate) assignor: String,
    pub(crate) members: Vec<MemberDescription>,
    /// Why it could not be described.
    pub(crate) error: Option<Code>,
}

/// A member of a group.
#[derive(Clone, Debug)]
pub(crate) struct MemberDescription {
    pub(crate) id: String,
    pub(crate) client: String,
    pub(crate) host: String,
    /// Topic and number of each partition that it has.
    pub(crate) partitions: Vec<(String, i32)>,
}

/// The names of all groups of consumers, and what brokers said that could not list theirs. Blocks for up to `wait`.
pub(crate) fn list_groups(client: &Client<Context>, wait: Duration) -> Result<(Vec<String>, Vec<Code>), Code> {
    let op = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS;
    // SAFETY: `ask` hands over a client, options and a queue that are alive.
    let answer = ask(client, op, wait, |client, options, queue| unsafe {
        rd::rd_kafka_ListConsumerGroups(client, options, queue);
    })?;
    let (mut valid, mut wrong) = (0, 0);
    // SAFETY: the answer is alive while its result is read, and is of the request above, or else the result is null.
    // Each list has as many elements as its count says, all of them alive as long as the answer.
    unsafe {
        let result = rd::rd_kafka_event_ListConsumerGroups_result(answer.0);
        if result.is_null() {
            return Err(Code::Fail);
        }
        let groups = rd::rd_kafka_ListConsumerGroups_result_valid(result, &mut valid);
        let errors = rd::rd_kafka_ListConsumerGroups_result_errors(result, &mut wrong);
        let names = (0..valid).map(|i| text(rd::rd_kafka_ConsumerGroupListing_group_id(*groups.add(i)))).collect();
        let codes = (0..wrong).map(|i| Code::from(rd::rd_kafka_error_code(*errors.add(i)))).collect();
        Ok((names, codes))
    }
}

/// What the coordinators say of these groups. Blocks for up to `wait`.
pub(crate) fn describe_groups(
    client: &Client<Context>,
    names: &[String],
    wait: Duration,
) -> Result<Vec<GroupDescription>, Code> {
    let names: Vec<CString> = names.iter().filter_map(|name| CString::new(name.as_str()).ok()).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let op = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
    // SAFETY: `ask` hands over a client, options and a queue that are alive; the names are, too, and are copied.
    let answer = ask(client, op, wait, |client, options, queue| unsafe {
        rd::rd_kafka_DescribeConsumerGroups(client, pointers.as_mut_ptr(), pointers.len(), options, queue);
    })?;
    let mut count = 0;
    // SAFETY: as in `list_groups`; members are asked for below their count.
    unsafe {
        let result = rd::rd_kafka_event_DescribeConsumerGroups_result(answer.0);
        if result.is_null() {
            return Err(Code::Fail);
        }
        let groups = rd::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        let described = (0..count).map(|i| {
            let group = *groups.add(i);
            let error = rd::rd_kafka_ConsumerGroupDescription_error(group);
            let members = (0..rd::rd_kafka_ConsumerGroupDescription_member_count(group)).map(|i| {
                let member = rd::rd_kafka_ConsumerGroupDescription_member(group, i);
                MemberDescription {
                    id: text(rd::rd_kafka_MemberDescription_consumer_id(member)),
                    client: text(rd::rd_kafka_MemberDescription_client_id(member)),
                    host: text(rd::rd_kafka_MemberDescription_host(member)),
                    partitions: assigned(rd::rd_kafka_MemberDescription_assignment(member)),
                }
            });
            GroupDescription {
                name: text(rd::rd_kafka_ConsumerGroupDescription_group_id(group)),
                state: text(rd::rd_kafka_consumer_group_state_name(rd::rd_kafka_ConsumerGroupDescription_state(group))),
                protocol: text(rd::rd_kafka_consumer_group_type_name(rd::rd_kafka_ConsumerGroupDescription_type(
                    group,
                ))),
                assignor: text(rd::rd_kafka_ConsumerGroupDescription_partition_assignor(group)),
                members: members.collect(),
                error: (!error.is_null()).then(|| Code::from(rd::rd_kafka_error_code(error))),
            }
        });
        Ok(described.collect())
    }
}

/// # Safety
/// `assignment` must be null, or that of a member of an answer that is alive.
unsafe fn assigned(assignment: *const rd::rd_kafka_MemberAssignment_t) -> Vec<(String, i32)> {
    if assignment.is_null() {
        return Vec::new();
    }
    // SAFETY: a list lives as long as its assignment, and has `cnt` elements, each with its topic.
    unsafe {
        let list = rd::rd_kafka_MemberAssignment_partitions(assignment);
        if list.is_null() {
            return Vec::new();
        }
        let (elements, count) = ((*list).elems, usize::try_from((*list).cnt).unwrap_or(0));
        (0..count).map(|i| (text((*elements.add(i)).topic), (*elements.add(i)).partition)).collect()
    }
}

/// The answer to a request of an administrator.
struct Answer(*mut rd::rd_kafka_event_t);

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: the event is ours, and nothing that was read of it is left.
        unsafe { rd::rd_kafka_event_destroy(self.0) }
    }
}

/// Sends a request with its options.
fn request(
    client: &Client<Context>,
    op: rd::rd_kafka_admin_op_t,
    wait: Duration,
    send: impl FnOnce(*mut rd::rd_kafka_t, *mut rd::rd_kafka_AdminOptions_t),
) {
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    let mut reason = [0; 512];
    // SAFETY: the client is alive; the options are made here, and destroyed when nobody uses them any more: the request copies
    // them. The text has the room that is named.
    unsafe {
        let native = client.native_ptr();
        let options = rd::rd_kafka_AdminOptions_new(native, op);
        rd::rd_kafka_AdminOptions_set_request_timeout(options, wait_ms, reason.as_mut_ptr(), reason.len());
        send(native, options);
        rd::rd_kafka_AdminOptions_destroy(options);
    }
}

/// Sends a request, and waits for its answer on a queue of its own.
fn ask(
    client: &Client<Context>,
    op: rd::rd_kafka_admin_op_t,
    wait: Duration,
    send: impl FnOnce(*mut rd::rd_kafka_t, *const rd::rd_kafka_AdminOptions_t, *mut rd_kafka_queue_t),
) -> Result<Answer, Code> {
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive; the queue is made here, and destroyed when nobody uses it any more: the request holds it.
    let event = unsafe {
        let queue = rd::rd_kafka_queue_new(client.native_ptr());
        request(client, op, wait, |native, options| send(native, options, queue));
        let event = rd::rd_kafka_queue_poll(queue, wait_ms);
        rd::rd_kafka_queue_destroy(queue);
        event
    };
    if event.is_null() {
        return Err(Code::OperationTimedOut);
    }
    let answer = Answer(event);
    // SAFETY: the event is alive.
    match Code::from(unsafe { rd::rd_kafka_event_error(answer.0) }) {
        Code::NoError => Ok(answer),
        code => Err(code),
    }
}

/// # Safety
/// `start` must be null, or a text that ends with a null byte and lives for this call.
unsafe fn text(start: *const std::ffi::c_char) -> String {
    if start.is_null() {
        return String::new();
    }
    // SAFETY: what the caller promises.
    unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_is_no_text_is_read_as_it_is() {
        let mut list = TopicPartitionList::new();
        list.add_partition("t", 0).set_metadata("ours");
        list.add_partition("t", 1);
        list.add_partition("t", 2);
        // SAFETY: the third element is there; what is put into it is memory of librdkafka's allocator, which frees it.
        unsafe {
            let element = &mut *(*list.ptr()).elems.add(2);
            element.metadata = rd::rd_kafka_mem_malloc(ptr::null_mut(), 2);
            element.metadata.cast::<[u8; 2]>().write([0xff, 0xfe]);
            element.metadata_size = 2;
        }
        assert_eq!(metadata(&list), [Some(b"ours".to_vec()), None, Some(vec![0xff, 0xfe])]);
    }
}
