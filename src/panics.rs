//! Turns panics into errors: a fault of lastgood itself ends a run with an error, and nobody waits for a thread that is gone.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Code, Error, Result};

const FAULT: &str = "This is a fault of lastgood: please report it, with what the log says of the panic. Nothing that was \
                     stored is lost.";

/// Does `work`; its panic, or that of one of its threads, becomes an error. `doing` continues "could not …".
///
/// # Errors
/// The errors of `work`, or that it panicked.
pub fn caught<T>(doing: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(error(doing, &*panic)))
}

/// Returns the error that a thread ended in a panic.
pub fn error(doing: &str, panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let said = said.map(|said| format!(": {said}")).unwrap_or_default();
    Error::failed(doing, format!("a thread ended in a panic{said}")).with_code(Code::Internal).hint(FAULT)
}

#[cfg(test)]
mod tests;
