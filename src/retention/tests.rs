//! Tests of plans: one table for each rule, and what an adversary, time and a second look may not do.

mod accidents;
mod never;
mod ninety_days;
mod properties;
mod rules;
mod stops;
pub mod table;
