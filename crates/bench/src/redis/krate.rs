//! The crate `redis` at the same work.

use anyhow::{Context as _, Result, ensure};
use millstream_testkit::servers::Redis;
use redis::streams::StreamReadReply;

use super::{CALL, INPUT, RECORDS};

pub(super) fn produce(redis: &Redis, value: &[u8]) -> Result<u64> {
    let mut connection = redis::Client::open(redis.url())?.get_connection()?;
    for _ in 0..RECORDS / CALL {
        let mut pipe = redis::pipe();
        for _ in 0..CALL {
            pipe.cmd("XADD").arg("out").arg("*").arg("msg").arg(value);
        }
        let ids: Vec<String> = pipe.query(&mut connection)?;
        ensure!(ids.len() == CALL, "{} of {CALL} records were written", ids.len());
    }
    Ok(RECORDS as u64)
}

pub(super) fn consume(redis: &Redis) -> Result<u64> {
    let mut connection = redis::Client::open(redis.url())?.get_connection()?;
    let (mut after, mut got) = ("0-0".to_owned(), 0);
    while got < RECORDS {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(CALL).arg("STREAMS").arg(INPUT).arg(&after);
        let reply: StreamReadReply = command.query(&mut connection)?;
        let ids = &reply.keys.first().context("no stream")?.ids;
        got += ids.len();
        after.clone_from(&ids.last().context("no entries")?.id);
    }
    Ok(got as u64)
}
