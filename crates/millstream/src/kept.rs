//! A sink that keeps what it is given in memory, for the program that runs the pipeline.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use millstream_core::{
    Batch, Epoch, Last, Outcomes, Result, Sink, SinkCapabilities, SinkPlan, Size, Token, Way, WriteId,
};

/// What is kept, with about how many bytes each item holds. Shared by the sink and whoever reads it.
pub(crate) struct Kept<I>(Arc<Mutex<Shelf<I>>>);

struct Shelf<I> {
    items: VecDeque<(I, usize)>,
    /// How many items came before those that are here.
    before: u64,
    /// How many items count: they belong to an epoch that is decided.
    committed: u64,
    bytes: u64,
    most: Size,
}

impl<I> Clone for Kept<I> {
    fn clone(&self) -> Self {
        Kept(self.0.clone())
    }
}

impl<I> Kept<I> {
    /// Nothing yet, and never more than so many bytes.
    pub(crate) fn at_most(most: Size) -> Self {
        Kept(Arc::new(Mutex::new(Shelf { items: VecDeque::new(), before: 0, committed: 0, bytes: 0, most })))
    }

    pub(crate) fn set_most(&self, most: Size) {
        self.lock().most = most;
    }

    pub(crate) fn most(&self) -> Size {
        self.lock().most
    }

    /// Takes what counts.
    pub(crate) fn take(&self) -> Vec<I> {
        let mut shelf = self.lock();
        let count = usize::try_from(shelf.committed.saturating_sub(shelf.before)).unwrap_or(usize::MAX);
        let taken: Vec<I> = (0..count).map_while(|_| shelf.pop_front()).collect();
        taken
    }

    /// Copies what counts.
    pub(crate) fn copies(&self) -> Vec<I>
    where
        I: Clone,
    {
        let shelf = self.lock();
        let count = usize::try_from(shelf.committed.saturating_sub(shelf.before)).unwrap_or(usize::MAX);
        shelf.items.iter().take(count).map(|(item, _)| item.clone()).collect()
    }

    /// Keeps one more. If there is no room, answers `false` and keeps nothing.
    pub(crate) fn push(&self, item: I, bytes: usize) -> bool {
        let mut shelf = self.lock();
        let fits = shelf.bytes.saturating_add(bytes as u64) <= shelf.most.0;
        if fits {
            shelf.bytes += bytes as u64;
            shelf.items.push_back((item, bytes));
        }
        fits
    }

    /// Keeps one more, and forgets the oldest ones that there is no room for any more.
    pub(crate) fn push_newest(&self, item: I, bytes: usize) {
        let mut shelf = self.lock();
        while shelf.bytes.saturating_add(bytes as u64) > shelf.most.0 && shelf.pop_front().is_some() {}
        shelf.bytes += bytes as u64;
        shelf.items.push_back((item, bytes));
    }

    fn lock(&self) -> MutexGuard<'_, Shelf<I>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I> Shelf<I> {
    fn end(&self) -> u64 {
        self.before + self.items.len() as u64
    }

    fn pop_front(&mut self) -> Option<I> {
        let (item, bytes) = self.items.pop_front()?;
        self.before += 1;
        self.bytes = self.bytes.saturating_sub(bytes as u64);
        Some(item)
    }

    /// Forgets what came behind the first `end` ones. Where the process is another than the one that had them, those before are
    /// gone.
    fn cut(&mut self, end: u64) {
        while self.end() > end
            && let Some((_, bytes)) = self.items.pop_back()
        {
            self.bytes = self.bytes.saturating_sub(bytes as u64);
        }
        if self.items.is_empty() {
            self.before = end;
        }
        self.committed = end;
    }
}

/// Puts the records of a batch into what is kept.
pub(crate) trait Put<I>: Send + Sync + 'static {
    /// An error stops the pipeline.
    fn put(&self, batch: Batch, kept: &Kept<I>) -> Result<()>;
}

impl<I, F: Fn(Batch, &Kept<I>) -> Result<()> + Send + Sync + 'static> Put<I> for F {
    fn put(&self, batch: Batch, kept: &Kept<I>) -> Result<()> {
        self(batch, kept)
    }
}

/// The plan of the sink.
pub(crate) struct Keeping<I> {
    what: &'static str,
    kept: Kept<I>,
    put: Arc<dyn Put<I>>,
}

impl<I> Keeping<I> {
    pub(crate) fn new(what: &'static str, kept: &Kept<I>, put: impl Put<I>) -> Self {
        Keeping { what, kept: kept.clone(), put: Arc::new(put) }
    }
}

impl<I> fmt::Debug for Keeping<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in memory", self.what)
    }
}

impl<I: Send + 'static> SinkPlan for Keeping<I> {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities { way: Way::Truncating, ..SinkCapabilities::VALUES }
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Keeper { kept: self.kept.clone(), put: self.put.clone(), writes: 0 }))
    }
}

struct Keeper<I> {
    kept: Kept<I>,
    put: Arc<dyn Put<I>>,
    writes: WriteId,
}

#[async_trait]
impl<I: Send + 'static> Sink for Keeper<I> {
    async fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        let mark = resume.last().map(|(_, token)| token.read::<u64>()).transpose()?;
        let mut shelf = self.kept.lock();
        // Without a mark nothing of this run counts yet; what an earlier one has kept stays.
        let end = mark.unwrap_or(shelf.committed.max(shelf.before));
        shelf.cut(end);
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        let before = self.kept.lock().end();
        self.put.put(batch, &self.kept).inspect_err(|_| {
            let mut shelf = self.kept.lock();
            let committed = shelf.committed;
            shelf.cut(before.max(committed));
            shelf.committed = committed;
        })?;
        self.writes += 1;
        Ok(self.writes)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        Ok(Outcomes::default())
    }

    async fn prepare(&mut self, _: Epoch, _: Last) -> Result<Option<Token>> {
        let end = self.kept.lock().end();
        Ok(Some(Token::new(&end)?))
    }

    async fn commit(&mut self, token: &Token) -> Result<()> {
        let end: u64 = token.read()?;
        let mut shelf = self.kept.lock();
        shelf.committed = shelf.committed.max(end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(kept: &Kept<u32>, committed: u64) {
        kept.lock().committed = committed;
    }

    #[test]
    fn only_what_counts_is_given_and_the_rest_is_cut_when_it_comes_again() {
        let kept = Kept::at_most(Size(100));
        assert!((0..5).all(|n| kept.push(n, 10)));
        shelf(&kept, 3);
        assert_eq!(kept.copies(), [0, 1, 2]);
        assert_eq!(kept.take(), [0, 1, 2]);
        kept.lock().cut(3);
        assert!(kept.push(7, 90), "what was taken or cut takes no room");
        shelf(&kept, 4);
        assert_eq!((kept.take(), kept.take()), (vec![7], vec![]));
    }

    #[test]
    fn what_is_full_takes_nothing_more_or_forgets_the_oldest() {
        let kept = Kept::at_most(Size(25));
        assert_eq!([kept.push(1, 10), kept.push(2, 10), kept.push(3, 10)], [true, true, false]);
        kept.push_newest(4, 10);
        shelf(&kept, 3);
        assert_eq!(kept.copies(), [2, 4]);
    }
}
