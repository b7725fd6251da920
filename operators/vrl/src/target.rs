//! What a program reads from and writes to.

use std::sync::Arc;

use vrl::{
    compiler::{SecretTarget, Target},
    path::{OwnedSegment, OwnedTargetPath, OwnedValuePath, PathPrefix},
    value::{KeyString, Value},
};

use crate::{changes::Changes, json};

/// A record that is only read. Programs for it are compiled with everything read-only.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    pub(crate) value: &'a Value,
    pub(crate) metadata: &'a Value,
}

impl Target for Reading<'_> {
    fn target_insert(&mut self, path: &OwnedTargetPath, _: Value) -> Result<(), String> {
        Err(format!("{path} cannot be set here"))
    }

    fn target_get(&self, path: &OwnedTargetPath) -> Result<Option<&Value>, String> {
        Ok(match path.prefix {
            PathPrefix::Event => self.value.get(&path.path),
            PathPrefix::Metadata => self.metadata.get(&path.path),
        })
    }

    fn target_get_mut(&mut self, path: &OwnedTargetPath) -> Result<Option<&mut Value>, String> {
        Err(format!("{path} cannot be set here"))
    }

    fn target_remove(&mut self, path: &OwnedTargetPath, _: bool) -> Result<Option<Value>, String> {
        Err(format!("{path} cannot be deleted here"))
    }
}

/// A record that is worked on, with a log of what was assigned. Used for one record after the other.
#[derive(Debug)]
pub(crate) struct Writing {
    value: Value,
    pub(crate) metadata: Value,
    /// How to take back what was done, in its order.
    undo: Vec<Undo>,
    /// Whether that is wanted: not where the value can be read again.
    keep: bool,
    /// Whether metadata was assigned.
    pub(crate) metadata_set: bool,
    /// Whether a record is being worked on.
    running: bool,
    /// What of that which was assigned cannot be written.
    pub(crate) fault: Option<String>,
    /// What was done, as positions in `deeds`.
    log: Vec<u16>,
    /// Everything that the program was seen doing; first what it says it assigns.
    deeds: Vec<Deed>,
    /// The newest result of [`Writing::changes`], because records of one stream are mostly treated alike.
    newest: Option<Newest>,
}

/// One step back.
#[derive(Debug)]
enum Undo {
    /// The value was this.
    Whole(Value),
    /// The value was an object, and this field was that, or was not there.
    Field(KeyString, Option<Value>),
}

/// Changes that were worked out for a log and the changes before it.
#[derive(Debug)]
struct Newest {
    log: Vec<u16>,
    base: Option<Arc<Changes>>,
    changes: Arc<Changes>,
}

#[derive(Clone, Debug, PartialEq)]
enum Deed {
    Assign(OwnedValuePath, Changes),
    Delete(OwnedValuePath, bool),
}

impl Writing {
    /// For a program that assigns these paths.
    pub(crate) fn new(assigned: &[(OwnedValuePath, Changes)]) -> Self {
        Writing {
            value: Value::Null,
            metadata: Value::Null,
            undo: Vec::new(),
            keep: false,
            metadata_set: false,
            running: false,
            fault: None,
            log: Vec::new(),
            deeds: assigned.iter().map(|(path, what)| Deed::Assign(path.clone(), what.clone())).collect(),
            newest: None,
        }
    }

    /// Gets ready for the next record.
    pub(crate) fn begin(&mut self, value: Value, keep: bool) {
        self.running = true;
        self.value = value;
        self.keep = keep;
        self.undo.clear();
        self.metadata_set = false;
        self.fault = None;
        self.log.clear();
    }

    /// The value as it was before the program ran, if that was wanted or nothing was done, and if one was begun.
    pub(crate) fn undo(&mut self) -> Option<Value> {
        let mut value = std::mem::replace(&mut self.value, Value::Null);
        if !std::mem::take(&mut self.running) || (self.changed() && !self.keep) {
            return None;
        }
        while let Some(undo) = self.undo.pop() {
            match (undo, &mut value) {
                (Undo::Whole(before), value) => *value = before,
                (Undo::Field(name, Some(before)), Value::Object(map)) => drop(map.insert(name, before)),
                (Undo::Field(name, None), Value::Object(map)) => drop(map.remove(&name)),
                // A field is noted only of an object, and what made it something else has been taken back.
                (Undo::Field(..), _) => {}
            }
        }
        Some(value)
    }

    /// The value as the program left it.
    pub(crate) fn finish(&mut self) -> Value {
        self.running = false;
        std::mem::replace(&mut self.value, Value::Null)
    }

    /// Whether the value was assigned to.
    pub(crate) fn changed(&self) -> bool {
        !self.log.is_empty()
    }

    /// The changes to a value that had changes `base` before.
    pub(crate) fn changes(&mut self, base: Option<&Arc<Changes>>) -> Arc<Changes> {
        if let Some(newest) = &self.newest
            && newest.log == self.log
            && match (&newest.base, base) {
                (None, None) => true,
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                _ => false,
            }
        {
            return newest.changes.clone();
        }
        let mut changes = base.map(|base| (**base).clone()).unwrap_or_default();
        for &deed in &self.log {
            match self.deeds.get(usize::from(deed)) {
                Some(Deed::Assign(path, what)) => changes.assign(path, what),
                Some(Deed::Delete(path, compact)) => changes.delete(path, *compact),
                None => {}
            }
        }
        let changes = Arc::new(changes);
        self.newest = Some(Newest { log: self.log.clone(), base: base.cloned(), changes: changes.clone() });
        changes
    }

    /// Notes how to take back what is about to be done at a path.
    fn remember(&mut self, path: &OwnedValuePath) {
        if !self.keep {
            return;
        }
        let undo = match (path.segments.first(), &self.value) {
            (Some(OwnedSegment::Field(name)), Value::Object(map)) => Undo::Field(name.clone(), map.get(name).cloned()),
            _ => Undo::Whole(self.value.clone()),
        };
        self.undo.push(undo);
    }

    fn note(&mut self, same: impl Fn(&Deed) -> bool, deed: impl FnOnce() -> Deed) {
        let known = self.deeds.iter().position(same).unwrap_or_else(|| {
            self.deeds.push(deed());
            self.deeds.len() - 1
        });
        // A program has far fewer assignments.
        let known = u16::try_from(known).unwrap_or(u16::MAX);
        // In a loop the same is done again and again.
        if self.log.last() != Some(&known) {
            self.log.push(known);
        }
    }
}

impl Target for Writing {
    fn target_insert(&mut self, path: &OwnedTargetPath, value: Value) -> Result<(), String> {
        if path.prefix == PathPrefix::Metadata {
            self.metadata_set = true;
            self.metadata.insert(&path.path, value);
            return Ok(());
        }
        // A value as a whole may be any bytes; inside of one only JSON can be written.
        let whole = path.path.segments.is_empty() && matches!(value, Value::Bytes(_));
        if !whole && let Err(what) = json::check(&value) {
            self.fault.get_or_insert_with(|| format!("`{path}` cannot be written as JSON: {what}"));
        }
        self.remember(&path.path);
        self.note(
            |deed| matches!(deed, Deed::Assign(known, _) if *known == path.path),
            || Deed::Assign(path.path.clone(), Changes::replaced()),
        );
        if path.path.segments.is_empty() {
            self.value = value;
        } else {
            self.value.insert(&path.path, value);
        }
        Ok(())
    }

    fn target_get(&self, path: &OwnedTargetPath) -> Result<Option<&Value>, String> {
        Ok(match path.prefix {
            PathPrefix::Event => self.value.get(&path.path),
            PathPrefix::Metadata => self.metadata.get(&path.path),
        })
    }

    /// Called by nothing in VRL's library; what is done through it counts as an assignment.
    fn target_get_mut(&mut self, path: &OwnedTargetPath) -> Result<Option<&mut Value>, String> {
        if path.prefix == PathPrefix::Metadata {
            self.metadata_set = true;
            return Ok(self.metadata.get_mut(&path.path));
        }
        self.remember(&path.path);
        self.note(
            |deed| matches!(deed, Deed::Assign(known, _) if *known == path.path),
            || Deed::Assign(path.path.clone(), Changes::replaced()),
        );
        Ok(self.value.get_mut(&path.path))
    }

    fn target_remove(&mut self, path: &OwnedTargetPath, compact: bool) -> Result<Option<Value>, String> {
        if path.prefix == PathPrefix::Metadata {
            self.metadata_set = true;
            return Ok(self.metadata.remove(&path.path, compact));
        }
        let deed = Deed::Delete(path.path.clone(), compact);
        self.remember(&path.path);
        self.note(|known| *known == deed, || deed.clone());
        Ok(self.value.remove(&path.path, compact))
    }
}

macro_rules! without_secrets {
    ($($target:ty),*) => { $(
        impl SecretTarget for $target {
            fn get_secret(&self, _: &str) -> Option<&str> {
                None
            }

            fn insert_secret(&mut self, _: &str, _: &str) {}

            fn remove_secret(&mut self, _: &str) {}
        }
    )* };
}

without_secrets!(Reading<'_>, Writing);
