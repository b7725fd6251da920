//! Keyed state changed record by record, emitted at the end.

use std::sync::Arc;

use async_trait::async_trait;
use millstream_core::{
    Batch, BatchBuilder, Change, Form, Operator, Output, Record, RecordRef, Result, Step, StepPlan, try_each_record,
};
use millstream_state::KeyedTable;
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
        let mut absorbed = 0;
        let key_of = |row| key(batch.get(row));
        let again = |state: &mut V, row| fold(state, batch.get(row));
        let (mut folds, mut late) = (self.table.fold(), Vec::new());
        let mut failed = try_each_record(&batch, |row, record| {
            if folds.is_torn() {
                late.extend(folds.mend(key_of, again));
            }
            if let Some(key) = key(record) {
                fold(folds.entry(row, key), record);
                folds.done();
                absorbed += 1;
            }
            Ok(())
        });
        late.extend(folds.mend(key_of, again));
        drop(folds);
        absorbed -= late.len();
        failed.extend(late);
        failed.sort_unstable_by_key(|(row, _)| *row);
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
            emit(&key, state, &mut Value(&mut value));
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
