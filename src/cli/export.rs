//! Arguments of `export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Which snapshot: latest, an id or the beginning of one, or a day or time in UTC
    pub snapshot: String,
    /// The file to write, which must not exist; - is stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How the archive says what a tar header cannot
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ExportFormat::Pax)]
    pub format: ExportFormat,
}

/// How an archive says what a tar header cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Times to the nanosecond, ACLs and holes, as GNU tar, bsdtar and Python read them
    Pax,
    /// For programs that know no PAX records: times in whole seconds, ACLs as attributes alone, holes as zeros
    Plain,
}
