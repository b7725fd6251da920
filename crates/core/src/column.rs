//! Byte strings of many rows in one buffer.

use std::sync::Arc;

use bytes::Bytes;

use crate::rows::Rows;

/// Where a byte string lies in its column's buffer.
///
/// Arrow's layout has one offset between neighbours, so they must touch. An extent has both ends, so that the rows of a
/// block as it was read (lines between line feeds, payloads between headers) are a column without being copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Extent {
    /// The extent of a row without a byte string: not even an empty one.
    pub const ABSENT: Extent = Extent { start: u32::MAX, end: 0 };

    /// Whether the row has no byte string.
    pub const fn is_absent(self) -> bool {
        self.start > self.end
    }

    /// Length in bytes; 0 if absent.
    pub const fn len(self) -> usize {
        if self.is_absent() { 0 } else { (self.end - self.start) as usize }
    }

    /// Whether it is absent or has no bytes.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// One optional byte string a row, in one shared buffer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Column {
    data: Bytes,
    extents: Arc<Vec<Extent>>,
    /// The values have as many bytes together as the data.
    covered: bool,
}

impl Column {
    /// A column over `data`. Extents that do not lie within `data` read as absent.
    pub fn new(data: Bytes, extents: Vec<Extent>) -> Self {
        Column { data, extents: Arc::new(extents), covered: false }
    }

    /// Stands in [`Column::touching`] for an end that 32 bits do not reach.
    pub(crate) const FAR: usize = u32::MAX as usize - 1;

    /// A column of byte strings that touch, by where each ends, without the rows `except`, which ascend.
    pub(crate) fn touching(data: Bytes, ends: &[u32], except: impl Iterator<Item = usize>) -> Self {
        let mut start = 0;
        let extents = ends.iter().map(|&end| Extent { start: std::mem::replace(&mut start, end), end });
        let mut extents: Vec<Extent> = extents.collect();
        let near = data.len() < Self::FAR;
        if !near {
            extents.iter_mut().filter(|extent| extent.end as usize == Self::FAR).for_each(|far| *far = Extent::ABSENT);
        }
        let (mut except, mut row) = (except.peekable(), 0..);
        let covered = near && except.peek().is_none();
        if except.peek().is_some() {
            extents.retain(|_| except.next_if_eq(&row.next().unwrap_or_default()).is_none());
        }
        Column { covered, ..Column::new(data, extents) }
    }

    /// Bytes of the values of these rows.
    pub fn bytes(&self, rows: &Rows) -> usize {
        if self.covered && rows.is_all(self.len()) {
            return self.data.len();
        }
        let extents = match rows {
            Rows::Range(start, end) => self.extents.get(*start as usize..*end as usize),
            Rows::Picked(_) => None,
        };
        extents.and_then(|extents| self.bytes_inside(extents)).unwrap_or_else(|| {
            let len = |row| self.get(row).map_or(0, <[u8]>::len);
            rows.iter().map(len).sum()
        })
    }

    /// Bytes of extents that all lie within the data; `None` if one does not, or if there are 2 GiB of data.
    fn bytes_inside(&self, extents: &[Extent]) -> Option<usize> {
        let len = i32::try_from(self.data.len()).ok()?;
        // Without a branch, so that several are done at once: one negative number leaves its sign.
        let (mut signs, mut bytes) = (0, 0);
        for extent in extents {
            let (start, end) = (extent.start as i32, extent.end as i32);
            let length = end.wrapping_sub(start);
            signs |= start | end | length | len.wrapping_sub(end);
            bytes += u64::from(length as u32);
        }
        (signs >= 0).then(|| usize::try_from(bytes).ok()).flatten()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// The byte string of a row; `None` if it has none.
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        let extent = self.extents.get(row)?;
        // An absent extent has its start behind its end, which `get` answers with `None`.
        self.data.get(extent.start as usize..extent.end as usize)
    }

    /// The same as [`Column::get`], sharing the buffer.
    pub fn get_bytes(&self, row: usize) -> Option<Bytes> {
        self.get(row).map(|bytes| self.data.slice_ref(bytes))
    }

    /// The whole buffer.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Where each row lies in the buffer.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Bytes of memory that it keeps alive.
    pub fn size(&self) -> usize {
        self.data.len() + 8 * self.extents.len()
    }

    /// A column of the rows asked for, over the same buffer.
    #[must_use]
    pub fn gather(&self, rows: &Rows) -> Column {
        if rows.is_all(self.len()) {
            return self.clone();
        }
        Column::new(self.data.clone(), rows.iter().map(|row| self.extents[row]).collect())
    }

    /// The same rows over a buffer that holds nothing else.
    #[must_use]
    pub fn copied(&self) -> Column {
        let mut builder = ColumnBuilder::default();
        (0..self.len()).for_each(|row| builder.push(self.get(row)));
        builder.finish()
    }
}

/// Builds a [`Column`] by appending.
#[derive(Debug, Default)]
pub struct ColumnBuilder {
    data: Vec<u8>,
    extents: Vec<Extent>,
}

impl ColumnBuilder {
    /// With room for `rows` rows of `bytes` bytes together.
    pub fn with_capacity(rows: usize, bytes: usize) -> Self {
        ColumnBuilder { data: Vec::with_capacity(bytes), extents: Vec::with_capacity(rows) }
    }

    /// Appends a row.
    pub fn push(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.push_with(|data| data.extend_from_slice(bytes)),
            None => self.extents.push(Extent::ABSENT),
        }
    }

    /// Appends a row whose bytes `write` appends to the buffer.
    pub fn push_with<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let start = self.data.len();
        let result = write(&mut self.data);
        self.extents.push(extent(start, self.data.len()));
        result
    }

    /// Appends rows without a byte string until there are `rows`.
    pub fn pad(&mut self, rows: usize) {
        self.extents.resize(rows.max(self.extents.len()), Extent::ABSENT);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Bytes in the buffer.
    pub fn size(&self) -> usize {
        self.data.len()
    }

    /// The column.
    pub fn finish(self) -> Column {
        Column::new(Bytes::from(self.data), self.extents)
    }
}

/// Callers cut batches far below 4 GiB; a row past that reads as absent rather than as somebody else's bytes.
#[inline(always)]
fn extent(start: usize, end: usize) -> Extent {
    if (start | end) > u32::MAX as usize {
        return far();
    }
    Extent { start: start as u32, end: end as u32 }
}

#[cold]
fn far() -> Extent {
    Extent::ABSENT
}

/// A list of headers for each row. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Headers {
    /// Row `i` has the entries from `ends[i - 1]` (0 for the first) up to `ends[i]`.
    ends: Arc<Vec<u32>>,
    names: Column,
    values: Column,
}

impl Headers {
    /// The headers of a row: name, and value if there is one. A name that is no UTF-8 cannot be built.
    pub fn get(&self, row: usize) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        let end = self.ends[row];
        (start..end).map(|i| {
            let name = self.names.get(i as usize).unwrap_or_default();
            (std::str::from_utf8(name).unwrap_or_default(), self.values.get(i as usize))
        })
    }

    /// Bytes of memory that it keeps alive.
    pub fn size(&self) -> usize {
        self.names.size() + self.values.size() + 4 * self.ends.len()
    }

    /// Headers of the rows asked for.
    #[must_use]
    pub fn gather(&self, rows: &Rows) -> Headers {
        let mut builder = HeadersBuilder::default();
        for row in rows.iter() {
            builder.push(self.get(row));
        }
        builder.finish()
    }

    /// The same over buffers that hold nothing else.
    #[must_use]
    pub fn copied(&self) -> Headers {
        Headers { ends: self.ends.clone(), names: self.names.copied(), values: self.values.copied() }
    }
}

/// Builds [`Headers`] by appending.
#[derive(Debug, Default)]
pub struct HeadersBuilder {
    ends: Vec<u32>,
    names: ColumnBuilder,
    values: ColumnBuilder,
}

impl HeadersBuilder {
    /// Appends a row with these headers.
    pub fn push<'a>(&mut self, headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>) {
        for (name, value) in headers {
            self.names.push(Some(name.as_bytes()));
            self.values.push(value);
        }
        self.ends.push(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
    }

    /// Appends rows without headers until there are `rows`.
    pub fn pad(&mut self, rows: usize) {
        while self.ends.len() < rows {
            self.push([]);
        }
    }

    /// The headers.
    pub fn finish(self) -> Headers {
        Headers { ends: Arc::new(self.ends), names: self.names.finish(), values: self.values.finish() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_values_of_the_rows() {
        let data = || Bytes::from_static(b"0123456789");
        let at = |start, end| Extent { start, end };
        let whole = Column::new(data(), vec![at(0, 3), at(3, 3), at(2, 10)]);
        assert_eq!(whole.bytes(&Rows::all(3)), 11);
        assert_eq!(whole.bytes(&Rows::Range(1, 3)), 8);
        assert_eq!(whole.bytes(&Rows::Picked(Arc::new(vec![0, 0, 2]))), 14);
        // What has no value has no bytes: absent ones, and those that do not lie within the data.
        let torn =
            Column::new(data(), vec![at(0, 3), Extent::ABSENT, at(5, 11), at(4, 3), at(0x8000_0000, 0x8000_0001)]);
        assert_eq!(torn.bytes(&Rows::all(5)), 3);
        let touching = Column::touching(data(), &[4, 4, 10], std::iter::empty());
        assert_eq!((touching.bytes(&Rows::all(3)), touching.bytes(&Rows::Range(0, 2))), (10, 4));
        let without = Column::touching(data(), &[4, 7, 10], [1].into_iter());
        assert_eq!((without.bytes(&Rows::all(2)), without.get(1)), (7, Some(&b"789"[..])));
    }
}
