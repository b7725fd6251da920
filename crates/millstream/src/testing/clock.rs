//! Virtual time: tokio's clock stands still until there is nothing to do but to wait, and then jumps to the next timer. The
//! wall clock of the engine goes with it.

use std::{cell::Cell, time::Duration};

use millstream_core::{Error, ErrorKind, Result, Timestamp};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    time::Instant,
};

thread_local! {
    /// A moment on both clocks, and how many tests on this thread go by it.
    static BASE: Cell<Option<(Timestamp, Instant, usize)>> = const { Cell::new(None) };
}

/// Time is virtual on this thread while one of these lives.
#[derive(Debug)]
pub(super) struct VirtualTime(());

impl VirtualTime {
    pub(super) fn begin() -> Result<Self> {
        let flavor = Handle::try_current().map(|handle| handle.runtime_flavor()).map_err(|cause| {
            Error::new(ErrorKind::Unsupported, "a test runs in a tokio runtime")
                .hint("use `#[tokio::test]`")
                .caused_by(cause)
        })?;
        if flavor != RuntimeFlavor::CurrentThread {
            return Err(Error::new(ErrorKind::Unsupported, "time can be virtual only on a runtime of one thread")
                .hint("use `#[tokio::test]` without a flavor, or `.real_time()`"));
        }
        if !is_paused() {
            tokio::time::pause();
        }
        let (wall, at, tests) = BASE.get().unwrap_or_else(|| (Timestamp::now(), Instant::now(), 0));
        BASE.set(Some((wall, at, tests + 1)));
        Timestamp::set_clock(Some(now));
        Ok(VirtualTime(()))
    }
}

impl Drop for VirtualTime {
    fn drop(&mut self) {
        match BASE.get() {
            Some((wall, at, tests)) if tests > 1 => BASE.set(Some((wall, at, tests - 1))),
            _ => {
                BASE.set(None);
                Timestamp::set_clock(None);
            }
        }
    }
}

/// The wall clock, moved on by as much as tokio's.
fn now() -> Timestamp {
    let Some((wall, at, _)) = BASE.get() else { return Timestamp::default() };
    let since = Instant::now().saturating_duration_since(at);
    Timestamp(wall.0.saturating_add(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)))
}

/// Whether tokio's clock stands still: it does not move while the machine's does. To pause it twice is a panic.
fn is_paused() -> bool {
    let (before, began) = (Instant::now(), std::time::Instant::now());
    while began.elapsed() < Duration::from_nanos(1) {}
    Instant::now() == before
}
