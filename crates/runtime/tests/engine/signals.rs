//! The atomic parts of the engine's signals, in many orders of their steps, by the scheduler of `shuttle`.

#[path = "../../src/signal.rs"]
mod signal;

use std::sync::Arc;

use shuttle::{
    check_random,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use signal::{Level, Wishes};

const ORDERS: usize = 5_000;

/// Tasks that wish for epochs beside a coordinator that cuts them when it is woken or sees that one is urgent.
fn wishes<W: Send + Sync + 'static>(
    make: fn() -> W,
    urge: fn(&W) -> bool,
    touch: fn(&W) -> bool,
    seen: fn(&W) -> (bool, bool),
    clear: fn(&W),
) {
    // The permit is what `tokio::sync::Notify` keeps until somebody waits.
    let shared = Arc::new((make(), AtomicBool::new(false)));
    let task = |wish: fn(&W) -> bool| {
        let shared = shared.clone();
        thread::spawn(move || {
            for _ in 0..2 {
                if wish(&shared.0) {
                    shared.1.store(true, SeqCst);
                }
            }
        })
    };
    let tasks = [task(urge), task(touch), task(urge)];
    for _ in 0..4 {
        // Woken first, then it looks.
        let woken = shared.1.swap(false, SeqCst);
        let (active, urgent) = seen(&shared.0);
        if urgent || woken && active {
            clear(&shared.0);
        }
        thread::yield_now();
    }
    tasks.into_iter().for_each(|task| task.join().unwrap());
    // Nobody wishes for more: what is left must wake the coordinator, or be seen by it.
    let (active, urgent) = seen(&shared.0);
    assert!(!active || urgent || shared.1.load(SeqCst), "a wish that nobody will look at");
}

#[test]
fn a_wish_for_an_epoch_is_never_overheard() {
    let seen = |wishes: &Wishes| (wishes.is_active(), wishes.is_urgent());
    check_random(move || wishes(Wishes::default, Wishes::urge, Wishes::touch, seen, Wishes::clear), ORDERS);
}

/// Why both wishes are in one atomic; and that the model above can find what it looks for.
#[test]
#[should_panic(expected = "a wish that nobody will look at")]
fn two_flags_that_are_cleared_one_after_the_other_overhear_a_wish() {
    type Flags = (AtomicBool, AtomicBool);
    fn urge((active, urgent): &Flags) -> bool {
        active.store(true, SeqCst);
        !urgent.swap(true, SeqCst)
    }
    fn clear((active, urgent): &Flags) {
        active.store(false, SeqCst);
        urgent.store(false, SeqCst);
    }
    let make = || (AtomicBool::new(false), AtomicBool::new(false));
    let touch = |(active, _): &Flags| !active.load(SeqCst) && !active.swap(true, SeqCst);
    let seen = |(active, urgent): &Flags| (active.load(SeqCst), urgent.load(SeqCst));
    check_random(move || wishes(make, urge, touch, seen, clear), ORDERS);
}

/// Who waits for the level to fall is woken by the one who lets it fall below the bound.
#[test]
fn who_waits_for_room_is_woken() {
    check_random(
        || {
            let level = Arc::new(Level::new(10));
            let woken = Arc::new(AtomicBool::new(false));
            level.rise(12);
            let tasks: Vec<_> = [7, 5]
                .into_iter()
                .map(|by| {
                    let (level, woken) = (level.clone(), woken.clone());
                    thread::spawn(move || {
                        if level.fall(by) {
                            woken.store(true, SeqCst);
                        }
                    })
                })
                .collect();
            let waited = !level.is_open();
            tasks.into_iter().for_each(|task| task.join().unwrap());
            assert!(level.is_open());
            assert!(!waited || woken.load(SeqCst), "it has waited and nobody has woken it");
        },
        ORDERS,
    );
}
