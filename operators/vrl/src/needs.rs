//! Which fields of a value a step looks at: the others are checked, but not parsed.

use std::sync::Arc;

use vrl::{
    path::{OwnedSegment, OwnedValuePath},
    value::KeyString,
};

/// A part of a value.
#[derive(Clone, Debug, Default)]
pub(crate) enum Needs {
    /// All of it.
    #[default]
    All,
    /// These fields, if it is an object; else all of it.
    Fields(Arc<[KeyString]>),
}

impl Needs {
    /// What is needed to get at these paths.
    pub(crate) fn of<'a>(paths: impl IntoIterator<Item = &'a OwnedValuePath>) -> Self {
        let mut fields: Vec<KeyString> = Vec::new();
        for path in paths {
            match path.segments.first() {
                Some(OwnedSegment::Field(name)) if fields.contains(name) => {}
                Some(OwnedSegment::Field(name)) => fields.push(name.clone()),
                _ => return Needs::All,
            }
        }
        Needs::Fields(fields.into())
    }

    /// What is needed for both.
    pub(crate) fn and(&self, other: &Needs) -> Self {
        match (self, other) {
            (Needs::Fields(one), Needs::Fields(other)) => {
                let new = other.iter().filter(|name| !one.contains(name));
                Needs::Fields(one.iter().chain(new).cloned().collect())
            }
            _ => Needs::All,
        }
    }

    /// Whether a field is needed.
    pub(crate) fn wants(&self, name: &[u8]) -> bool {
        match self {
            Needs::All => true,
            Needs::Fields(fields) => fields.iter().any(|field| field.as_bytes() == name),
        }
    }

    /// Whether who has this has all of `other`.
    pub(crate) fn covers(&self, other: &Needs) -> bool {
        match (self, other) {
            (Needs::All, _) => true,
            (Needs::Fields(_), Needs::All) => false,
            (Needs::Fields(one), Needs::Fields(two)) => {
                Arc::ptr_eq(one, two) || two.iter().all(|name| one.contains(name))
            }
        }
    }
}
