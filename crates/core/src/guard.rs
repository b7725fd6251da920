//! Containing panics of user code to the record that caused them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Error, ErrorKind, Result};

/// Calls `handle` for `0..rows`, in order, inside one catch. A panic condemns exactly its row: `condemn` gets it with the
/// cause, and the rows behind it are handled as if nothing had been.
pub fn each_row(rows: usize, mut handle: impl FnMut(usize), mut condemn: impl FnMut(usize, Error)) {
    let mut row = 0;
    while row < rows {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            while row < rows {
                handle(row);
                row += 1;
            }
        }));
        if let Err(panic) = caught {
            condemn(row, panicked(&*panic));
            row += 1;
        }
    }
}

/// The same for handlers that can fail: answers with the rows that failed or panicked, in order, each with its cause.
pub fn try_each_row(rows: usize, mut handle: impl FnMut(usize) -> Result<()>) -> Vec<(u32, Error)> {
    let failed = std::cell::RefCell::new(Vec::new());
    let condemn = |row: usize, error| failed.borrow_mut().push((row as u32, error));
    each_row(rows, |row| handle(row).unwrap_or_else(|error| condemn(row, error)), condemn);
    failed.into_inner()
}

/// The error for a caught panic.
pub fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::new(ErrorKind::Panic, format!("user code panicked: {}", text.unwrap_or("no message")))
}
