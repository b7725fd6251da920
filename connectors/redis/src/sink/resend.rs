//! What servers say to commands, and what is sent again because of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

use millstream_core::{Error, ErrorKind, Result, WriteId};

use super::{
    RedisSink,
    again::{Again, Time},
    encode::too_large,
    pipe::{Refusals, Said, Until},
};
use crate::{
    client::Request,
    error::{is_of_server, is_passed, is_too_long, refused, unexpected},
    id::EntryId,
    resp::{Commands, Item, Reply},
};

/// Every server takes words of so many bytes: the least that `proto-max-bulk-len` can be. On a longer one it may close the
/// connection, and all that is behind it goes with it.
const WORD_BYTES_SURE: u64 = 1 << 20;

impl RedisSink {
    /// Notes what a server said to one command. An error is about the server and not about the record.
    pub(super) fn answered(&mut self, write: WriteId, row: u32, said: Said) -> Result<()> {
        match said {
            Said::Id(id) => self.writes.delivered(write, row, id),
            Said::Staged(slot) => self.staged.iter_mut().for_each(|staged| staged.landed(slot)),
            Said::Rejected(text, command) => self.rejected(&text, command),
            Said::Refused(text, command) => {
                self.again.push(command);
                if is_of_server(&text) {
                    return Err(refused("write", &self.server, &text));
                }
            }
            Said::Behind(command) => match &mut self.staged {
                None => self.repeat(command),
                // Sent again it would be there twice.
                Some(staged) => {
                    let message = format!("{} has refused a record and taken one behind it", self.server);
                    staged.spoil(&Error::new(ErrorKind::Unavailable, message));
                }
            },
        }
        Ok(())
    }

    /// A server refuses a record: for good, or as it stands.
    fn rejected(&mut self, text: &str, mut command: Again) {
        let error = refused("write", &self.server, text);
        // A server that says it of a shorter one has read something else: a damaged byte.
        if is_too_long(text) && command.exceeds(WORD_BYTES_SURE) {
            let most = command.longest_word().saturating_sub(1);
            self.word_bytes_max.fetch_min(most, Ordering::Relaxed);
            self.encoder.limit_words(most.min(self.encoder.word_bytes_max()));
        }
        match &mut self.staged {
            // It is no fault of the record, and the next ones would fare the same: they wait with it.
            Some(staged) if error.facts().retry => return staged.spoil(&error),
            None if is_passed(text) && command.passed(self.may_be_late) => return self.again.push(command),
            // When its rule gives it again, newer ones may be there.
            None if error.facts().retry => self.may_be_late = self.may_be_late.max(command.half()),
            _ => {}
        }
        self.writes.rejected(command.write, command.row, error);
    }

    /// Sends a command again that an earlier try may have carried out.
    pub(super) fn repeat(&mut self, command: Again) {
        self.writes.repeated(command.write, command.row);
        self.again.push(Again { repeated: true, ..command });
    }

    /// Sends again what was refused or not answered, and what came behind it. Comes before new commands, so that each key keeps
    /// its order; a record that had been written comes twice.
    pub(super) async fn resend(&mut self) -> Result<()> {
        let mut stale = self.router.connected();
        while !self.again.is_empty() {
            // What is still under way may have to be sent again too.
            self.drive(Until::Answered).await;
            self.again.sort_by_key(|again| (again.write, again.row));
            self.refuse_large();
            self.follow().await?;
            let request = |again: &Again| {
                let mut command = Commands::default();
                command.append(&again.bytes, 1);
                Request { slot: again.slot, command }
            };
            let count = together(&self.again);
            let requests: Vec<Request> = self.again.iter().take(count).map(request).collect();
            let replies = match self.router.once(&requests).await {
                Ok(replies) => replies,
                Err(error) => {
                    self.unanswered(count, &error);
                    // A connection that had died in silence is made again once.
                    if std::mem::take(&mut stale) && error.kind() == ErrorKind::Unavailable && self.staged.is_none() {
                        continue;
                    }
                    return Err(error);
                }
            };
            let sent: Vec<Again> = self.again.drain(..count).collect();
            let (mut failed, mut refusals) = (Ok(()), Refusals::default());
            for (command, reply) in sent.into_iter().zip(replies) {
                let answer = match reply.first() {
                    Item::Text(id) => Ok(Some(EntryId::parse(id).ok_or_else(|| unexpected("write", &self.server))?)),
                    Item::Integer(_) => Ok(None),
                    Item::Error(text) => Err(String::from_utf8_lossy(text).into_owned()),
                    _ => return Err(unexpected("write", &self.server)),
                };
                let (write, row) = (command.write, command.row);
                let said = refusals.said(answer, command.slot, || command);
                let answered = self.answered(write, row, said);
                failed = failed.and(answered);
            }
            // Another one may be the master by now.
            failed.inspect_err(|_| self.router.forget())?;
        }
        Ok(())
    }

    /// Refuses what is known by now to be too large.
    fn refuse_large(&mut self) {
        let most = self.encoder.word_bytes_max();
        for large in self.again.extract_if(.., |again| again.exceeds(most)) {
            let error = too_large("a part of the record", large.longest_word(), most);
            self.writes.rejected(large.write, large.row, error);
        }
    }

    /// Nobody knows which of the commands that were sent again, the first ones, were carried out.
    fn unanswered(&mut self, count: usize, error: &Error) {
        self.router.forget();
        match &mut self.staged {
            None => {
                let sent: Vec<Again> = self.again.drain(..count).collect();
                sent.into_iter().for_each(|command| self.repeat(command));
            }
            Some(staged) => staged.spoil(error),
        }
    }

    /// Records whose time has passed get that of the newest entry of their key.
    async fn follow(&mut self) -> Result<()> {
        let late = |again: &&mut Again| again.time == Time::Passed;
        let keys: BTreeSet<Vec<u8>> =
            self.again.iter_mut().filter(late).filter_map(|again| again.key().map(<[u8]>::to_vec)).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let newest = self.newest(keys).await?;
        for again in self.again.iter_mut().filter(late) {
            let half = again.key().and_then(|key| newest.get(key)).copied();
            again.follow(half);
        }
        Ok(())
    }

    /// The first half of the newest id that each of these streams has ever given. Without those that are not there, or of
    /// which we may not ask.
    pub(super) async fn newest(&mut self, keys: BTreeSet<Vec<u8>>) -> Result<BTreeMap<Vec<u8>, u64>> {
        let requests = keys.iter().map(|key| Request::new(key, &[b"XINFO", b"STREAM", key])).collect();
        let replies = self.router.all(requests).await?;
        let newest = keys.into_iter().zip(replies);
        Ok(newest.filter_map(|(key, reply)| Some((key, newest_id(&reply)?.ms))).collect())
    }
}

/// How many of these are sent in one round trip. What may break the connection is alone, so that the error is that of one record.
fn together(again: &[Again]) -> usize {
    let first_large = again.iter().position(|again| again.exceeds(WORD_BYTES_SURE));
    first_large.map_or(again.len(), |at| at.max(1))
}

/// What `XINFO STREAM` says of the newest id.
fn newest_id(reply: &Reply) -> Option<EntryId> {
    let mut cursor = reply.cursor();
    for _ in 0..cursor.array()? / 2 {
        if cursor.text()? == b"last-generated-id" {
            return EntryId::parse(cursor.text()?);
        }
        cursor.skip();
    }
    None
}
