//! Trying again: how long to wait, and how often.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use millstream_core::Error;

/// When something is tried again after an error that can pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Wait before the first new try; doubles with each. Default 1 s: long enough for a restart to make progress.
    pub delay: Duration,
    /// Longest wait. Default 30 s: short enough that somebody who has repaired the system sees it work.
    pub delay_max: Duration,
    /// How many new tries there are in a row before the error is final; `None`: as many as it takes. Default `None`.
    pub attempts_max: Option<u32>,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { delay: Duration::from_secs(1), delay_max: Duration::from_secs(30), attempts_max: None }
    }
}

impl Retry {
    /// The wait before new try number `attempt` (from 1), or `None` if the error is final.
    ///
    /// Between half of the nominal wait and all of it, by chance, so that many clients do not come back at once.
    pub(crate) fn wait(&self, error: &Error, attempt: u32) -> Option<Duration> {
        if !error.facts().retry || self.attempts_max.is_some_and(|most| attempt > most) {
            return None;
        }
        let doubled = self.delay.saturating_mul(1 << (attempt.saturating_sub(1)).min(20));
        let nominal = doubled.min(self.delay_max).max(Duration::from_millis(1));
        // Each `RandomState` has its own keys, which is all the chance that is needed here.
        let chance = RandomState::new().build_hasher().finish() % 1000;
        Some(nominal / 2 + (nominal / 2).mul_f64(chance as f64 / 1000.0))
    }
}

/// An error that is being waited out.
#[derive(Clone, Debug)]
pub struct Retrying {
    /// The newest error.
    pub error: Error,
    /// New tries so far, and the one that is waited for.
    pub attempts: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_core::ErrorKind;

    #[test]
    fn waits_double_up_to_a_limit_and_vary() {
        let retry = Retry::default();
        let error = Error::new(ErrorKind::Unavailable, "cannot connect");
        for (attempt, nominal) in [(1, 1.0), (2, 2.0), (3, 4.0), (6, 30.0), (u32::MAX, 30.0)] {
            let wait = retry.wait(&error, attempt).unwrap().as_secs_f64();
            assert!((nominal / 2.0..=nominal).contains(&wait), "{attempt}: {wait}");
        }
        let waits: std::collections::BTreeSet<_> = (0..20).map(|_| retry.wait(&error, 6)).collect();
        assert!(waits.len() > 1);
    }

    #[test]
    fn what_cannot_pass_is_final() {
        let retry = Retry { attempts_max: Some(2), ..Retry::default() };
        assert_eq!(retry.wait(&Error::new(ErrorKind::Permission, "no"), 1), None);
        let error = Error::new(ErrorKind::Timeout, "slow");
        assert!(retry.wait(&error, 2).is_some());
        assert_eq!(retry.wait(&error, 3), None);
    }
}
