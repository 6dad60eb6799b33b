//! The arguments of `completions` and `man`.

use clap::Args;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # bash
  lastgood completions bash \\
    > ~/.local/share/bash-completion/completions/lastgood
  # zsh, in a folder of $fpath
  lastgood completions zsh > ~/.zfunc/_lastgood
  # fish
  lastgood completions fish > ~/.config/fish/completions/lastgood.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lastgood man | man -l -
  lastgood man backup > /usr/local/share/man/man1/lastgood-backup.1")]
pub struct ManArgs {
    /// The command, such as `backup` or `publish critical` [default: the program itself]
    pub command: Vec<String>,
}
