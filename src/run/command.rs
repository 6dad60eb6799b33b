//! Finds the program of the app's command, as a shell does, and says why it cannot be started.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::error::{Code, Error, Result};
use crate::text::printable;

/// Where programs are looked for if there is no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The most bytes of a first line that names an interpreter: Linux reads no more.
const FIRST_LINE: usize = 256;
/// The most bytes of the beginning of a program that are looked at.
const BEGINNING: usize = 4096;
/// The first bytes of a program for Linux.
const ELF: &[u8] = b"\x7fELF";

/// A command whose program was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppCommand {
    /// The program as it was named.
    name: OsString,
    /// Where it is.
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl AppCommand {
    /// Finds the program of a command: a name with a slash is a path, and any other is looked for in the folders of `path`, the
    /// value of PATH.
    ///
    /// # Errors
    /// No command; a program that is not there or cannot be executed, or whose interpreter is not there.
    pub fn find(words: &[OsString], path: Option<&OsStr>) -> Result<AppCommand> {
        let Some((name, arguments)) = words.split_first() else {
            return Err(Error::usage("start the app", "there is no command")
                .hint("Name it after two dashes: `lastgood run -- python app.py`."));
        };
        let found = |program| AppCommand { name: name.clone(), program, arguments: arguments.to_vec() };
        if name.as_bytes().contains(&b'/') {
            check(Path::new(name)).map_err(|why| not_started(name, &why))?;
            return Ok(found(name.into()));
        }
        let mut first = None;
        if !name.is_empty() {
            for folder in path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes().split(|&byte| byte == b':') {
                // No name is the working directory.
                let folder = if folder.is_empty() { b"." } else { folder };
                let program = Path::new(OsStr::from_bytes(folder)).join(name);
                match check(&program) {
                    Ok(()) => return Ok(found(program)),
                    Err(Unusable::Missing) => {}
                    Err(why) => _ = first.get_or_insert(why),
                }
            }
        }
        Err(not_started(name, &first.unwrap_or(Unusable::NotFound)))
    }

    /// The program as it was named.
    pub fn name(&self) -> String {
        printable(&self.name.to_string_lossy())
    }

    /// Where the program is.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Returns the command, to be started.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg0(&self.name).args(&self.arguments);
        command
    }

    /// Returns the command that runs the program as a script of the shell, if it may be one: shells do so with a text that does
    /// not say what it is for.
    pub(super) fn as_script(&self) -> Option<Command> {
        let text = beginning(&self.program).ok().filter(|text| !text.contains(&0) && !text.is_empty())?;
        if text.starts_with(b"#!") {
            return None;
        }
        let mut command = Command::new("/bin/sh");
        command.arg(&self.program).args(&self.arguments);
        Some(command)
    }

    /// The error that the system did not start it.
    pub(super) fn not_started(&self, why: &io::Error) -> Error {
        let why = check(&self.program).err().unwrap_or_else(|| Unusable::Other(why.to_string()));
        not_started(&self.name, &why)
    }
}

/// Why a program cannot be started.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unusable {
    /// There is no such file.
    Missing,
    /// There is none in any folder of PATH.
    NotFound,
    Folder(PathBuf),
    NotAFile(PathBuf),
    NotExecutable(PathBuf),
    /// What has to run it is not there.
    NoInterpreter(PathBuf, String),
    Other(String),
}

/// The error that the app is not started.
fn not_started(name: &OsStr, why: &Unusable) -> Error {
    let error = |why: String| Error::usage(format!("start {}", printable(&name.to_string_lossy())), why);
    let shown = |path: &Path| printable(&path.display().to_string());
    match why {
        Unusable::Missing => error("there is no such file".into())
            .with_code(Code::NotFound)
            .hint("Name the program of the app, and its arguments after it: `lastgood run -- python app.py`."),
        Unusable::NotFound => error("there is no such program in the folders of PATH".into())
            .with_code(Code::NotFound)
            .hint("Install it, or name its path. A program in the working directory is `./NAME`; a command of the shell is `sh -c '…'`."),
        Unusable::Folder(path) => error(format!("{} is a folder", shown(path)))
            .with_code(Code::PermissionDenied)
            .hint("Name the program of the app, and its arguments after it: `lastgood run -- python app.py`."),
        Unusable::NotAFile(path) => {
            error(format!("{} is neither a file nor a folder", shown(path))).with_code(Code::PermissionDenied)
        }
        Unusable::NotExecutable(path) => error(format!("{} may not be executed by this user", shown(path)))
            .with_code(Code::PermissionDenied)
            .hint("`chmod +x` makes it executable, unless its filesystem is mounted with `noexec`. A script can be given to its interpreter: `lastgood run -- python app.py`."),
        Unusable::NoInterpreter(path, interpreter) => error(format!(
            "{} is to be run by {}, and that is not there",
            shown(path),
            printable(interpreter)
        ))
        .with_code(Code::NotFound)
        .hint(match interpreter.ends_with('\r') {
            true => "Its lines end as on Windows: `dos2unix` or `sed -i 's/\\r$//'` mends it.",
            false => "Install that, or make the program for this system: one that was made for glibc does not run on Alpine, nor the other way round.",
        }),
        Unusable::Other(why) => error(why.clone()),
    }
}

/// Looks whether a program can be started, as far as can be told.
fn check(program: &Path) -> Result<(), Unusable> {
    let kind = match program.metadata() {
        Ok(found) => found.file_type(),
        Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(Unusable::Missing);
        }
        Err(why) => return Err(Unusable::Other(format!("{}: {why}", printable(&program.display().to_string())))),
    };
    if kind.is_dir() {
        return Err(Unusable::Folder(program.to_owned()));
    }
    if !kind.is_file() || kind.is_fifo() {
        return Err(Unusable::NotAFile(program.to_owned()));
    }
    if accessat(CWD, program, Access::EXEC_OK, AtFlags::EACCESS).is_err() {
        return Err(Unusable::NotExecutable(program.to_owned()));
    }
    // A program need not be readable.
    let interpreter = beginning(program).ok().and_then(|beginning| interpreter(&beginning));
    match interpreter.filter(|interpreter| !Path::new(interpreter).exists()) {
        Some(interpreter) => {
            Err(Unusable::NoInterpreter(program.to_owned(), interpreter.to_string_lossy().into_owned()))
        }
        None => Ok(()),
    }
}

fn beginning(program: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(BEGINNING);
    File::open(program)?.take(BEGINNING as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the program that has to run a program with this beginning: a script's, or the dynamic linker.
fn interpreter(beginning: &[u8]) -> Option<OsString> {
    if let Some(line) = beginning.strip_prefix(b"#!") {
        let line = line.get(..FIRST_LINE).unwrap_or(line).split(|&byte| byte == b'\n').next()?;
        let word = line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())?;
        return Some(OsString::from_vec(word.to_vec()));
    }
    linker(beginning)
}

/// Returns the dynamic linker that a program for Linux names (elf(5)), if that is in its beginning.
fn linker(program: &[u8]) -> Option<OsString> {
    const LITTLE_ENDIAN: u8 = 1;
    const INTERPRETER: u64 = 3;
    let program = program.strip_prefix(ELF).and(Some(program))?;
    let (wide, order) = (*program.get(4)? == 2, *program.get(5)?);
    if order != LITTLE_ENDIAN {
        return None;
    }
    let number = |at: usize, bytes: usize| {
        let field = program.get(at..at.checked_add(bytes)?)?;
        Some(field.iter().rev().fold(0, |number: u64, byte| number << 8 | u64::from(*byte)))
    };
    let size = |at, bytes| number(at, bytes).and_then(|number| usize::try_from(number).ok());
    let (table, entry, entries) = match wide {
        true => (size(32, 8)?, size(54, 2)?, size(56, 2)?),
        false => (size(28, 4)?, size(42, 2)?, size(44, 2)?),
    };
    for header in (0..entries).map_while(|n| table.checked_add(n.checked_mul(entry)?)) {
        if number(header, 4)? == INTERPRETER {
            let (at, long) = match wide {
                true => (size(header.checked_add(8)?, 8)?, size(header.checked_add(32)?, 8)?),
                false => (size(header.checked_add(4)?, 4)?, size(header.checked_add(16)?, 4)?),
            };
            let name = program.get(at..at.checked_add(long)?)?;
            return Some(OsString::from_vec(name.split(|&byte| byte == 0).next()?.to_vec()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(path: &Path, content: impl AsRef<[u8]>, mode: u32) {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        let scratch = tempfile::tempdir().unwrap();
        let (one, two) = (scratch.path().join("one"), scratch.path().join("two"));
        fs::create_dir_all(one.join("folder")).unwrap();
        fs::create_dir(&two).unwrap();
        let script = "#!/bin/sh\necho";
        file(&one.join("app"), script, 0o644);
        file(&two.join("app"), script, 0o755);
        file(&two.join("folder"), script, 0o755);
        file(&one.join("plain"), script, 0o644);
        file(&two.join("python"), "#! /no/python9 -u\n", 0o755);
        file(&two.join("windows"), "#!/bin/sh\r\necho\r\n", 0o755);
        let path = OsString::from(format!("/nowhere:{}:{}", one.display(), two.display()));
        let find = |name: &str| AppCommand::find(&[name.into(), "x".into()], Some(&path));
        assert_eq!(find("app").unwrap().program(), two.join("app"));
        assert_eq!(find("folder").unwrap().program(), two.join("folder"));
        let path_of = two.join("app");
        assert_eq!(find(path_of.to_str().unwrap()).unwrap().program(), path_of);
        for (name, code, says) in [
            ("nothing", Code::NotFound, "no such program in the folders of PATH"),
            ("", Code::NotFound, "no such program"),
            ("./nothing", Code::NotFound, "no such file"),
            ("/etc/passwd/x", Code::NotFound, "no such file"),
            ("plain", Code::PermissionDenied, "one/plain may not be executed"),
            (one.to_str().unwrap(), Code::PermissionDenied, "one is a folder"),
            ("/dev/null", Code::PermissionDenied, "neither a file nor a folder"),
            ("python", Code::NotFound, "is to be run by /no/python9, and that is not there"),
            ("windows", Code::NotFound, "`dos2unix`"),
        ] {
            let why = find(name).unwrap_err();
            assert!(why.code() == code && why.to_string().contains(says), "{name}: {why}");
        }
        assert!(AppCommand::find(&[], None).unwrap_err().to_string().contains("no command"));
        assert!(AppCommand::find(&["sh".into()], None).is_ok());
    }

    #[test]
    fn the_linker_of_a_program_is_read() {
        let test = beginning(&std::env::current_exe().unwrap()).unwrap();
        let linker = interpreter(&test).unwrap();
        assert!(Path::new(&linker).exists(), "{}", linker.display());
        // Cut off or garbled, it is not known.
        for end in 0..200 {
            interpreter(&test[..end]);
        }
        let garbled: Vec<u8> = test.iter().enumerate().map(|(at, byte)| if at < 24 { *byte } else { 0xff }).collect();
        assert_eq!(interpreter(&garbled), None);
        assert_eq!(interpreter(b"echo"), None);
    }
}
