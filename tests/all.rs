//! Tests of the whole program, in one binary: each file beside this one is one subject.

mod cli;
mod fuzz_corpus;
mod inspect;
mod support;
