//! The queue of a channel, in many orders of its steps, by the scheduler of `shuttle`.

#[path = "../../src/channel/queue.rs"]
mod queue;
#[expect(unreachable_pub, reason = "it is public in the library")]
#[path = "../../src/channel/receipt.rs"]
mod receipt;
#[path = "../../src/channel/room.rs"]
mod room;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::Poll,
};

use millstream_core::{BATCH_BYTES_MAX, Epoch, ErrorKind, Result};
use shuttle::{
    check_random,
    future::block_on,
    rand::{Rng, thread_rng},
    thread,
};
use tokio::sync::Notify;

use queue::{Queue, Taken, Weighed, room_of};
use receipt::Receipt;
use room::Room;

/// The lock of `shuttle`, which lets others go on also between its release and what comes then.
pub(crate) mod locks {
    use std::ops::{Deref, DerefMut};

    use shuttle::{sync, thread};

    pub(crate) use std::sync::PoisonError;

    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> sync::LockResult<MutexGuard<'_, T>> {
            let guarded = |guard| MutexGuard(Some(guard));
            self.0.lock().map(guarded).map_err(|poisoned| PoisonError::new(guarded(poisoned.into_inner())))
        }
    }

    pub(crate) struct MutexGuard<'a, T>(Option<sync::MutexGuard<'a, T>>);

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            drop(self.0.take());
            if !std::thread::panicking() {
                thread::yield_now();
            }
        }
    }
}

const ORDERS: usize = 1_500;

const PUSHERS: usize = 3;

/// How often each of them pushes.
const PUSHES: usize = 3;

/// Of this weight an item fills a batch.
const HEAVY: usize = BATCH_BYTES_MAX;

const ROOM: Room = Room { records: 3, bytes: 2 * HEAVY };

/// More than all the room.
const HUGE: usize = 3 * HEAVY;

/// How the queue comes to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Closed when all has been pushed and has counted.
    Whole,
    /// Closed at any moment.
    Closed,
    /// A run is over at any moment, and another one reads.
    Over,
}

/// What is done wrongly on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// A push that gives up keeps the room that it was given.
    KeepsRoom,
    /// The source waits again without looking whether more is there.
    LooksOnce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    pusher: usize,
    nth: usize,
    awaited: bool,
}

/// Items that were pushed together, and what became of it.
struct Push {
    items: Vec<Item>,
    accepted: bool,
    receipt: Option<Receipt>,
    told: Option<Result<Epoch>>,
}

/// What the source was given, and which epochs counted.
#[derive(Default)]
struct Reading {
    items: BTreeMap<Item, u64>,
    taken: u64,
    commits: Vec<Commit>,
    /// How many of them count.
    committed: u64,
    /// How many of them the first run has taken.
    first_run: u64,
}

/// All items below `next` count; `on_time`: and the run was not over before that was said.
struct Commit {
    next: u64,
    epoch: Epoch,
    on_time: bool,
}

/// The end of a run, for the source that reads in it.
#[derive(Default)]
struct Stop {
    begun: AtomicBool,
    stopped: AtomicBool,
    told: Notify,
}

fn roll(sides: usize) -> usize {
    thread_rng().gen_range(0..sides)
}

/// Lets others go on, for a while of any length.
fn dawdle(most: usize) {
    (0..roll(most)).for_each(|_| thread::yield_now());
}

/// Looks a few times whether a future is done, then gives it up.
fn impatient<F: Future>(future: F, wrong: Wrong) -> Option<F::Output> {
    let mut future = Box::pin(future);
    for _ in 0..=roll(3) {
        if let Poll::Ready(done) = block_on(poll_fn(|context| Poll::Ready(future.as_mut().poll(context)))) {
            return Some(done);
        }
        thread::yield_now();
    }
    if wrong == Wrong::KeepsRoom {
        std::mem::forget(future);
    }
    None
}

/// Pushes some items in any of the ways.
fn push(queue: &Arc<Queue<Item>>, pusher: usize, first: usize, wrong: Wrong) -> Push {
    let (answer, receipt) = if roll(2) == 0 { Some(Receipt::new()) } else { None }.unzip();
    let weights: &[usize] = [&[1][..], &[HEAVY], &[HUGE], &[HEAVY, HEAVY]][roll(4)];
    let items: Vec<_> =
        (first..).take(weights.len()).map(|nth| Item { pusher, nth, awaited: answer.is_some() }).collect();
    let mut weighed: Vec<_> =
        items.iter().zip(weights).map(|(item, bytes)| Weighed { item: *item, bytes: *bytes }).collect();
    let room = room_of(&weighed);
    let done = match roll(3) {
        0 if items.len() == 1 => queue.try_push(weighed.remove(0), answer).map_err(|(error, back)| {
            assert_eq!(back, items[0]);
            error
        }),
        1 => match impatient(queue.push(room, weighed, answer), wrong) {
            Some(done) => done,
            None => return Push { items, accepted: false, receipt: None, told: None },
        },
        _ => block_on(queue.push(room, weighed, answer)),
    };
    if let Err(error) = &done {
        assert!(matches!(error.kind(), ErrorKind::Full | ErrorKind::Closed), "{error}");
    }
    Push { items, accepted: done.is_ok(), receipt: receipt.filter(|_| done.is_ok()), told: None }
}

/// Pushes, and waits for some of the receipts: at once or at the end.
fn pusher(queue: &Arc<Queue<Item>>, pusher: usize, wrong: Wrong) -> Vec<Push> {
    let (mut pushes, mut nth) = (Vec::new(), 0);
    for _ in 0..PUSHES {
        dawdle([1, 1, 40][roll(3)]);
        let mut push = push(queue, pusher, nth, wrong);
        nth += push.items.len();
        match roll(4) {
            0 => push.receipt = None,
            1 => push.told = push.receipt.take().map(block_on),
            _ => {}
        }
        pushes.push(push);
    }
    for push in &mut pushes {
        push.told = push.told.take().or_else(|| push.receipt.take().map(block_on));
    }
    pushes
}

impl Reading {
    /// Reads until the end, or until the run is stopped. What was read counts at the latest when there is no more.
    fn read(&mut self, queue: &Arc<Queue<Item>>, stop: &Stop, wrong: Wrong) {
        while !stop.stopped.load(SeqCst) {
            let used = queue.lock().used;
            assert!(used.is_within(ROOM) || used == Room { records: 1, bytes: HUGE }, "{used:?}");
            match queue.take() {
                Taken::Items { sequence, items, awaited } => {
                    assert_eq!((sequence, awaited), (self.taken + 1, items.iter().any(|item| item.awaited)));
                    for item in items {
                        self.taken += 1;
                        assert_eq!(self.items.insert(item, self.taken), None, "{item:?} comes twice");
                    }
                    assert_eq!(queue.next(), self.taken + 1);
                    if roll(2) == 0 {
                        self.commit(queue, stop);
                    }
                    if wrong == Wrong::LooksOnce {
                        self.commit(queue, stop);
                        block_on(queue.arrived());
                    }
                }
                Taken::Nothing => {
                    self.commit(queue, stop);
                    let mut arrived = pin!(queue.arrived());
                    let mut stopped = pin!(stop.told.notified());
                    let either = poll_fn(|context| match arrived.as_mut().poll(context) {
                        Poll::Pending => stopped.as_mut().poll(context),
                        ready => ready,
                    });
                    if roll(2) == 0 {
                        impatient(either, wrong);
                    } else {
                        block_on(either);
                    }
                }
                Taken::End => return self.commit(queue, stop),
            }
        }
    }

    fn commit(&mut self, queue: &Arc<Queue<Item>>, stop: &Stop) {
        if self.committed < self.taken {
            let (next, epoch) = (self.taken + 1, self.commits.len() as Epoch + 1);
            queue.committed(next, epoch);
            self.commits.push(Commit { next, epoch, on_time: !stop.begun.load(SeqCst) });
            self.committed = self.taken;
        }
    }

    /// What a push was told is what happened.
    fn check(&self, push: &Push, ending: Ending) {
        let taken: Vec<_> = push.items.iter().filter_map(|item| self.items.get(item)).copied().collect();
        let whole = taken.len() == push.items.len();
        if !push.accepted {
            assert!(taken.is_empty(), "{:?} were not pushed", push.items);
            return;
        }
        // A run that is over forgets what was not read and is waited for.
        assert!(whole || ending == Ending::Over && push.items[0].awaited, "{:?} are lost", push.items);
        let commit = self.commits.iter().find(|commit| whole && taken.iter().all(|sequence| *sequence < commit.next));
        match &push.told {
            None => {}
            Some(Ok(epoch)) => assert_eq!(commit.map(|commit| commit.epoch), Some(*epoch), "{:?}", push.items),
            Some(Err(error)) => {
                assert!(ending == Ending::Over && error.kind() == ErrorKind::Closed, "{error}");
                let read = !error.to_string().contains("before it read");
                assert_eq!(read, !taken.is_empty(), "{:?} were told: {error}", push.items);
                let old = taken.iter().all(|sequence| *sequence <= self.first_run);
                assert!(old && !commit.is_some_and(|commit| commit.on_time), "{:?} were told: {error}", push.items);
            }
        }
    }
}

/// Ends it at some moment.
fn end(queue: &Arc<Queue<Item>>, stop: &Stop, ending: Ending) {
    dawdle(100);
    match ending {
        Ending::Whole => {}
        Ending::Closed => queue.close(),
        Ending::Over => {
            let over_first = roll(2) == 0;
            stop.begun.store(true, SeqCst);
            if over_first {
                queue.over();
            }
            stop.stopped.store(true, SeqCst);
            stop.told.notify_one();
            if !over_first {
                queue.over();
            }
        }
    }
}

/// Some who push beside one who reads.
fn model(ending: Ending, wrong: Wrong) {
    let queue = Queue::new(ROOM.records, ROOM.bytes);
    let stop = Arc::new(Stop::default());
    queue.open(None);
    let pushers: Vec<_> = (0..PUSHERS)
        .map(|nth| {
            let queue = queue.clone();
            thread::spawn(move || pusher(&queue, nth, wrong))
        })
        .collect();
    let ender = {
        let (queue, stop) = (queue.clone(), stop.clone());
        thread::spawn(move || end(&queue, &stop, ending))
    };
    let source = {
        let queue = queue.clone();
        thread::spawn(move || {
            let mut reading = Reading::default();
            reading.read(&queue, &stop, wrong);
            ender.join().unwrap();
            if ending == Ending::Over {
                queue.open(None);
                reading.first_run = reading.taken;
                reading.read(&queue, &Stop { begun: true.into(), ..Stop::default() }, wrong);
            }
            queue.over();
            reading
        })
    };
    let mut pushes: Vec<_> = pushers.into_iter().flat_map(|pusher| pusher.join().unwrap()).collect();
    // The last one gets in when nobody else has room, and is waited for: closing wakes the source, and must not be what does.
    let item = Item { pusher: PUSHERS, nth: 0, awaited: true };
    let (answer, receipt) = Receipt::new();
    let weighed = [Weighed { item, bytes: HUGE }];
    let accepted = block_on(queue.push(room_of(&weighed), weighed, Some(answer))).is_ok();
    let told = accepted.then(|| block_on(receipt));
    pushes.push(Push { items: vec![item], accepted, receipt: None, told });
    queue.close();
    let reading = source.join().unwrap();
    pushes.iter().for_each(|push| reading.check(push, ending));
    let pushed: BTreeSet<_> = pushes.iter().flat_map(|push| &push.items).collect();
    assert!(reading.items.keys().all(|item| pushed.contains(item)));
    // By pusher, and in the order in which it has pushed.
    let in_order = |((a, first), (b, second)): ((&Item, &u64), (&Item, &u64))| a.pusher < b.pusher || first < second;
    assert!(reading.items.iter().zip(reading.items.iter().skip(1)).all(in_order), "{:?}", reading.items);
    assert_eq!(queue.lock().used, Room::default());
    assert_eq!(queue.lag().records, Some(0));
}

#[test]
fn what_is_pushed_is_read_once_and_in_order_and_nobody_waits_for_ever() {
    check_random(|| model(Ending::Whole, Wrong::Nothing), ORDERS);
}

#[test]
fn who_is_at_a_queue_that_is_closed_gets_what_was_accepted_or_is_told() {
    check_random(|| model(Ending::Closed, Wrong::Nothing), ORDERS);
}

#[test]
fn who_is_at_a_queue_whose_run_is_over_is_told_so_and_the_next_run_reads_the_rest() {
    check_random(|| model(Ending::Over, Wrong::Nothing), ORDERS);
}

/// That the model can find room that is lost,
#[test]
#[should_panic(expected = "deadlock! blocked tasks")]
fn room_that_a_dropped_push_kept_would_be_missed() {
    check_random(|| model(Ending::Whole, Wrong::KeepsRoom), ORDERS);
}

/// and somebody who is not woken.
#[test]
#[should_panic(expected = "deadlock! blocked tasks")]
fn a_source_that_does_not_look_again_before_it_waits_would_sleep_for_ever() {
    check_random(|| model(Ending::Whole, Wrong::LooksOnce), ORDERS);
}
