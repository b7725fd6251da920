//! Figures of late: rates and shares need two looks at the same counters.
//!
//! Nobody looks by himself: each look that somebody takes is kept for the next one, whoever takes it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use millstream_runtime::Status;

use crate::report::Totals;

/// Looks that are closer together say little about rates, so that one of them is kept.
const APART_MIN: Duration = Duration::from_millis(500);
/// Rates are those of about this time, where somebody has looked that often.
const OVER: Duration = Duration::from_secs(5);
/// Looks that are kept: `OVER` in steps of at least half of `APART_MIN`, and the ends.
const LOOKS_MAX: usize = 22;

/// What was seen at one moment.
#[derive(Clone, Debug)]
struct Look {
    at: Instant,
    stages: BTreeMap<String, Totals>,
}

/// The newest looks at one pipeline.
#[derive(Debug)]
pub(crate) struct History {
    looks: VecDeque<Look>,
    /// The counters as they were read last; those of the looks never go back.
    last: BTreeMap<String, Totals>,
}

/// Totals now, and at an earlier time.
pub(crate) struct Window {
    pub(crate) over: Duration,
    pub(crate) now: BTreeMap<String, Totals>,
    pub(crate) before: BTreeMap<String, Totals>,
}

impl History {
    pub(crate) fn new(at: Instant) -> Self {
        let first = Look { at, stages: BTreeMap::new() };
        History { looks: VecDeque::from([first]), last: BTreeMap::new() }
    }

    /// Takes a look.
    pub(crate) fn look(&mut self, status: &Status, at: Instant) -> Window {
        let mut now = self.looks.back().map(|look| look.stages.clone()).unwrap_or_default();
        for (name, figures) in &status.stages {
            let read = Totals::from(figures);
            let last = self.last.insert(name.clone(), read).unwrap_or_default();
            now.entry(name.clone()).or_default().grow(&last, &read);
        }
        // The newest look is replaced by a later one as long as it is close to the one before it.
        let close = |look: &Look| at.duration_since(look.at) < APART_MIN;
        if self.looks.len() > 1 && self.looks.iter().rev().nth(1).is_some_and(close) {
            self.looks.pop_back();
        }
        self.looks.push_back(Look { at, stages: now.clone() });
        let old = |look: &Look| at.duration_since(look.at) > OVER;
        while self.looks.len() > LOOKS_MAX || (self.looks.len() > 2 && self.looks.get(1).is_some_and(old)) {
            self.looks.pop_front();
        }
        let before = self.looks.front();
        Window {
            over: before.map_or(Duration::ZERO, |look| at.duration_since(look.at)),
            before: before.map(|look| look.stages.clone()).unwrap_or_default(),
            now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_runtime::{Phase, StageFigures};

    fn status(epoch: u64, records_in: u64, records_out: u64) -> Status {
        let figures = StageFigures { records_in, records_out, ..StageFigures::default() };
        Status {
            phase: Phase::Running,
            stages: BTreeMap::from([("a".to_owned(), figures)]),
            waiting: BTreeMap::new(),
            epoch,
            epochs: epoch,
            epoch_age: None,
            queues: BTreeMap::new(),
            lags: BTreeMap::new(),
            epoch_latency: Duration::ZERO,
            restarts: 0,
        }
    }

    #[test]
    fn the_first_look_is_over_all_the_time_and_later_ones_are_over_seconds() {
        let start = Instant::now();
        let mut history = History::new(start);
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        let window = history.look(&status(1, 100, 100), at(100));
        assert_eq!((window.over, window.now["a"].records_in), (Duration::from_secs(10), 100));
        // Somebody looks ten times a second, and somebody else once: the window stays as it should be.
        for tenth in 101..300 {
            history.look(&status(1, tenth, tenth), at(tenth));
        }
        let window = history.look(&status(1, 400, 400), at(300));
        assert!(window.over >= OVER && window.over <= OVER + 2 * APART_MIN, "{:?}", window.over);
        assert!(history.looks.len() <= LOOKS_MAX);
    }

    #[test]
    fn a_pipeline_that_goes_back_to_its_checkpoint_takes_no_counter_back() {
        let start = Instant::now();
        let mut history = History::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(history.look(&status(1, 1000, 1000), at(1)).now["a"].records_in, 1000);
        assert_eq!(history.look(&status(1, 900, 900), at(2)).now["a"].records_in, 1000);
        assert_eq!(history.look(&status(2, 1000, 1000), at(3)).now["a"].records_in, 1100);
    }
}
