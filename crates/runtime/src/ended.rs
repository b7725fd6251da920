//! What the state knows of a step that has been told of the end of input: what it emits then must come once.
//!
//! Workers come to the end in different epochs, and there may be another number of them when the state is read. So a mark says
//! which worker of how many it was, and with that which groups of keys have been told: what a new worker has of them is not
//! given to its step again, because nothing more will come of it.

use bytes::Bytes;
use millstream_core::{Change, GROUPS, group};

use crate::dispatch::worker_of;

/// The name under which the ends of a step's workers are saved.
pub(crate) fn ended_state(step: &str) -> String {
    format!("{step}#ended")
}

/// What the checkpoint knows of the end of one worker.
#[derive(Debug)]
pub(crate) struct EndMark {
    mine: Bytes,
    /// The first group of which this worker still has to tell, or the first that it has.
    keyless_group: u16,
    /// All groups of this worker have been told.
    told: bool,
    /// Workers, and of how many, that have been told, where this one has not.
    others: Vec<(usize, usize)>,
    /// Marks that are none for this run, for this worker to remove.
    stale: Vec<Bytes>,
}

impl EndMark {
    /// Of worker `worker` of `of`, by what the state holds; `still` says whether an end by the checkpoint is one for this run,
    /// and `keyed` whether each worker has only what is of its groups. Where records go to whoever has room, what one worker
    /// held comes back to another: then only an end of all of them is one.
    pub(crate) fn new(state: &[Change], worker: usize, of: usize, still: bool, keyed: bool) -> Self {
        let marks: Vec<(usize, usize)> = state.iter().filter_map(|change| read(&change.key)).collect();
        let mut own = (0..GROUPS).filter(|&group| worker_of(group, of) == worker);
        let keyless_group = own.clone().next().unwrap_or_default();
        let mut mark =
            EndMark { mine: mark(worker, of), keyless_group, told: false, others: Vec::new(), stale: Vec::new() };
        let all = |&(_, of): &(usize, usize)| (0..of).all(|worker| marks.contains(&(worker, of)));
        if !still || !keyed && !marks.iter().any(all) {
            let stale = marks.iter().filter(|(other, _)| other % of == worker);
            mark.stale = stale.map(|&(other, number)| self::mark(other, number)).collect();
            return mark;
        }
        mark.others = marks;
        match own.find(|&group| !mark.has_told(group)) {
            Some(group) => mark.keyless_group = group,
            None => (mark.told, mark.others) = (!mark.others.is_empty(), Vec::new()),
        }
        mark
    }

    /// Whether the checkpoint says that the step has been told of all that this worker has.
    pub(crate) fn told(&self) -> bool {
        self.told
    }

    /// The group under which the step saves what has no key: one of this worker, and not among those that have been told.
    pub(crate) fn keyless_group(&self) -> u16 {
        self.keyless_group
    }

    /// Whether it has been told of these keys, while there are others of which it has not.
    pub(crate) fn has_told(&self, group: u16) -> bool {
        self.others.iter().any(|&(worker, of)| worker_of(group, of) == worker)
    }

    /// What is to be saved now: whether the step has been told, and nothing waits in it.
    pub(crate) fn changes(&mut self, told: bool) -> Vec<Change> {
        let change = |key: Bytes, value| Change { group: group(b""), key, value };
        let mut changes: Vec<Change> =
            self.stale.drain(..).filter(|key| !told || *key != self.mine).map(|key| change(key, None)).collect();
        if std::mem::replace(&mut self.told, told) != told {
            changes.push(change(self.mine.clone(), told.then(Bytes::new)));
        }
        changes
    }
}

fn mark(worker: usize, of: usize) -> Bytes {
    [(worker as u32).to_be_bytes(), (of as u32).to_be_bytes()].concat().into()
}

/// A mark that is damaged, or of a number of workers that cannot be, is none.
fn read(key: &[u8]) -> Option<(usize, usize)> {
    let (worker, of) = key.split_first_chunk::<4>()?;
    let (worker, of) = (u32::from_be_bytes(*worker) as usize, u32::from_be_bytes(of.try_into().ok()?) as usize);
    (worker < of && of <= usize::from(GROUPS)).then_some((worker, of))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn saved(marks: &[(usize, usize)]) -> Vec<Change> {
        marks.iter().flat_map(|&(worker, of)| EndMark::new(&[], worker, of, true, true).changes(true)).collect()
    }

    fn told(state: &[Change], worker: usize, of: usize) -> bool {
        EndMark::new(state, worker, of, true, true).told()
    }

    #[test]
    fn each_worker_has_its_own_end() {
        let state = saved(&[(0, 2)]);
        assert!(told(&state, 0, 2) && !told(&state, 1, 2));
    }

    #[test]
    fn another_worker_is_told_of_what_those_before_it_have_not_been() {
        let state = saved(&[(1, 2)]);
        assert!(!told(&state, 0, 1) && !told(&state, 1, 3) && told(&state, 2, 3));
        let mixed = EndMark::new(&state, 1, 3, true, true);
        let groups = |told: bool| (0..GROUPS).filter(|group| mixed.has_told(*group) == told).collect::<Vec<_>>();
        assert!(
            groups(false).into_iter().all(|group| group < 512) && groups(true).into_iter().all(|group| group >= 512)
        );
        assert!(told(&saved(&[(0, 2), (1, 2)]), 0, 1));
    }

    #[test]
    fn where_any_worker_has_records_of_any_key_only_an_end_of_all_is_one() {
        let of_any = |marks: &[(usize, usize)], worker, of| EndMark::new(&saved(marks), worker, of, true, false);
        let mut partly = of_any(&[(1, 2)], 1, 2);
        assert!(!partly.told() && !partly.has_told(700));
        assert!(partly.changes(false).iter().all(|change| change.value.is_none() && read(&change.key) == Some((1, 2))));
        assert!(of_any(&[(0, 2), (1, 2)], 0, 3).told() && of_any(&[(0, 1)], 2, 3).told());
    }

    #[test]
    fn marks_of_an_end_that_is_none_for_this_run_are_removed_once() {
        let state = saved(&[(0, 3), (1, 3), (2, 3), (0, 2)]);
        let mut left: BTreeMap<Bytes, ()> = state.iter().map(|change| (change.key.clone(), ())).collect();
        for worker in 0..2 {
            let mut mark = EndMark::new(&state, worker, 2, false, true);
            assert!(!mark.told() && !mark.has_told(7));
            let changes = mark.changes(false);
            assert!(changes.iter().all(|change| change.value.is_none() && left.remove(&change.key).is_some()));
            assert!(mark.changes(false).is_empty());
            assert_eq!(mark.changes(true).len(), 1);
        }
        assert!(left.is_empty());
    }
}
