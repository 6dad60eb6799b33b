//! Reads variables of the environment as typed values. An empty variable counts as not set.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use lastgood::error::{Code, Error, Result};

use super::options::one_of;
use crate::cli;

/// A variable of this process's environment. Nothing else reads it, so that tests can say what is in it.
#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
pub fn of_this_process(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The names of the variables of this process's environment, but for those that are not UTF-8.
#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
pub fn names_of_this_process() -> Vec<String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
}

/// The environment's variables.
#[derive(Clone, Copy)]
pub struct Env<'e>(&'e dyn Fn(&str) -> Option<OsString>);

impl<'e> Env<'e> {
    /// Creates it from a function that returns a variable's value.
    pub fn new(get: &'e dyn Fn(&str) -> Option<OsString>) -> Self {
        Env(get)
    }

    /// Returns a variable's value; `None` if it is not set or empty.
    pub fn get(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// Returns a variable's value as a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// Whether this is Cloud Run: a service, a job or a worker pool.
    pub fn in_cloud_run(&self) -> bool {
        ["K_SERVICE", "CLOUD_RUN_JOB", "CLOUD_RUN_WORKER_POOL"].into_iter().any(|name| self.get(name).is_some())
    }

    /// Returns a variable's value as text.
    ///
    /// # Errors
    /// Usage: it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let wrong = |_| Error::usage(format!("read {name}"), "it is not UTF-8").with_code(Code::BadSetting);
        self.get(name).map(|value| value.into_string().map_err(wrong)).transpose()
    }

    /// Returns a variable's value as `parse` reads it, without blanks around it.
    ///
    /// # Errors
    /// Usage: `parse` says what is wrong with it, or it is not UTF-8.
    pub fn parsed<T>(&self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        parse(text.trim())
            .map(Some)
            .map_err(|why| Error::usage(format!("use {name}={text}"), why).with_code(Code::BadSetting))
    }

    /// Returns a variable's value as a whole number.
    ///
    /// # Errors
    /// Usage: it is not a number, or too large.
    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>> {
        self.parsed(name, |text| text.parse().map_err(|_| "it is not a whole number, or too large".into()))
    }

    /// Returns a variable's value as one of those that an option has.
    ///
    /// # Errors
    /// Usage: it is none of them.
    pub fn choice<C: ValueEnum>(&self, name: &str) -> Result<Option<C>> {
        let allowed = || {
            let words = C::value_variants().iter().filter_map(C::to_possible_value);
            words.map(|word| word.get_name().to_owned()).collect::<Vec<_>>()
        };
        self.parsed(name, |text| C::from_str(text, true).map_err(|_| format!("it must be {}", one_of(&allowed()))))
    }

    /// Returns a variable's value as a length of time.
    ///
    /// # Errors
    /// Usage: it is not a length of time.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>> {
        self.parsed(name, cli::duration)
    }

    /// Returns the value of the first of several variables that mean the same thing, and that variable's name.
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
                    return Err(Error::usage(format!("find out which {what} is meant"), why)
                        .with_code(Code::BadSetting)
                        .hint(hint));
                }
                Some(_) => {}
                None => found = Some((*name, value)),
            }
        }
        Ok(found)
    }
}
