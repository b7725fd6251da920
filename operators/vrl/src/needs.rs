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

/// What a step needs that works on one value after the other, and what that makes with what is there already.
#[derive(Debug)]
pub(crate) struct Wanted {
    needs: Needs,
    /// The newest answer of [`Wanted::with`], because values of one stream mostly come alike.
    newest: Option<(Arc<[KeyString]>, Needs)>,
}

impl Wanted {
    /// A step's needs.
    pub(crate) fn new(needs: Needs) -> Self {
        Wanted { needs, newest: None }
    }

    /// The needs themselves.
    pub(crate) fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The needs together with `other`.
    pub(crate) fn with(&mut self, other: &Needs) -> Needs {
        let Needs::Fields(fields) = other else { return Needs::All };
        match &self.newest {
            Some((known, joined)) if Arc::ptr_eq(known, fields) => joined.clone(),
            _ => {
                let joined = other.and(&self.needs);
                self.newest = Some((fields.clone(), joined.clone()));
                joined
            }
        }
    }
}
