//! Which physical rows the records of a batch are.

use std::sync::Arc;

/// A list of physical rows: all of a range, or picked one by one. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Rows {
    /// The rows from the first up to the second, exclusive.
    Range(u32, u32),
    /// These rows, in this order; repeats allowed.
    Picked(Arc<Vec<u32>>),
}

impl Rows {
    /// The rows from 0 up to `len`. A batch has far fewer than 2^32.
    pub fn all(len: usize) -> Self {
        Rows::Range(0, u32::try_from(len).unwrap_or(u32::MAX))
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Rows::Range(start, end) => (end - start) as usize,
            Rows::Picked(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The physical row of entry `i`.
    pub fn get(&self, i: usize) -> usize {
        match self {
            Rows::Range(start, _) => *start as usize + i,
            Rows::Picked(rows) => rows[i] as usize,
        }
    }

    /// All physical rows in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let (range, picked) = match self {
            Rows::Range(start, end) => (*start..*end, &[][..]),
            Rows::Picked(rows) => (0..0, rows.as_slice()),
        };
        range.chain(picked.iter().copied()).map(|row| row as usize)
    }

    /// Entries `picks` of this list.
    #[must_use]
    pub fn pick(&self, picks: &Arc<Vec<u32>>) -> Rows {
        match self {
            Rows::Range(0, _) => Rows::Picked(picks.clone()),
            Rows::Range(start, _) => Rows::Picked(Arc::new(picks.iter().map(|i| start + i).collect())),
            Rows::Picked(rows) => Rows::Picked(Arc::new(picks.iter().map(|&i| rows[i as usize]).collect())),
        }
    }

    /// Entries from `start` up to `end`, exclusive.
    #[must_use]
    pub fn slice(&self, start: usize, end: usize) -> Rows {
        match self {
            // Within bounds by the caller's check, so both fit 32 bits.
            Rows::Range(first, _) => Rows::Range(first + start as u32, first + end as u32),
            Rows::Picked(rows) => Rows::Picked(Arc::new(rows[start..end].to_vec())),
        }
    }

    /// Whether these are the rows from 0 up to `len`.
    pub fn is_all(&self, len: usize) -> bool {
        matches!(self, Rows::Range(0, end) if *end as usize == len)
    }

    /// Whether the two are the same list, as far as can be told without comparing entries.
    pub fn same(&self, other: &Rows) -> bool {
        match (self, other) {
            (Rows::Range(a, b), Rows::Range(c, d)) => a == c && b == d,
            (Rows::Picked(a), Rows::Picked(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
