//! What a data directory is before an app starts in it, and what is done about it.
//!
//! The modules are listed in the order of flow: what is [`known`] is a set of values, from which [`decide`] says what is
//! done.

pub mod decide;
pub mod known;
