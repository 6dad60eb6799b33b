//! One writer at a time: how an instance of an app takes over from another one, and how it learns that it was taken over.
//!
//! The [`protocol`] is a pure function. [`admission`] decides who may begin at all, and the [`driver`] makes the protocol's
//! calls to the vaults.

pub mod driver;
pub mod admission;
pub mod protocol;
pub mod clock;

#[cfg(test)]
mod search;
