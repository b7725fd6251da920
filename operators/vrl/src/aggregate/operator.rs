//! The running `aggregate`.

use std::{cell::RefCell, collections::HashMap};

use async_trait::async_trait;
use millstream_core::{
    Batch, BatchBuilder, Body, Change, ColumnBuilder, Error, ErrorKind, Form, Forms, Operator, Output, Result,
    ShardKey, each_row,
};
use millstream_state::KeyedTable;
use vrl::value::Value;

use super::{
    Emit, Plan,
    cell::{Cell, Group},
    function::Kind,
};
use crate::{
    json, key,
    machine::Machine,
    metadata::text_of,
    needs::Needs,
    value::{Values, open},
};

/// Where results say that they come from, when there is no record that made them: their sequence is the order in which
/// their keys were first seen.
const ORIGIN: &str = "aggregate";

pub(super) struct Aggregate {
    key: Machine,
    /// Names as JSON, with the colon.
    names: Vec<Vec<u8>>,
    kinds: Vec<Kind>,
    arguments: Vec<Machine>,
    needs: Needs,
    emit: Emit,
    pass_null: bool,
    groups: KeyedTable<Group>,
    /// Keys seen so far.
    seen: u64,
    key_bytes: Vec<u8>,
    given: Vec<Value>,
}

/// What became of a record.
enum Done {
    Absorbed,
    Passed,
}

impl Aggregate {
    pub(super) fn new(plan: &Plan) -> Self {
        let name = |name: &str| {
            let mut text = b",".to_vec();
            json::write_value(&mut text, &Value::from(name), None);
            text.push(b':');
            text
        };
        let arguments = || plan.fields.iter().filter_map(|(_, function)| function.argument.clone());
        Aggregate {
            key: Machine::new(plan.key.clone()),
            names: plan.fields.iter().map(|(text, _)| name(text)).collect(),
            kinds: plan.fields.iter().map(|(_, function)| function.kind).collect(),
            needs: arguments().fold(plan.key.needs.clone(), |needs, program| needs.and(&program.needs)),
            arguments: arguments().map(Machine::new).collect(),
            emit: plan.emit,
            pass_null: plan.pass_null,
            groups: KeyedTable::new(),
            seen: 0,
            key_bytes: Vec::new(),
            given: Vec::new(),
        }
    }

    /// Takes a record in. After an error nothing has changed.
    fn absorb(&mut self, batch: &Batch, at: usize, values: &Values) -> Result<Done> {
        let value = values.value(batch.body().1.get(at), &self.needs)?;
        let record = batch.get(at);
        self.key_bytes.clear();
        let bytes = &mut self.key_bytes;
        let null = self.key.run(value, &record, |key| {
            if !key.is_null() {
                key::encode(key, bytes);
            }
            Ok(key.is_null())
        })?;
        if null {
            return if self.pass_null { Ok(Done::Passed) } else { Err(no_key()) };
        }
        self.given.clear();
        for argument in &mut self.arguments {
            self.given.push(argument.run(value, &record, |value| Ok(value.clone()))?);
        }
        // Counting needs no cells, so nothing can fail and nothing is copied.
        if self.given.is_empty() {
            let group = self.groups.entry(&self.key_bytes);
            first_sighting(group, &mut self.seen);
            group.count += 1;
            return Ok(Done::Absorbed);
        }
        let kinds = self.kinds.iter().filter(|kind| **kind != Kind::Count).zip(&self.given);
        let cells = match self.groups.get(&self.key_bytes) {
            None => kinds.map(|(kind, value)| Cell::first(*kind, value)).collect::<Result<Vec<_>>>()?,
            Some(group) => {
                let mut cells = group.cells.clone();
                for (cell, (kind, value)) in cells.iter_mut().zip(kinds) {
                    cell.add(*kind, value)?;
                }
                cells
            }
        };
        let group = self.groups.entry(&self.key_bytes);
        first_sighting(group, &mut self.seen);
        group.count += 1;
        group.cells = cells;
        Ok(Done::Absorbed)
    }

    /// Appends the result of a key; answers the record's own key.
    fn write(&self, key: &[u8], group: &Group, out: &mut Vec<u8>) -> bytes::Bytes {
        let key = key::decode(key);
        out.extend_from_slice(b"{\"key\":");
        json::write_value(out, &key, None);
        let mut cells = group.cells.iter();
        for (name, kind) in self.names.iter().zip(&self.kinds) {
            out.extend_from_slice(name);
            match kind {
                Kind::Count => out.extend_from_slice(group.count.to_string().as_bytes()),
                kind => match cells.next() {
                    Some(cell) => cell.write(*kind, group.count, out),
                    None => out.extend_from_slice(b"null"),
                },
            }
        }
        out.push(b'}');
        text_of(&key).unwrap_or_default()
    }

    /// Emits the new value of each key that changed: as what became of the last record that changed it.
    fn emit_changed(&self, batch: &Batch, changed: HashMap<Vec<u8>, u32>, out: &mut Output) {
        let mut last: Vec<(u32, Vec<u8>)> = changed.into_iter().map(|(key, at)| (at, key)).collect();
        last.sort_unstable();
        let (mut values, mut keys) = (ColumnBuilder::default(), ColumnBuilder::default());
        let mut picks = Vec::with_capacity(last.len());
        for (at, key) in last {
            if let Some(group) = self.groups.get(&key) {
                let own = values.push_with(|out| self.write(&key, group, out));
                keys.push(Some(&own));
                picks.push(at);
            }
        }
        if !picks.is_empty() {
            let batch = batch.select(picks).with_body(Body::Bytes(values.finish(), Forms::Same(Form::Json)));
            let mut envelope = batch.gather_envelope();
            envelope.keys = Some(keys.finish());
            out.emit(0, batch.with_envelope(envelope));
        }
    }
}

#[async_trait]
impl Operator for Aggregate {
    async fn restore(&mut self, state: Vec<Change>) -> Result<()> {
        self.groups.restore(state)?;
        let kinds: Vec<Kind> = self.kinds.iter().filter(|kind| **kind != Kind::Count).copied().collect();
        let fits = |group: &Group| {
            group.cells.len() == kinds.len() && group.cells.iter().zip(&kinds).all(|(cell, kind)| cell.fits(*kind))
        };
        if !self.groups.iter().all(|(_, group)| fits(group)) {
            let error = Error::new(ErrorKind::StateMismatch, "the saved state is of other functions");
            return Err(error.hint("give the step another name, or begin anew with `millstream state reset`"));
        }
        self.seen = self.groups.iter().map(|(_, group)| group.first + 1).max().unwrap_or(0);
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let (batch, values) = open(batch);
        let changing = self.emit == Emit::Change;
        let mut changed: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut passed: Vec<u32> = Vec::new();
        let failed: RefCell<Vec<(usize, Error)>> = RefCell::default();
        let mut absorbed = 0;
        each_row(
            batch.len(),
            |at| match self.absorb(&batch, at, &values) {
                Ok(Done::Absorbed) => {
                    absorbed += 1;
                    if changing {
                        match changed.get_mut(&self.key_bytes) {
                            Some(last) => *last = at as u32,
                            None => drop(changed.insert(self.key_bytes.clone(), at as u32)),
                        }
                    }
                }
                Ok(Done::Passed) => passed.push(at as u32),
                Err(error) => failed.borrow_mut().push((at, error)),
            },
            |at, error| failed.borrow_mut().push((at, error)),
        );
        for (at, error) in failed.into_inner() {
            out.fail(&batch, at, error);
        }
        // Of the records that changed a key in this batch the last one goes on, as the result.
        out.absorbed(absorbed - changed.len());
        if !passed.is_empty() {
            out.emit(0, batch.select(passed));
        }
        self.emit_changed(&batch, changed, out);
        Ok(())
    }

    async fn end(&mut self, out: &mut Output) -> Result<()> {
        if self.emit != Emit::End {
            return Ok(());
        }
        let mut all: Vec<_> = self.groups.iter().map(|(key, group)| (group.first, key, group)).collect();
        all.sort_unstable_by_key(|(first, ..)| *first);
        let mut builder = BatchBuilder::new();
        let (mut value, origin) = (Vec::new(), ShardKey::new(ORIGIN, 0));
        for (first, key, group) in all {
            value.clear();
            let own = self.write(&key, group, &mut value);
            builder.push_value(&origin, u128::from(first), None, Form::Json, Some(&own), Some(&value));
            out.created(1);
            if builder.is_full() {
                out.emit(0, builder.finish());
            }
        }
        out.emit(0, builder.finish());
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        self.groups.changes()
    }
}

fn first_sighting(group: &mut Group, seen: &mut u64) {
    if group.count == 0 {
        group.first = *seen;
        *seen += 1;
    }
}

fn no_key() -> Error {
    Error::new(ErrorKind::Data, "the key is null or missing")
        .hint("leave such records out by a `filter` in front, or say `null_key: pass`")
}
