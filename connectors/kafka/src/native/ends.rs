//! Where partitions end, asked in passing: nobody waits for the answer. What the client knows by itself came with the newest
//! records, and none come while nothing is taken.

use std::{sync::Arc, time::Duration};

use millstream_core::ShardKey;
use rdkafka::{
    TopicPartitionList,
    bindings::{self as rd, rd_kafka_IsolationLevel_t as Level, rd_kafka_queue_t},
    consumer::Consumer as _,
    error::RDKafkaErrorCode as Code,
};

use super::{Answer, Consumer, request, text};
use crate::options::Isolation;

/// Asks where partitions end, one question at a time.
pub(crate) struct Ends {
    /// Where answers come.
    queue: *mut rd_kafka_queue_t,
    asked: bool,
    level: Level,
    /// Lives longer than the queue: fields are dropped after `drop` has destroyed it.
    consumer: Arc<Consumer>,
}

// SAFETY: librdkafka's queues may be used by any thread.
unsafe impl Send for Ends {}

impl Ends {
    /// The ends are those that a reader with this isolation sees.
    pub(crate) fn new(consumer: Arc<Consumer>, isolation: Isolation) -> Self {
        // SAFETY: the client lives as long as `consumer`; a new queue is ours to destroy.
        let queue = unsafe { rd::rd_kafka_queue_new(consumer.client().native_ptr()) };
        let level = match isolation {
            Isolation::ReadCommitted => Level::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
            Isolation::ReadUncommitted => Level::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
        };
        Ends { queue, asked: false, level, consumer }
    }

    /// An answer has not come yet, be it that there is none within the time that was given.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked
    }

    /// Asks for the ends of these partitions, whose offsets are to be `Offset::End`.
    pub(crate) fn ask(&mut self, partitions: &TopicPartitionList, wait: Duration) {
        let op = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
        let level = self.level;
        // SAFETY: `request` hands over a client and options that are alive; the list is copied; the queue is ours. An error
        // of `set_isolation_level` is ours to destroy, which does nothing to none.
        request(self.consumer.client(), op, wait, |client, options| unsafe {
            rd::rd_kafka_error_destroy(rd::rd_kafka_AdminOptions_set_isolation_level(options, level));
            rd::rd_kafka_ListOffsets(client, partitions.ptr(), options, self.queue);
        });
        self.asked = true;
    }

    /// The answer, once it is there: the ends of those partitions that could be asked for.
    pub(crate) fn answer(&mut self) -> Option<Vec<(ShardKey, i64)>> {
        if !self.asked {
            return None;
        }
        // SAFETY: the queue is alive; an event that it gives is ours.
        let event = unsafe { rd::rd_kafka_queue_poll(self.queue, 0) };
        if event.is_null() {
            return None;
        }
        self.asked = false;
        let (answer, mut count) = (Answer(event), 0);
        // SAFETY: the answer is alive while its result is read, and is of the request above, or else the result is null. It has
        // as many elements as its count says, each with a partition, all of them alive as long as the answer.
        unsafe {
            let result = rd::rd_kafka_event_ListOffsets_result(answer.0);
            if result.is_null() || Code::from(rd::rd_kafka_event_error(answer.0)) != Code::NoError {
                return Some(Vec::new());
            }
            let infos = rd::rd_kafka_ListOffsets_result_infos(result, &mut count);
            let ends = (0..count).filter_map(|i| {
                let end = &*rd::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(i));
                let shard = ShardKey::new(text(end.topic), u64::try_from(end.partition).ok()?);
                (Code::from(end.err) == Code::NoError && end.offset >= 0).then_some((shard, end.offset))
            });
            Some(ends.collect())
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, and is not used after this; a request that is under way holds it, too.
        unsafe { rd::rd_kafka_queue_destroy(self.queue) }
    }
}
