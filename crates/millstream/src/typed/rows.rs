//! Passes over the values of a batch.

use std::{
    any::{Any, TypeId},
    panic::{AssertUnwindSafe, catch_unwind},
};

use millstream_core::{Batch, Body, Error, Output, Result, Rows, each_row, panicked};

use super::{Data, Typed};

/// The values of a batch in the order of its records.
pub(crate) enum View<'a, T> {
    /// All of these.
    All(&'a [T]),
    /// These rows of them.
    Picked(&'a [T], &'a [u32]),
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

/// The values of a batch that [`typed`](super::typed) has seen.
pub(crate) fn view<T: Data>(batch: &Batch) -> View<'_, T> {
    let (body, rows) = batch.body();
    let values = match body {
        Body::Parsed(parsed) => parsed.as_any().downcast_ref::<Typed<T>>().map(Typed::rows),
        Body::Bytes(..) => None,
    };
    let values = values.unwrap_or_default();
    match rows {
        Rows::Range(start, end) => View::All(values.get(*start as usize..*end as usize).unwrap_or_default()),
        Rows::Picked(rows) => View::Picked(values, rows),
    }
}

impl<'a, T> View<'a, T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            View::All(values) => values.len(),
            View::Picked(_, rows) => rows.len(),
        }
    }

    pub(crate) fn get(&self, row: usize) -> Option<&'a T> {
        match self {
            View::All(values) => values.get(row),
            View::Picked(values, rows) => rows.get(row).and_then(|&row| values.get(row as usize)),
        }
    }

    /// What `make` makes of each value, inside one catch; with the rows that panicked, which have nothing in the answer.
    ///
    /// The loop is a plain iterator over a slice where it can be, so that it becomes vector instructions: it keeps no count,
    /// because the length of the answer tells which row panicked.
    pub(crate) fn collect<U>(&self, make: impl Fn(&'a T) -> U) -> (Vec<U>, Vec<(u32, Error)>) {
        let mut made = Vec::with_capacity(self.len());
        let mut failed = Vec::new();
        loop {
            let from = made.len() + failed.len();
            let caught = catch_unwind(AssertUnwindSafe(|| match self {
                View::All(values) => {
                    made.extend(values.get(from..).unwrap_or_default().iter().map(&make));
                }
                // Rows of a batch lie within its body.
                View::Picked(values, rows) => {
                    let rows = rows.get(from..).unwrap_or_default();
                    made.extend(rows.iter().map(|&row| make(&values[row as usize])));
                }
            }));
            match caught {
                Ok(()) => return (made, failed),
                Err(panic) => failed.push(((made.len() + failed.len()) as u32, panicked(&*panic))),
            }
        }
    }

    /// Calls `handle` with each row and its value; answers with the rows that failed or panicked.
    pub(crate) fn each(&self, mut handle: impl FnMut(usize, &'a T) -> Result<()>) -> Vec<(u32, Error)> {
        // Both closures add to it, never at once.
        let failed = std::cell::RefCell::new(Vec::new());
        let call = |row: usize| {
            if let Some(value) = self.get(row)
                && let Err(error) = handle(row, value)
            {
                failed.borrow_mut().push((row as u32, error));
            }
        };
        each_row(self.len(), call, |row, error| failed.borrow_mut().push((row as u32, error)));
        failed.into_inner()
    }
}

/// Puts into the place of each value what `make` makes of it, if that has the same type and nobody else sees the values: what
/// was just read is written, and nothing is allocated. Answers with the rows that panicked; those keep their values.
pub(crate) fn replace<T: Data, U: Data>(batch: &mut Batch, make: impl Fn(&T) -> U) -> Option<Vec<(u32, Error)>> {
    // Known when this is compiled.
    if TypeId::of::<T>() != TypeId::of::<U>() {
        return None;
    }
    let (body, Rows::Range(start, end)) = batch.body_mut()? else { return None };
    let values = (body as &mut dyn Any).downcast_mut::<Typed<T>>()?.rows_mut();
    let values = values.get_mut(*start as usize..*end as usize)?;
    let (mut row, mut failed) = (0, Vec::new());
    loop {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            for value in values.get_mut(row..).unwrap_or_default() {
                let mut made = Some(make(value));
                if let Some(made) = (&mut made as &mut dyn Any).downcast_mut().and_then(Option::take) {
                    *value = made;
                }
                row += 1;
            }
        }));
        match caught {
            Ok(()) => return Some(failed),
            Err(panic) => {
                failed.push((row as u32, panicked(&*panic)));
                row += 1;
            }
        }
    }
}

/// Emits the batch with other values: one for each record that did not fail.
pub(crate) fn emit_values<U: Data>(batch: Batch, values: Vec<U>, failed: Vec<(u32, Error)>, out: &mut Output) {
    if let Some(good) = good(batch, failed, out) {
        out.emit(0, good.with_body(Typed::body(values)));
    }
}

/// Emits those records that did not fail.
pub(crate) fn emit_good(batch: Batch, failed: Vec<(u32, Error)>, out: &mut Output) {
    if let Some(good) = good(batch, failed, out) {
        out.emit(0, good);
    }
}

fn good(batch: Batch, failed: Vec<(u32, Error)>, out: &mut Output) -> Option<Batch> {
    if failed.is_empty() { Some(batch) } else { out.fail_rows(&batch, failed) }
}

/// Some of the records; the batch itself if those are all.
pub(crate) fn pick(batch: &Batch, rows: Vec<u32>) -> Batch {
    if rows.len() == batch.len() { batch.clone() } else { batch.select(rows) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_what_was_made_tells_who_panicked() {
        let values = [1u64, 2, 3, 4, 5];
        let (made, failed) = View::All(&values).collect(|value| {
            assert!(*value != 2 && *value != 5, "no");
            value * 10
        });
        assert_eq!((made, failed.iter().map(|(row, _)| *row).collect::<Vec<_>>()), (vec![10, 30, 40], vec![1, 4]));
        let (made, failed) = View::Picked(&values, &[4, 0, 4]).collect(|value| {
            assert_eq!(*value, 1);
        });
        assert_eq!((made.len(), failed.len()), (1, 2));
    }
}
