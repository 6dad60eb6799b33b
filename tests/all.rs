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
mod support;
mod vaults;
