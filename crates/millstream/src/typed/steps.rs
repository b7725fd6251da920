//! Synchronous steps on values. Closures borrow: a value that fails is needed again, and one that is broadcast is shared.

use millstream_core::{Batch, Error, ErrorKind, Output};

use super::{
    Data, RecordOf,
    answers::{kept, partition},
    children::Children,
    rows::{View, emit_good, emit_values, pick, replace, view},
    typed,
};
use crate::{
    failure::{Failure, outcome},
    made::Made,
};

pub(crate) fn map<T: Data, U: Data, F: Fn(&T) -> U + Send + Sync + 'static>(map: F) -> Made {
    Made::transform("map", map, |map, batch, out| {
        let Some(mut batch) = typed::<T>(batch, out) else { return };
        if let Some(failed) = replace(&mut batch, map) {
            return emit_good(batch, failed, out);
        }
        let (values, failed) = view::<T>(&batch).collect(map);
        emit_values(batch, values, failed, out);
    })
}

pub(crate) fn try_map<T: Data, U: Data, E: Failure, F>(map: F) -> Made
where
    F: Fn(&T) -> Result<U, E> + Send + Sync + 'static,
{
    Made::transform("map", map, |map, batch, out| {
        let Some(batch) = typed::<T>(batch, out) else { return };
        let mut values = Vec::with_capacity(batch.len());
        let failed = view::<T>(&batch).each(|_, value| {
            values.push(outcome(map(value))?);
            Ok(())
        });
        emit_values(batch, values, failed, out);
    })
}

/// JSON that lies in values as text or bytes.
pub(crate) fn parse_json<T: Data + AsRef<[u8]>, U: Data>() -> Made {
    let made = try_map(|value: &T| serde_json::from_slice::<U>(value.as_ref()).map_err(crate::raw::not_json));
    Made { verb: "json", ..made }
}

pub(crate) fn map_record<T: Data, U: Data, F>(map: F) -> Made
where
    F: Fn(&RecordOf<'_, T>) -> U + Send + Sync + 'static,
{
    Made::transform("map", map, |map, batch, out| {
        let Some(batch) = typed::<T>(batch, out) else { return };
        let mut values = Vec::with_capacity(batch.len());
        let records = batch.records();
        let failed = view::<T>(&batch).each(|row, value| {
            values.push(map(&RecordOf::new(value, records.get(row))));
            Ok(())
        });
        emit_values(batch, values, failed, out);
    })
}

pub(crate) fn filter<T: Data, F: Fn(&T) -> bool + Send + Sync + 'static>(keep: F) -> Made {
    Made::transform("filter", keep, |keep, batch, out| {
        let Some(batch) = typed::<T>(batch, out) else { return };
        let (kept, failed) = kept(view::<T>(&batch), keep);
        out.filtered(batch.len() - failed.len() - kept.len());
        fail_all(&batch, failed, out);
        out.emit(0, pick(&batch, kept));
    })
}

pub(crate) fn inspect<T: Data, F: Fn(&T) + Send + Sync + 'static>(look: F) -> Made {
    Made::transform("inspect", look, |look, batch, out| {
        let Some(batch) = typed::<T>(batch, out) else { return };
        let (_, failed) = view::<T>(&batch).collect(look);
        emit_good(batch, failed, out);
    })
}

pub(crate) fn flat_map<T: Data, I, F>(map: F) -> Made
where
    I: IntoIterator<Item: Data>,
    F: Fn(&T) -> I + Send + Sync + 'static,
{
    Made::transform("flat_map", map, |map, batch, out| {
        let Some(batch) = typed::<T>(batch, out) else { return };
        let mut children = Children::with_capacity(batch.len());
        let failed = view::<T>(&batch).each(|row, value| {
            children.add(row, |values| {
                values.extend(map(value));
                Ok(())
            })
        });
        children.emit(batch, failed, out);
    })
}

/// Two outputs: port 0 takes those for which the answer is yes, port 1 the others.
pub(crate) fn branch<T: Data, F: Fn(&T) -> bool + Send + Sync + 'static>(choose: F) -> Made {
    let made = Made::transform("branch", choose, |choose, batch, out| {
        let Some(batch) = typed::<T>(batch, out) else { return };
        let (yes, no, failed) = partition(view::<T>(&batch), choose);
        fail_all(&batch, failed, out);
        out.emit(0, pick(&batch, yes));
        out.emit(1, pick(&batch, no));
    });
    Made { outputs: vec!["yes".to_owned(), "no".to_owned()], ..made }
}

/// An output for each name; a record whose name is none of them fails.
pub(crate) fn route<T: Data, R: AsRef<str>, F>(outputs: Vec<String>, choose: F) -> Made
where
    F: Fn(&T) -> R + Send + Sync + 'static,
{
    let made = Made::transform("route", (outputs.clone(), choose), |(outputs, choose), batch, out| {
        let Some(batch) = typed::<T>(batch, out) else { return };
        let mut rows = vec![Vec::new(); outputs.len()];
        let failed = view::<T>(&batch).each(|row, value| {
            let chosen = choose(value);
            let port = outputs.iter().position(|output| output == chosen.as_ref());
            let port = port.and_then(|port| rows.get_mut(port)).ok_or_else(|| unknown(chosen.as_ref(), outputs))?;
            port.push(row as u32);
            Ok(())
        });
        fail_all(&batch, failed, out);
        for (port, rows) in rows.into_iter().enumerate() {
            out.emit(port, pick(&batch, rows));
        }
    });
    Made { outputs, ..made }
}

fn unknown(chosen: &str, outputs: &[String]) -> Error {
    let hint = format!("the outputs are {}", outputs.join(", "));
    Error::new(ErrorKind::Data, format!("a record was routed to `{chosen}`, which is no output")).hint(hint)
}

pub(super) fn fail_all(batch: &Batch, failed: Vec<(u32, Error)>, out: &mut Output) {
    failed.into_iter().for_each(|(row, error)| out.fail(batch, row as usize, error));
}

/// Rows of a view and the look-up that was made for them, for `prepare`.
pub(crate) fn map_with<T, U, L, E: Failure>(
    values: View<'_, T>,
    found: &L,
    map: impl Fn(&T, &L) -> Result<U, E>,
) -> (Vec<U>, Vec<(u32, Error)>) {
    let mut made = Vec::with_capacity(values.len());
    let failed = values.each(|_, value| {
        made.push(outcome(map(value, found))?);
        Ok(())
    });
    (made, failed)
}
