//! Tests of the whole program, in one binary: each file beside this one is one subject.

mod by_hand;
mod cli;
mod crash;
mod durable;
mod export;
mod fuzz_corpus;
mod gcs_fuse;
mod inspect;
mod restore;
mod restore_beside;
mod roundtrip;
mod sqlite_busy;
mod sqlite_checks;
mod sqlite_fire;
mod sqlite_found;
mod sqlite_large;
mod sqlite_locks;
mod sqlite_lost;
mod sqlite_races;
mod sqlite_raw;
mod sqlite_shapes;
mod sqlite_slow;
mod sqlite_small;
mod sqlite_source;
mod support;
mod vaults;
