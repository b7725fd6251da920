//! What the records of a batch say: bytes, or something parsed.

use std::{any::Any, fmt, sync::Arc};

use bytes::Bytes;

use crate::{Form, Result, column::Column, rows::Rows};

/// What each value's bytes are.
#[derive(Clone, Debug)]
pub enum Forms {
    /// All rows alike.
    Same(Form),
    /// A form for each row.
    Each(Arc<Vec<Form>>),
}

/// What the records of a batch say.
#[derive(Clone, Debug)]
pub enum Body {
    /// Bytes as they lie in a buffer.
    Bytes(Column, Forms),
    /// Something else, such as parsed JSON or the values of a typed pipeline.
    Parsed(Arc<dyn Parsed>),
}

/// A body that is not bytes: a parsed form beside its bytes, or typed values.
pub trait Parsed: Any + Send + Sync + fmt::Debug {
    /// Number of physical rows.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Roughly how many bytes of memory it holds.
    fn size(&self) -> usize;
    /// The rows asked for, in their order, as bytes.
    fn encode(&self, rows: &Rows) -> (Column, Forms);
    /// The rows asked for on their own, where a step can only take them parsed. `None`: as they are encoded.
    fn gather(&self, rows: &Rows) -> Option<Arc<dyn Parsed>> {
        let _ = rows;
        None
    }
    /// One row so that its step can read it back, where [`Parsed::encode`] is for people: what a parked record is saved as.
    /// `None`: as it is encoded.
    fn pack(&self, row: usize) -> Result<Option<Bytes>> {
        let _ = row;
        Ok(None)
    }
    /// For the step that knows what it is.
    fn as_any(&self) -> &dyn Any;
}

impl Forms {
    /// Form of a physical row.
    pub fn get(&self, row: usize) -> Form {
        match self {
            Forms::Same(form) => *form,
            Forms::Each(forms) => forms.get(row).copied().unwrap_or_default(),
        }
    }
}

impl Body {
    /// Number of physical rows.
    pub fn len(&self) -> usize {
        match self {
            Body::Bytes(column, _) => column.len(),
            Body::Parsed(parsed) => parsed.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn size(&self) -> usize {
        match self {
            Body::Bytes(column, _) => column.size(),
            Body::Parsed(parsed) => parsed.size(),
        }
    }
}
