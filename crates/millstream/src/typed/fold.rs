//! State for each key of a typed stream, emitted at the end.

use std::{marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use millstream_core::{Batch, BatchBuilder, Change, Operator, Output, Record, Result};
use millstream_state::KeyedTable;

use super::{Data, Typed, rows::view, typed};
use crate::{
    fold::{Folded, said},
    made::Made,
};

/// A state of type `V` for each key of the records. It changes by exactly those that do not panic; see
/// [`Folds`](millstream_state::Folds) for what that costs.
pub(crate) fn fold<T, V, U, F, E>(fold: F, emit: E) -> Made
where
    T: Data,
    V: Data + Default,
    U: Data,
    F: Fn(&mut V, &T) + Send + Sync + 'static,
    E: Fn(&[u8], &V) -> U + Send + Sync + 'static,
{
    let functions = Arc::new((fold, emit));
    let made = Made::operator("fold", move || Folding {
        functions: functions.clone(),
        table: KeyedTable::<V>::new(),
        types: PhantomData::<fn(T) -> U>,
    });
    Made { stateful: true, needs_end: true, deterministic: true, ..made }
}

struct Folding<T, V, U, F, E> {
    functions: Arc<(F, E)>,
    table: KeyedTable<V>,
    types: PhantomData<fn(T) -> U>,
}

#[async_trait]
impl<T, V, U, F, E> Operator for Folding<T, V, U, F, E>
where
    T: Data,
    V: Data + Default,
    U: Data,
    F: Fn(&mut V, &T) + Send + Sync,
    E: Fn(&[u8], &V) -> U + Send + Sync,
{
    async fn restore(&mut self, state: Vec<Change>) -> Result<()> {
        self.table.restore(state)
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let Some(batch) = typed::<T>(batch, out) else { return Ok(()) };
        let records = batch.records();
        let (fold, view) = (&self.functions.0, view::<T>(&batch));
        let key = |row| records.get(row).key();
        let again = |state: &mut V, row| view.get(row).into_iter().for_each(|value| fold(state, value));
        let (mut folded, mut filtered) = (Folded::new(&mut self.table, key, again), 0);
        let failed = view.each(|row, value| {
            match key(row) {
                Some(key) => folded.add(row, key, |state| fold(state, value)),
                None => filtered += 1,
            }
            Ok(())
        });
        let (absorbed, failed) = folded.end(failed);
        out.absorbed(absorbed);
        out.filtered(filtered);
        failed.into_iter().for_each(|(row, error)| out.fail(&batch, row as usize, error));
        Ok(())
    }

    async fn end(&mut self, out: &mut Output) -> Result<()> {
        let (mut builder, mut values) = (BatchBuilder::new(), Vec::new());
        let emit = |builder: &mut BatchBuilder, values: &mut Vec<U>, out: &mut Output| {
            out.created(values.len());
            out.emit(0, builder.finish().with_body(Typed::body(std::mem::take(values))));
        };
        for (sequence, (key, state)) in self.table.iter().enumerate() {
            values.push(said(|| (self.functions.1)(&key, state))?);
            let record = Record { value: None, ..Record::new("fold", Vec::new()) };
            builder.push(&Record { sequence: sequence as u128, key: Some(key.to_vec().into()), ..record });
            if builder.is_full() {
                emit(&mut builder, &mut values, out);
            }
        }
        emit(&mut builder, &mut values, out);
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        self.table.changes()
    }
}
