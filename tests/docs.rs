//! README.md and the pages of docs/ say what is so.
//!
//! - A `console` block is run, in a folder of its own for each page, and its output compared. `SNAPSHOTS=overwrite cargo test docs`
//!   writes the output of today into the pages.
//! - A command of `lastgood` or `gcloud` in any other block, or in a sentence, is one that the program understands.
//! - Tables of variables, exit codes, results and routes hold what the program has, and nothing else.
//! - Links lead somewhere, and a page is short and says which question it answers.

pub mod commands;
mod console;
mod facts;
mod links;
mod pages;
mod start;
mod words;
