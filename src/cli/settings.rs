//! The configuration file: which one is read, and the arguments of `config`.

use std::path::PathBuf;

use clap::Args;

/// The configuration file to read, and what of it to leave out.
#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration file")]
pub struct ConfigFlags {
    /// Read this TOML file: what it says holds where neither an option nor a variable says anything. Each option has a variable:
    /// LASTGOOD_ and its name in capitals, as LASTGOOD_STORE_TIMEOUT for --store-timeout [env: LASTGOOD_CONFIG]
    /// [default: lastgood.toml in the working directory, if there is one]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Read no configuration file
    #[arg(long, global = true, conflicts_with = "config")]
    pub no_config: bool,
    /// Leave out what the configuration file says of this option, such as `exclude`; repeatable
    #[arg(long, value_name = "KEY", global = true)]
    pub unset: Vec<String>,
}

/// Arguments of `config`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # what is set, by options, variables and the configuration file
  lastgood config
  # everything that holds for one command, defaults included
  lastgood config serve
  # a file to begin with, in which every option is explained
  lastgood config --example > lastgood.toml

Tokens and passwords are not shown, and URLs without their paths.")]
pub struct ConfigArgs {
    /// The command to show, such as `serve` or `publish critical` [default: all, without what is a default]
    #[arg(value_name = "COMMAND")]
    pub of: Vec<String>,
    /// Print a configuration file in which every option is explained and nothing is set
    #[arg(long)]
    pub example: bool,
}
