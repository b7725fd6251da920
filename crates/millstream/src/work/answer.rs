//! What the handler of a batch answers.

use millstream_core::{Error, ErrorKind, Result};

use crate::{
    failure::{Failure, outcome},
    typed::Data,
};

/// An outcome for each record of a batch, by its index. A record without one has failed: nothing is lost by being forgotten.
///
/// ```
/// use millstream::Outcomes;
///
/// let mut outcomes = Outcomes::new();
/// outcomes.ok(0, "inserted");
/// outcomes.fail(2, "duplicate key");
/// // Record 1 has no answer: it fails, and its error rule decides.
/// ```
#[derive(Debug)]
pub struct Outcomes<U>(Vec<Option<Result<U>>>);

impl<U> Default for Outcomes<U> {
    fn default() -> Self {
        Outcomes(Vec::new())
    }
}

impl<U> Outcomes<U> {
    /// No outcomes yet.
    pub fn new() -> Self {
        Outcomes::default()
    }

    /// The record at `index` came to `value`.
    pub fn ok(&mut self, index: usize, value: U) {
        self.set(index, Ok(value));
    }

    /// The record at `index` failed.
    pub fn fail(&mut self, index: usize, error: impl Failure) {
        self.set(index, Err(error.into_error()));
    }

    /// The last word on a record counts.
    pub(crate) fn set(&mut self, index: usize, outcome: Result<U>) {
        // An index beyond any batch is no record: it is left out, rather than that memory is taken for it.
        if index >= 1 << 24 {
            tracing::warn!(index, "an outcome for a record that cannot be is left out");
            return;
        }
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Some(outcome);
        }
    }

    /// One for each of so many records.
    pub(crate) fn complete(self, records: usize) -> impl Iterator<Item = Result<U>> {
        let silent = || Err(Error::new(ErrorKind::Data, "the handler gave no answer for this record"));
        let answers = self.0.into_iter().map(move |answer| answer.unwrap_or_else(silent));
        answers.chain(std::iter::repeat_with(silent)).take(records)
    }
}

impl<U, E: Failure> FromIterator<std::result::Result<U, E>> for Outcomes<U> {
    fn from_iter<I: IntoIterator<Item = std::result::Result<U, E>>>(outcomes: I) -> Self {
        Outcomes(outcomes.into_iter().map(|result| Some(outcome(result))).collect())
    }
}

/// What a batch handler can answer: [`Outcomes`]; a list of results, one for each record in order; `()`, when all of them are
/// done; or a `Result` of one of these, whose error is that of every record.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no answer of a handler",
    note = "it can be `()`, `Outcomes<U>` or `Vec<Result<U, E>>`, or a `Result` of one of them"
)]
pub trait Answer {
    /// What the records come to.
    type Value: Data;

    /// The outcomes of so many records, or the one error of all.
    fn outcomes(self, records: usize) -> Result<Outcomes<Self::Value>>;
}

impl Answer for () {
    type Value = ();

    fn outcomes(self, records: usize) -> Result<Outcomes<()>> {
        Ok(Outcomes((0..records).map(|_| Some(Ok(()))).collect()))
    }
}

impl<U: Data> Answer for Outcomes<U> {
    type Value = U;

    fn outcomes(self, _: usize) -> Result<Outcomes<U>> {
        Ok(self)
    }
}

impl<U: Data, E: Failure> Answer for Vec<std::result::Result<U, E>> {
    type Value = U;

    fn outcomes(self, _: usize) -> Result<Outcomes<U>> {
        Ok(self.into_iter().collect())
    }
}

impl<A: Answer, E: Failure> Answer for std::result::Result<A, E> {
    type Value = A::Value;

    fn outcomes(self, records: usize) -> Result<Outcomes<A::Value>> {
        outcome(self)?.outcomes(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_without_an_answer_has_failed() {
        let mut outcomes = Outcomes::new();
        outcomes.ok(0, 'a');
        outcomes.fail(2, "no");
        outcomes.ok(usize::MAX, 'x');
        let all: Vec<_> = outcomes.complete(4).map(|outcome| outcome.map_err(|e| e.message().to_owned())).collect();
        let silent = Err("the handler gave no answer for this record".to_owned());
        assert_eq!(all, [Ok('a'), silent.clone(), Err("no".to_owned()), silent]);
        let answered: Result<(), Error> = Ok(());
        assert_eq!(answered.outcomes(3).unwrap().complete(3).filter(Result::is_ok).count(), 3);
    }
}
