//! From one worker of a stage to the workers of the next: by turns to whoever has room, or by key.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
};

use millstream_core::{Batch, GROUPS, group};

use crate::{
    channel::{Gone, Message, Room, Sender},
    metrics::Figure,
    spec::Dispatch,
};

/// Waits for room in one edge.
type Waiting = Pin<Box<dyn Future<Output = Result<Room, Gone>> + Send>>;

/// The edges from one worker to all workers of one reader.
#[derive(Debug)]
pub(crate) struct Link {
    to: Vec<Sender>,
    dispatch: Dispatch,
    /// Whose turn it is; touched once a batch.
    turn: AtomicUsize,
}

/// The worker of `workers` to which the keys of a group belong.
pub(crate) fn worker_of(group: u16, workers: usize) -> usize {
    usize::from(group) * workers / usize::from(GROUPS)
}

impl Link {
    pub(crate) fn new(to: Vec<Sender>, dispatch: Dispatch) -> Self {
        Link { to, dispatch, turn: AtomicUsize::new(0) }
    }

    /// Hands records on, in order for each worker; waits for room, and adds that time to `blocked`.
    pub(crate) async fn send(&self, batch: Batch, blocked: &Figure) -> Result<(), Gone> {
        match (&self.to[..], self.dispatch) {
            ([only], _) => only.send(Message::Batch(batch), blocked).await,
            (_, Dispatch::RoundRobin) => self.in_turn(batch, blocked).await,
            (_, Dispatch::Key) => self.by_key(batch, blocked).await,
        }
    }

    /// A barrier, or the end: to all of them.
    pub(crate) async fn tell(&self, message: impl Fn() -> Message, blocked: &Figure) -> Result<(), Gone> {
        for sender in &self.to {
            sender.send(message(), blocked).await?;
        }
        Ok(())
    }

    async fn in_turn(&self, batch: Batch, blocked: &Figure) -> Result<(), Gone> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let order = || (0..self.to.len()).map(|step| &self.to[(turn + step) % self.to.len()]);
        let mut message = Message::Batch(batch);
        for sender in order() {
            match sender.try_send(message)? {
                None => return Ok(()),
                Some(back) => message = back,
            }
        }
        let since = std::time::Instant::now();
        let mut rooms: Vec<Waiting> = order().map(|sender| Box::pin(sender.room(&message)) as _).collect();
        let room: Room = poll_fn(|context| {
            for room in &mut rooms {
                if let Poll::Ready(room) = room.as_mut().poll(context) {
                    return Poll::Ready(room);
                }
            }
            Poll::Pending
        })
        .await?;
        drop(rooms);
        blocked.add_time(since.elapsed());
        room.send(message);
        Ok(())
    }

    async fn by_key(&self, batch: Batch, blocked: &Figure) -> Result<(), Gone> {
        let (envelope, rows) = batch.envelope();
        let Some(keys) = &envelope.keys else { return self.in_turn(batch, blocked).await };
        let workers = self.to.len();
        let mut picks: Vec<Vec<u32>> = (0..workers).map(|_| Vec::with_capacity(batch.len() / workers * 2)).collect();
        let mut without = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            match keys.get(row) {
                // Below `workers`, because a group is below `GROUPS`.
                Some(key) => picks[worker_of(group(key), workers)].push(i as u32),
                None => without.push(i as u32),
            }
        }
        for (worker, picks) in picks.into_iter().enumerate().filter(|(_, picks)| !picks.is_empty()) {
            self.to[worker].send(Message::Batch(part(&batch, picks)), blocked).await?;
        }
        if without.is_empty() { Ok(()) } else { self.in_turn(part(&batch, without), blocked).await }
    }
}

/// Some records of a batch; a few of them do not keep a large block alive in a queue that counts only them.
fn part(batch: &Batch, picks: Vec<u32>) -> Batch {
    if picks.len() == batch.len() {
        return batch.clone();
    }
    let part = batch.select(picks);
    if part.is_sparse() { part.compact() } else { part }
}
