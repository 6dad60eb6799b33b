//! One writer at a time: how an instance of an app takes over from another one, and how it learns that it was taken over.
//!
//! The [`protocol`] is a pure function.

pub mod protocol;

#[cfg(test)]
mod search;
