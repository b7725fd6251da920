//! Keyed state changed record by record, emitted at the end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use async_trait::async_trait;
use millstream_core::{
    Batch, BatchBuilder, Change, Error, Form, Operator, Output, Record, RecordRef, Result, Step, StepPlan, panicked,
    try_each_record,
};
use millstream_state::{Folds, KeyedTable};
use serde::{Serialize, de::DeserializeOwned};

use crate::Value;

/// A state of type `V` for each key. It changes by exactly those records that do not panic; see
/// [`Folds`](millstream_state::Folds) for what that costs.
pub(crate) struct Fold<K, F, E, V> {
    functions: Arc<(K, F, E)>,
    state: std::marker::PhantomData<fn() -> V>,
}

impl<K, F, E, V> Fold<K, F, E, V> {
    pub(crate) fn new(key: K, fold: F, emit: E) -> Self {
        Fold { functions: Arc::new((key, fold, emit)), state: std::marker::PhantomData }
    }
}

impl<K, F, E, V> std::fmt::Debug for Fold<K, F, E, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fold")
    }
}

impl<K, F, E, V> StepPlan for Fold<K, F, E, V>
where
    K: Fn(RecordRef<'_>) -> Option<&[u8]> + Send + Sync + 'static,
    F: Fn(&mut V, RecordRef<'_>) + Send + Sync + 'static,
    E: Fn(&[u8], &V, &mut Value<'_>) + Send + Sync + 'static,
    V: Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn form(&self) -> Form {
        Form::Bytes
    }

    fn stateful(&self) -> bool {
        true
    }

    fn needs_end(&self) -> bool {
        true
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Operator(Box::new(Folding { functions: self.functions.clone(), table: KeyedTable::<V>::new() })))
    }
}

struct Folding<K, F, E, V> {
    functions: Arc<(K, F, E)>,
    table: KeyedTable<V>,
}

#[async_trait]
impl<K, F, E, V> Operator for Folding<K, F, E, V>
where
    K: Fn(RecordRef<'_>) -> Option<&[u8]> + Send + Sync,
    F: Fn(&mut V, RecordRef<'_>) + Send + Sync,
    E: Fn(&[u8], &V, &mut Value<'_>) + Send + Sync,
    V: Clone + Default + Serialize + DeserializeOwned + Send + Sync,
{
    async fn restore(&mut self, state: Vec<Change>) -> Result<()> {
        self.table.restore(state)
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let batch = batch.into_bytes();
        let (key, fold, _) = &*self.functions;
        let (of, again) = (|row| key(batch.get(row)), |state: &mut V, row| fold(state, batch.get(row)));
        let mut folded = Folded::new(&mut self.table, of, again);
        let failed = try_each_record(&batch, |row, record| {
            if let Some(key) = key(record) {
                folded.add(row, key, |state| fold(state, record));
            }
            Ok(())
        });
        let (absorbed, failed) = folded.end(failed);
        out.absorbed(absorbed);
        out.filtered(batch.len() - absorbed - failed.len());
        for (row, error) in failed {
            out.fail(&batch, row as usize, error);
        }
        Ok(())
    }

    async fn end(&mut self, out: &mut Output) -> Result<()> {
        let (_, _, emit) = &*self.functions;
        let mut builder = BatchBuilder::new();
        let mut value = Vec::new();
        for (sequence, (key, state)) in self.table.iter().enumerate() {
            value.clear();
            said(|| emit(&key, state, &mut Value(&mut value)))?;
            let key = Some(key.to_vec().into());
            builder.push(&Record { sequence: sequence as u128, key, ..Record::new("fold", value.clone()) });
            if builder.is_full() {
                out.created(builder.len());
                out.emit(0, builder.finish());
            }
        }
        out.created(builder.len());
        out.emit(0, builder.finish());
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        self.table.changes()
    }
}

/// What `emit` says of the state of a key. When it panics no record is at fault: the whole state is what it cannot say.
pub(crate) fn said<U>(emit: impl FnOnce() -> U) -> Result<U> {
    catch_unwind(AssertUnwindSafe(emit)).map_err(|panic| panicked(&*panic).context("cannot emit the state of a key"))
}

/// Rows of a batch on their way into the states of their keys. What a row changed that panicked is taken back before the next.
pub(crate) struct Folded<'a, V: Default, K, F> {
    folds: Folds<'a, V>,
    /// The key of a row, and how it changes a state: for rows that are folded again.
    key: K,
    again: F,
    absorbed: usize,
    /// Rows that panicked when they were folded again.
    late: Vec<(u32, Error)>,
}

impl<'a, 'k, V, K, F> Folded<'a, V, K, F>
where
    V: Default + Clone,
    K: Fn(usize) -> Option<&'k [u8]>,
    F: Fn(&mut V, usize),
{
    pub(crate) fn new(table: &'a mut KeyedTable<V>, key: K, again: F) -> Self {
        Folded { folds: table.fold(), key, again, absorbed: 0, late: Vec::new() }
    }

    /// Lets a row change the state of its key.
    #[inline]
    pub(crate) fn add(&mut self, row: usize, key: &[u8], change: impl FnOnce(&mut V)) {
        if self.folds.is_torn() {
            self.mend();
        }
        change(self.folds.entry(row, key));
        self.folds.done();
        self.absorbed += 1;
    }

    #[cold]
    fn mend(&mut self) {
        self.late.extend(self.folds.mend(&self.key, &self.again));
    }

    /// How many rows are in the states now, and which are not, with those that `failed` before, in order.
    pub(crate) fn end(mut self, mut failed: Vec<(u32, Error)>) -> (usize, Vec<(u32, Error)>) {
        self.mend();
        let absorbed = self.absorbed - self.late.len();
        failed.append(&mut self.late);
        failed.sort_unstable_by_key(|(row, _)| *row);
        (absorbed, failed)
    }
}
