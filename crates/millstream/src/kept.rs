//! A sink that keeps what it is given in memory, for the program that runs the pipeline.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use millstream_core::{
    Batch, Epoch, Error, ErrorKind, Last, Outcomes, Result, Sink, SinkCapabilities, SinkPlan, Size, Token, Way, WriteId,
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

    /// Takes what counts.
    pub(crate) fn take(&self) -> Vec<I> {
        let mut shelf = self.lock();
        let count = shelf.counted();
        (0..count).map_while(|_| shelf.pop_front()).collect()
    }

    /// Copies what counts.
    pub(crate) fn copies(&self) -> Vec<I>
    where
        I: Clone,
    {
        let shelf = self.lock();
        shelf.items.iter().take(shelf.counted()).map(|(item, _)| item.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Shelf<I>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I> Shelf<I> {
    fn end(&self) -> u64 {
        self.before + self.items.len() as u64
    }

    /// How many of those that are here count.
    fn counted(&self) -> usize {
        usize::try_from(self.committed.saturating_sub(self.before)).unwrap_or(usize::MAX)
    }

    /// Keeps all of these, each with its bytes; nothing of them where that stops the pipeline.
    fn keep(&mut self, items: Vec<(I, usize)>, full: Full) -> Result<()> {
        if full == Full::Stop {
            let bytes = items.iter().fold(self.bytes, |sum, (_, bytes)| sum.saturating_add(*bytes as u64));
            if bytes > self.most.0 {
                let error = Error::new(ErrorKind::TooLarge, format!("cannot collect more than {}", self.most));
                return Err(error.hint("allow more with `at_most`, or end the stream in a sink or `for_each`"));
            }
        }
        for (item, bytes) in items {
            while self.bytes.saturating_add(bytes as u64) > self.most.0 && self.pop_front().is_some() {}
            self.bytes += bytes as u64;
            self.items.push_back((item, bytes));
        }
        Ok(())
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

/// What becomes of the next item where there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The pipeline stops.
    Stop,
    /// The oldest items are forgotten.
    Forget,
}

/// What the records of a batch are, each with about how many bytes it holds. An error stops the pipeline.
pub(crate) type Read<I> = fn(Batch) -> Result<Vec<(I, usize)>>;

/// The plan of the sink.
pub(crate) struct Keeping<I> {
    pub(crate) what: &'static str,
    pub(crate) kept: Kept<I>,
    pub(crate) read: Read<I>,
    pub(crate) full: Full,
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
        Ok(Box::new(Keeper { kept: self.kept.clone(), read: self.read, full: self.full, writes: 0 }))
    }
}

struct Keeper<I> {
    kept: Kept<I>,
    read: Read<I>,
    full: Full,
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
        let items = (self.read)(batch)?;
        self.kept.lock().keep(items, self.full)?;
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

    fn keep(kept: &Kept<u32>, items: std::ops::Range<u32>) -> Result<()> {
        kept.lock().keep(items.map(|n| (n, 10)).collect(), Full::Stop)
    }

    fn shelf(kept: &Kept<u32>, committed: u64) {
        kept.lock().committed = committed;
    }

    #[test]
    fn only_what_counts_is_given_and_the_rest_is_cut_when_it_comes_again() {
        let kept = Kept::at_most(Size(100));
        keep(&kept, 0..5).unwrap();
        shelf(&kept, 3);
        assert_eq!(kept.copies(), [0, 1, 2]);
        assert_eq!(kept.take(), [0, 1, 2]);
        kept.lock().cut(3);
        kept.lock().keep(vec![(7, 90)], Full::Stop).expect("what was taken or cut takes no room");
        shelf(&kept, 4);
        assert_eq!((kept.take(), kept.take()), (vec![7], vec![]));
    }

    #[test]
    fn what_is_full_takes_nothing_more_or_forgets_the_oldest() {
        let kept = Kept::at_most(Size(25));
        keep(&kept, 1..3).unwrap();
        let error = keep(&kept, 3..4).unwrap_err();
        assert_eq!((error.kind(), kept.lock().items.len()), (ErrorKind::TooLarge, 2));
        kept.lock().keep(vec![(4, 10)], Full::Forget).unwrap();
        shelf(&kept, 3);
        assert_eq!(kept.copies(), [2, 4]);
    }
}
