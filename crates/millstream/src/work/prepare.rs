//! One look-up for a set of records, and then each of them handled with what was found.

use std::{future::Future, marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use millstream_core::{Batch, Change, Operator, Output, Result};

use super::{Apart, Crew, Gathered, Held, Limits, Outcomes, Row, Set, every};
use crate::{
    batch::{BatchOf, Trigger},
    failure::{Failure, outcome},
    made::Made,
    stream::{Keyed, Stream, at},
    typed::{Data, map_with, typed},
};

/// A stream whose records have been looked up: [`map`](Prepared::map) says what becomes of each.
#[must_use = "`prepare` is followed by `map`"]
#[derive(Debug)]
pub struct Prepared<T, K, P> {
    stream: Stream<T, K>,
    lookup: P,
    most: usize,
}

/// A look-up is begun for each set of records that arrive together; `stream` says of which.
pub(crate) fn prepare<T, K, P>(stream: Stream<T, K>, lookup: P) -> Prepared<T, K, P> {
    Prepared { stream, lookup, most: usize::MAX }
}

impl<T: Data, K, P> Prepared<T, K, P> {
    /// At most so many records in one look-up.
    pub fn at_most(mut self, records: usize) -> Self {
        self.most = records.max(1);
        self
    }

    /// Handles each record with what was found for its set. An error or panic costs only its record; where records are
    /// partitioned by key, those behind it of its key are looked up and handled again, behind it.
    ///
    /// Four look-ups are under way at once if [`in_flight`](Stream::in_flight) does not say otherwise; one where records are
    /// partitioned by key, whatever it says: a set may have records of any key.
    pub fn map<L, F, E, U, G, M>(self, map: M) -> Stream<U, at::Batches>
    where
        P: Fn(Vec<T>) -> F + Send + Sync + 'static,
        F: Future<Output = std::result::Result<L, G>> + Send + 'static,
        L: Send + Sync + 'static,
        U: Data,
        E: Failure,
        G: Failure,
        M: Fn(&T, &L) -> std::result::Result<U, E> + Send + Sync + 'static,
    {
        let limits = Limits::new(LOOKUPS_IN_FLIGHT);
        let apart = if self.stream.keyed == Keyed::No { Apart::No } else { Apart::All };
        let (functions, shared, most) = (Arc::new((self.lookup, map)), limits.clone(), self.most);
        let made = Made::operator("prepare", move || {
            let functions = functions.clone();
            let handle = move |gathered: Gathered| {
                let functions = functions.clone();
                async move {
                    let group = BatchOf::<T>::gather(gathered);
                    let found = outcome((functions.0)(group.to_vec()).await)?;
                    let (made, failed) = map_with(crate::typed::View::All(&group), &found, &functions.1);
                    Ok(answered(group.len(), made, failed))
                }
            };
            preparing::<T, U, _>(handle, shared.clone(), apart, most)
        });
        let made = Made { options: vec![limits.options(apart != Apart::All)], ..made };
        self.stream.enter(made, Some(limits))
    }
}

/// Enough to hide the time of a look-up behind that of others.
const LOOKUPS_IN_FLIGHT: usize = 4;

fn answered<U>(records: usize, made: Vec<U>, failed: Vec<(u32, millstream_core::Error)>) -> Outcomes<U> {
    let (mut made, mut failed) = (made.into_iter(), failed.into_iter().peekable());
    let mut outcomes = Outcomes::new();
    for row in 0..records {
        match failed.next_if(|(bad, _)| *bad as usize == row) {
            Some((_, error)) => outcomes.fail(row, error),
            None => made.next().into_iter().for_each(|value| outcomes.ok(row, value)),
        }
    }
    outcomes
}

fn preparing<T: Data, U: Data, F>(
    handle: impl Fn(Gathered) -> F + Send + Sync + 'static,
    limits: Arc<Limits>,
    apart: Apart,
    most: usize,
) -> impl Operator
where
    F: Future<Output = Result<Outcomes<U>>> + Send + 'static,
{
    let begin = move |number: u32, gathered: Gathered, limit| {
        let work = handle(gathered);
        async move { (number, every(work, limit).await) }
    };
    let crew = Crew::new(begin, limits, apart).in_line();
    Preparing { crew, held: Held::default(), most, types: PhantomData::<fn() -> T> }
}

struct Preparing<T, U, B, R> {
    crew: Crew<U, B, R>,
    held: Held,
    most: usize,
    types: PhantomData<fn() -> T>,
}

impl<T, U, B, R> Preparing<T, U, B, R>
where
    T: Data,
    U: Data,
    B: Fn(u32, Gathered, Option<std::time::Duration>) -> R + Send,
    R: Future<Output = (u32, Result<Outcomes<U>>)> + Send,
{
    fn emit(&mut self, out: &mut Output) {
        let (failed, mut back) = self.crew.emit(&mut self.held, out);
        if !failed.is_empty() {
            back.extend(self.crew.take_back(&self.held, &failed, out));
            self.held.give_back(&back, out);
        }
        self.crew.begin(&self.held);
    }
}

#[async_trait]
impl<T, U, B, R> Operator for Preparing<T, U, B, R>
where
    T: Data,
    U: Data,
    B: Fn(u32, Gathered, Option<std::time::Duration>) -> R + Send + Sync,
    R: Future<Output = (u32, Result<Outcomes<U>>)> + Send,
{
    async fn restore(&mut self, _: Vec<Change>) -> Result<()> {
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let Some(batch) = typed::<T>(batch, out) else { return Ok(()) };
        let records = batch.len() as u32;
        let id = self.held.add(batch);
        let rows: Vec<Row> = (0..records).map(|row| Row { batch: id, row }).collect();
        for rows in rows.chunks(self.most) {
            self.crew.push(Set { rows: rows.to_vec(), key: None, trigger: Trigger::Count, absorbed: 0 });
        }
        self.crew.begin(&self.held);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.crew.is_full()
    }

    async fn ready(&mut self) {
        self.crew.ready(&self.held).await;
    }

    async fn advance(&mut self, out: &mut Output) -> Result<()> {
        self.crew.finish_ready().await;
        self.emit(out);
        Ok(())
    }

    async fn settle(&mut self, out: &mut Output) -> Result<()> {
        self.emit(out);
        while self.crew.finish_one().await {
            self.emit(out);
        }
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }

    async fn close(&mut self) -> Result<()> {
        self.crew.clear();
        Ok(())
    }
}
