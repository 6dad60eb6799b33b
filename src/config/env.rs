//! Variables of the environment, read as what they are to say. An empty one says nothing.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lastgood::error::{Error, Result};

use crate::cli;

/// A variable of this process's environment. Nothing else reads it, so that tests can say what is in it.
#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
pub fn of_this_process(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The variables.
#[derive(Clone, Copy)]
pub struct Env<'e>(&'e dyn Fn(&str) -> Option<OsString>);

impl<'e> Env<'e> {
    /// What `get` tells.
    pub fn new(get: &'e dyn Fn(&str) -> Option<OsString>) -> Self {
        Env(get)
    }

    /// What a variable says.
    pub fn get(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// The same as a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// Whether this is Cloud Run: a service, a job or a worker pool.
    pub fn in_cloud_run(&self) -> bool {
        ["K_SERVICE", "CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL"].into_iter().any(|name| self.get(name).is_some())
    }

    /// Text.
    ///
    /// # Errors
    /// Usage: it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let wrong = |_| Error::usage(format!("read {name}"), "it is not UTF-8");
        self.get(name).map(|value| value.into_string().map_err(wrong)).transpose()
    }

    /// Text that `parse` understands.
    ///
    /// # Errors
    /// Usage: what `parse` says is wrong with it.
    pub fn parsed<T>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        parse(text.trim()).map(Some).map_err(|why| Error::usage(format!("take {name}={text}"), why))
    }

    /// A whole number.
    ///
    /// # Errors
    /// Usage: it is none, or too large.
    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>> {
        self.parsed(name, |text| text.parse().map_err(|_| "it is not a whole number of its range".into()))
    }

    /// A length of time.
    ///
    /// # Errors
    /// Usage: it is none.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>> {
        self.parsed(name, cli::duration)
    }

    /// The value of the first of several variables that mean the same thing, and that variable's name.
    ///
    /// # Errors
    /// Usage: two are set to different values.
    pub fn same<'n>(&self, what: &str, names: &[&'n str], hint: &'static str) -> Result<Option<(&'n str, String)>> {
        let mut found: Option<(&str, String)> = None;
        for name in names {
            let Some(value) = self.text(name)? else { continue };
            match &found {
                Some((first, before)) if *before != value => {
                    let why = format!("{first} says {before}, and {name} says {value}");
                    return Err(Error::usage(format!("find out which {what} is meant"), why).hint(hint));
                }
                Some(_) => {}
                None => found = Some((*name, value)),
            }
        }
        Ok(found)
    }
}
