//! What a data directory is before an app starts in it, and what is done about it.
//!
//! The modules are listed in the order of flow: [`facts`] gathers what is [`known`], with the help of [`compare`],
//! [`databases`] and [`seed`], and [`decide`] says what is done. What is to be saved first may be [`saved`] already, and
//! what is written after that is [`late`].

pub mod saved;
pub mod late;
pub mod facts;
pub mod databases;
pub mod seed;
pub mod compare;
pub mod decide;
pub mod known;
#[cfg(test)]
mod testing;
