//! The configuration file: where it is, whether it can be trusted, and what its tables say.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lastgood::error::{Code, Error, Result};
use lastgood::text::nearest;
use toml_edit::{Document, Item, TableLike, Value};

use super::options::{Options, Setting, Shape, Table, written};
use super::secret;
use super::switches::yes_or_no;

/// The name of the file that is read where no other one is named.
pub const NAME: &str = "lastgood.toml";
/// The table of variables that are no options.
pub const ENV: &str = "env";
/// Variables that no option stands for, and that a file may set. `tests/config.rs` compares them with `docs/environment.md`.
pub const VARIABLES: [&str; 12] = [
    "AUTO_RESTORE_ON_STARTUP",
    "BACKUP_ENABLED",
    "GCE_METADATA_HOST",
    "GCP_PROJECT_ID",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
    "LASTGOOD_RUN_ENDPOINT",
    "LASTGOOD_STORAGE_ENDPOINT",
    "LASTGOOD_TOKEN",
    "MAX_LOCAL_BACKUPS",
    "PUBSUB_EMULATOR_HOST",
    "STORAGE_EMULATOR_HOST",
];
/// The longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// What a file says of one option: its values, and the line that they are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The values; a switch has `true` or `false`.
    pub values: Vec<String>,
    /// The line, from 1.
    pub line: usize,
}

/// A configuration file as it was found.
#[derive(Debug)]
pub struct FoundFile {
    path: PathBuf,
    text: String,
    mode: u32,
}

/// What a configuration file says; nothing if there is none.
#[derive(Debug, Default)]
pub struct ConfigFile {
    /// Its path, as it was named.
    pub path: Option<PathBuf>,
    /// What should be said about it in the log.
    pub warning: Option<String>,
    options: BTreeMap<(Table, String), Given>,
    variables: BTreeMap<String, Given>,
}

impl FoundFile {
    /// Finds and reads the file: the one that is `named`, or `lastgood.toml` in the working directory. The named file may
    /// belong to anybody. The other one counts only if nobody else can have put it there.
    ///
    /// # Errors
    /// The named file cannot be read, or the file in the working directory cannot be trusted.
    pub fn read(named: Option<PathBuf>) -> Result<Option<Self>> {
        let unasked = named.is_none();
        let path = named.unwrap_or_else(|| NAME.into());
        if path == Path::new("/dev/null") {
            return Ok(None);
        }
        let doing = || format!("read the configuration file {}", path.display());
        let io = |why: io::Error| Error::usage(doing(), &why).with_code(Error::io(doing(), &why).code());
        if unasked {
            match path.symlink_metadata() {
                Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
                // A link is as trustworthy as the user who made it.
                link => trusted(&path, &link.map_err(io)?)?,
            }
        }
        let mut opening = OpenOptions::new();
        // A FIFO without a writer would never be opened.
        opening.read(true).custom_flags(if unasked { libc::O_NONBLOCK } else { 0 });
        let file = opening.open(&path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        if about.is_dir() || (unasked && !about.is_file()) {
            return Err(Error::usage(doing(), "it is not a file").with_code(Code::BadSetting));
        }
        if unasked {
            trusted(&path, &about)?;
        }
        let text = text_of(file).map_err(|why| Error::usage(doing(), why).with_code(Code::BadSetting))?;
        Ok(Some(FoundFile { path, text, mode: about.mode() }))
    }

    /// Returns a file that tests make up.
    #[cfg(test)]
    pub fn of_text(text: &str) -> Self {
        FoundFile { path: NAME.into(), text: text.to_owned(), mode: 0o600 }
    }
}

impl ConfigFile {
    /// Parses the text of a file, and checks each value as the command line does.
    ///
    /// # Errors
    /// A mistake, with the line and the key. No message shows a value that may be a secret.
    pub fn parse(found: &FoundFile, options: &Options) -> Result<Self> {
        let (text, name) = (&*found.text, &*found.path.display().to_string());
        let document = Document::parse(text).map_err(|why| {
            // What the error displays would quote the line, in which a secret may be.
            let line = line_at(text, why.span().map_or(0, |span| span.start));
            let said = why.message().lines().collect::<Vec<_>>().join("; ");
            Error::usage(format!("read {name}, line {line}"), said)
                .with_code(Code::BadSetting)
                .hint("It is TOML: `key = \"value\"`. `lastgood config --example` prints a file to begin with.")
        })?;
        let mut read = ConfigFile { path: Some(found.path.clone()), ..ConfigFile::default() };
        Parser { text, name, options, read: &mut read }.table(&Table::new(), document.as_table())?;
        read.warning = read.open_to_others(found);
        Ok(read)
    }

    /// Returns what the file says of an option, and the table that says it.
    pub fn get(&self, setting: &Setting) -> Option<(&Table, &Given)> {
        setting.tables.iter().find_map(|table| {
            let ((table, _), given) = self.options.get_key_value(&(table.clone(), setting.key.clone()))?;
            Some((table, given))
        })
    }

    /// Returns what the file says of a variable that is no option.
    pub fn variable(&self, name: &str) -> Option<&Given> {
        self.variables.get(name)
    }

    /// Makes it forget what it says of an option, in any table, or of a variable.
    pub fn forget(&mut self, name: &str) {
        self.options.retain(|(_, key), _| key != name);
        self.variables.remove(name);
    }

    /// Returns the warning that every user may read a secret in the file.
    fn open_to_others(&self, found: &FoundFile) -> Option<String> {
        let names = self.options.keys().map(|(_, key)| key).chain(self.variables.keys());
        let secret = names.into_iter().find(|name| secret::is_secret(name)).filter(|_| found.mode & 0o004 != 0)?;
        let (path, word) = (found.path.display(), lastgood::shell::word(found.path.as_os_str()));
        Some(format!("{path} can be read by every user, and `{secret}` in it is a secret: `chmod 600 {word}`"))
    }
}

/// Checks that nobody but root and this user can have made or changed the file, or the link to it.
fn trusted(path: &Path, about: &Metadata) -> Result<()> {
    let us = rustix::process::geteuid().as_raw();
    let why = if about.uid() != us && about.uid() != 0 {
        format!("it belongs to another user, with the id {}, and this is user {us}", about.uid())
    } else if about.mode() & 0o002 != 0 && !about.is_symlink() {
        "every user of this machine may write to it".into()
    } else {
        return Ok(());
    };
    Err(Error::usage(format!("trust {} in the working directory", path.display()), why).with_code(Code::BadSetting).hint(
        "If it is yours, say so: `--config ./lastgood.toml`, or change its owner or mode. `--no-config` goes on without it.",
    ))
}

fn text_of(file: File) -> Result<String, String> {
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|why| why.to_string())?;
    if bytes.len() as u64 > LONGEST {
        return Err("it is longer than 1 MiB".into());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".into())
}

/// Returns the number of the line that a byte of a text is in, from 1.
fn line_at(text: &str, byte: usize) -> usize {
    1 + text.bytes().take(byte).filter(|b| *b == b'\n').count()
}

/// The walk through the tables of a file.
struct Parser<'p> {
    text: &'p str,
    name: &'p str,
    options: &'p Options,
    read: &'p mut ConfigFile,
}

impl Parser<'_> {
    fn table(&mut self, table: &Table, items: &dyn TableLike) -> Result<()> {
        let settings = self.options.of_table(table);
        for (name, item) in items.iter() {
            let span = items.get_key_value(name).and_then(|(key, _)| key.span()).or_else(|| item.span());
            let line = line_at(self.text, span.map_or(0, |span| span.start));
            let below = [&table[..], &[name.to_owned()]].concat();
            let setting = settings.iter().find(|setting| setting.key == name);
            let is_env = table.is_empty() && name == ENV;
            match (item.as_table_like(), setting) {
                (Some(items), None) if is_env => self.variables(items)?,
                (Some(items), None) if self.options.is_table(&below) => self.table(&below, items)?,
                (None, None) if is_env || self.options.is_table(&below) => {
                    return Err(self.wrong(&below, line, format!("it is a table: begin it with {}", written(&below))));
                }
                (_, None) => return Err(self.unknown(table, name, line, &settings)),
                (Some(_), Some(_)) => return Err(self.wrong(&below, line, "it is an option, and no table".into())),
                (None, Some(setting)) => {
                    let values = values(self.options, setting, item).map_err(|why| self.wrong(&below, line, why))?;
                    for value in &values {
                        self.check(setting, value).map_err(|why| self.wrong(&below, line, why))?;
                    }
                    self.read.options.insert((table.clone(), name.to_owned()), Given { values, line });
                }
            }
        }
        Ok(())
    }

    /// Checks a value; switches and counts are checked already.
    fn check(&self, setting: &Setting, value: &str) -> Result<(), String> {
        match setting.shape() {
            Shape::Switch | Shape::Count => Ok(()),
            Shape::One | Shape::List => self.options.check(setting, value),
        }
    }

    fn variables(&mut self, items: &dyn TableLike) -> Result<()> {
        for (name, item) in items.iter() {
            let span = items.get_key_value(name).and_then(|(key, _)| key.span()).or_else(|| item.span());
            let line = line_at(self.text, span.map_or(0, |span| span.start));
            let path = [ENV.to_owned(), name.to_owned()];
            if !VARIABLES.contains(&name) {
                return Err(self.no_variable(name, line));
            }
            let value = item.as_value().and_then(text);
            let value =
                value.ok_or_else(|| self.wrong(&path, line, "it must be one text, number or truth value".into()))?;
            self.read.variables.insert(name.to_owned(), Given { values: vec![value], line });
        }
        Ok(())
    }

    fn wrong(&self, path: &[String], line: usize, why: String) -> Error {
        Error::usage(format!("use `{}` in {}, line {line}", path.join("."), self.name), why).with_code(Code::BadSetting)
    }

    /// Returns the error that a table has no such key, with the key that is probably meant.
    fn unknown(&self, table: &Table, name: &str, line: usize, here: &[Setting]) -> Error {
        let commands = self.options.commands().iter();
        let below = commands.clone().filter(|one| one.starts_with(table) && one.len() > table.len());
        let tables = below.map(|one| one[table.len()].clone()).chain(table.is_empty().then(|| ENV.to_owned()));
        let all: Vec<_> = commands.flat_map(|command| self.options.of(command)).collect();
        let homes = |key: &str| {
            let mut homes: Vec<_> = all.iter().filter(|setting| setting.key == key).map(Setting::home).collect();
            homes.dedup();
            let more = if homes.len() > 1 { " and others" } else { "" };
            homes.first().map(|home| format!("{}{more}", written(home)))
        };
        let hint = if let Some(homes) = homes(name) {
            format!("`{name}` stands in {homes}.")
        } else if let Some(near) = nearest(name, here.iter().map(|setting| setting.key.clone())) {
            format!("Did you mean `{near}`?")
        } else if let Some(near) = nearest(name, tables) {
            format!("Did you mean the table [{}]?", [&table[..], &[near]].concat().join("."))
        } else if let Some(near) = nearest(name, all.iter().map(|setting| setting.key.clone())) {
            format!("Did you mean `{near}` in {}?", homes(&near).unwrap_or_default())
        } else {
            "`lastgood config --example` prints all that there is.".into()
        };
        let path = [&table[..], &[name.to_owned()]].concat();
        self.wrong(&path, line, format!("{} has no such key", place(table))).hint(hint)
    }

    fn no_variable(&self, name: &str, line: usize) -> Error {
        let options = self.options.commands().iter().flat_map(|command| self.options.of(command));
        let option =
            options.into_iter().find(|setting| setting.all_variables().iter().any(|variable| variable == name));
        let near = nearest(name, VARIABLES.map(str::to_owned).into_iter());
        let why = "[env] is for variables that no option stands for, and this is not one";
        let error = self.wrong(&[ENV.to_owned(), name.to_owned()], line, why.into());
        match (option, near) {
            (Some(option), _) => error.hint(format!("It is the key `{}` in {}.", option.key, written(option.home()))),
            (None, Some(near)) => error.hint(format!("Did you mean `{near}`?")),
            (None, None) => error.hint(format!("There are {}.", VARIABLES.join(", "))),
        }
    }
}

/// Returns a table as the subject of a sentence.
fn place(table: &[String]) -> String {
    if table.is_empty() { "the file, before its first table,".into() } else { written(table) }
}

/// Returns an item's values as the command line has them. There is none if it turns off an option that can be given without a value.
fn values(options: &Options, setting: &Setting, item: &Item) -> Result<Vec<String>, String> {
    let value = item.as_value().ok_or("it must be a value")?;
    if let (Some(on), Some(bare)) = (value.as_bool(), options.bare(setting)) {
        return Ok(if on { vec![bare] } else { Vec::new() });
    }
    let wanted = match setting.shape() {
        Shape::Switch => match text(value).and_then(|text| yes_or_no(&text).ok()) {
            Some(on) => return Ok(vec![on.to_string()]),
            None => "it must be true or false",
        },
        Shape::Count => match value.as_integer().and_then(|number| u8::try_from(number).ok()) {
            Some(number) => return Ok(vec![number.to_string()]),
            None => "it must be a number from 0 to 255",
        },
        Shape::One => match text(value) {
            Some(text) if value.as_bool().is_none() => return Ok(vec![text]),
            _ => "it must be one text or number, such as \"text\"",
        },
        Shape::List => {
            let wanted = "it must be a list of texts, such as [\"one\", \"two\"]";
            let plain = |value: &Value| text(value).filter(|_| value.as_bool().is_none()).ok_or(wanted.to_owned());
            return match value.as_array() {
                Some(values) => values.iter().map(plain).collect(),
                None => plain(value).map(|one| vec![one]),
            };
        }
    };
    Err(wanted.into())
}

/// Returns a single value as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.value().clone()),
        Value::Integer(number) => Some(number.value().to_string()),
        Value::Float(number) => Some(number.value().to_string()),
        Value::Boolean(on) => Some(on.value().to_string()),
        Value::Datetime(time) => Some(time.value().to_string()),
        Value::Array(_) | Value::InlineTable(_) => None,
    }
}
