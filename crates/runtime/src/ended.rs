//! What the state knows of a stage that has told its steps of the end of input: what they emit then must come once.

use bytes::Bytes;
use millstream_core::{Change, group};

/// The name under which the ends of a stage's workers are saved.
pub(crate) fn ended_state(stage: &str) -> String {
    format!("{stage}#ended")
}

/// What the checkpoint knows of the end of one worker. Workers can come to the end in different epochs.
#[derive(Debug)]
pub(crate) struct EndMark {
    mine: Bytes,
    saved: bool,
    /// Marks of workers of another number than there are now, for this one to remove.
    old: Vec<Bytes>,
}

impl EndMark {
    /// Of worker `worker` of `of`, by what the state holds.
    pub(crate) fn new(state: &[Change], worker: usize, of: usize) -> Self {
        let saved: Vec<(usize, usize)> = state.iter().filter_map(|change| read(&change.key)).collect();
        // Among another number of workers, all must have come to it: whose keys are here now is not known.
        let all = |&(_, of): &(usize, usize)| saved.iter().filter(|(_, other)| *other == of).count() == of;
        let old = saved.iter().filter(|(other, number)| *number != of && other % of == worker);
        EndMark {
            mine: mark(worker, of),
            saved: saved.contains(&(worker, of)) || saved.iter().any(all),
            old: old.map(|&(other, number)| mark(other, number)).collect(),
        }
    }

    /// Whether the checkpoint says that the steps have been told.
    pub(crate) fn saved(&self) -> bool {
        self.saved
    }

    /// What is to be saved now.
    pub(crate) fn changes(&mut self, ended: bool) -> Vec<Change> {
        if ended == self.saved {
            return Vec::new();
        }
        self.saved = ended;
        let change = |key: Bytes, value| Change { group: group(b""), key, value };
        let old = std::mem::take(&mut self.old).into_iter().map(|key| change(key, None));
        old.chain([change(self.mine.clone(), ended.then(Bytes::new))]).collect()
    }
}

fn mark(worker: usize, of: usize) -> Bytes {
    [(worker as u32).to_be_bytes(), (of as u32).to_be_bytes()].concat().into()
}

fn read(key: &[u8]) -> Option<(usize, usize)> {
    let (worker, of) = key.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*worker) as usize, u32::from_be_bytes(of.try_into().ok()?) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(marks: &[(usize, usize)]) -> Vec<Change> {
        marks.iter().flat_map(|&(worker, of)| EndMark::new(&[], worker, of).changes(true)).collect()
    }

    #[test]
    fn each_worker_has_its_own_end() {
        let state = saved(&[(0, 2)]);
        assert!(EndMark::new(&state, 0, 2).saved() && !EndMark::new(&state, 1, 2).saved());
    }

    #[test]
    fn among_another_number_of_workers_all_must_have_ended() {
        assert!(!EndMark::new(&saved(&[(0, 2)]), 0, 1).saved());
        let state = saved(&[(0, 2), (1, 2)]);
        let mut mark = EndMark::new(&state, 0, 1);
        assert!(mark.saved());
        assert_eq!(mark.changes(false).iter().filter(|change| change.value.is_none()).count(), 3, "all marks go");
    }
}
