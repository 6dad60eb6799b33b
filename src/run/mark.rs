//! The mark in the environment of an app, which everything that it starts inherits: by it the processes are known that a killed `run`
//! has left.
//!
//! It says all that is needed to tell so: which process that `run` is, in which boot and namespaces its number stands for it, and which
//! data directory it runs on. So it proves something also where the directory, with all that was written down in it, was deleted or
//! replaced. A process can put only into its own environment what it likes, so that it can have itself ended at most.

use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf, absolute};
use std::sync::OnceLock;

use super::process::{Process, ProcessIdentity, ProcessSpace, still_runs, this};
use crate::error::Result;
use crate::monitor::system_random;
use crate::vault::hex::Hex;

/// The variable in the app's environment by which what it started is known.
pub const MARK: &str = "LASTGOOD_RUN_MARK";
/// The most symlinks that are followed.
const MAX_LINKS: u32 = 40;

/// Where the app's data is, for its mark. `None` in it: the system does not tell.
static DATA: OnceLock<Option<String>> = OnceLock::new();
static OWN: OnceLock<String> = OnceLock::new();

/// The content of a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunMark {
    /// The process that has made it.
    pub run: ProcessIdentity,
    /// Where that one's number stands for it.
    pub space: ProcessSpace,
    /// The [key](data_key) of the data directory.
    pub data: String,
}

impl RunMark {
    /// Parses a mark. `None` if it says too little.
    pub fn parse(text: &str) -> Option<RunMark> {
        let fields: Vec<_> = text.split(':').collect();
        let [_, pid, start, namespace, clocks, boot, data] = fields[..] else { return None };
        let run = ProcessIdentity { pid: pid.parse().ok()?, start: start.parse().ok()? };
        let (namespace, clocks) = (namespace.parse().ok()?, clocks.parse().ok());
        let space = ProcessSpace { boot: boot.to_owned(), namespace, clocks };
        Some(RunMark { run, space, data: data.to_owned() })
    }

    /// Whether the `run` that has made it is gone, which is known only where its number means something.
    pub fn is_gone(&self) -> bool {
        ProcessSpace::here().as_ref() == Some(&self.space) && !still_runs(self.run)
    }
}

/// Has the mark of what this process runs name a data directory. Only the first call, before the mark is used, has an effect.
pub fn set_data(data: &Path) {
    DATA.get_or_init(|| data_key(data));
}

/// The mark of what this process runs.
///
/// # Errors
/// The system gives no random bytes.
pub fn mark() -> Result<&'static str> {
    if OWN.get().is_none() {
        let mut random = [0; 16];
        system_random(&mut random)?;
        let mut text = Hex(random).to_string();
        // Where the system does not tell all of it, the mark is known to this process alone.
        if let (Some(run), Some(space), Some(Some(data))) = (Process::look(this()), ProcessSpace::here(), DATA.get()) {
            let ProcessIdentity { pid, start } = run.identity;
            let clocks = space.clocks.map(|clocks| clocks.to_string()).unwrap_or_default();
            // Writing to a string does not fail.
            let _ = write!(text, ":{pid}:{start}:{}:{clocks}:{}:{data}", space.namespace, space.boot);
        }
        // Another thread may have been faster.
        let _ = OWN.set(text);
    }
    Ok(OWN.get().map_or("", String::as_str))
}

/// Returns the marks in the environment of a process. None if this process may not read it, as root may not without `CAP_SYS_PTRACE` if the
/// process is of another user.
pub fn marks_of(pid: u32) -> Vec<String> {
    let value = |variable: &[u8]| {
        let value = variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    environment(pid).split(|&byte| byte == 0).filter_map(value).collect()
}

/// Whether a process has an environment, and no mark in it. `false` where it cannot be read, was emptied, or does not look like one: a program
/// may write its title over it.
pub fn is_plainly_unmarked(pid: u32) -> bool {
    let environment = environment(pid);
    let mut names = environment.split(|&byte| byte == 0).map(|variable| variable.split(|&byte| byte == b'=').next());
    names.any(|name| name == Some(b"PATH")) && marks_of(pid).is_empty()
}

fn environment(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

/// The key of a data directory, which need not exist: of its path, and of the mounts that this process sees, since one path may be two
/// directories in two containers. `None` where the system does not say.
pub fn data_key(data: &Path) -> Option<String> {
    let mounts = fs::metadata("/proc/self/ns/mnt").ok()?.ino();
    let mut hash = blake3::Hasher::new();
    hash.update(format!("{mounts} ").as_bytes());
    hash.update(real(data)?.as_os_str().as_bytes());
    let mut short = [0; 16];
    hash.finalize_xof().fill(&mut short);
    Some(Hex(short).to_string())
}

/// Where a path really leads, as far as it exists: the rest stays as it is. The target of a symlink need not exist either.
fn real(path: &Path) -> Option<PathBuf> {
    let mut links = 0;
    let mut real = PathBuf::new();
    let path = absolute(path).ok()?;
    let mut rest: Vec<Component> = path.components().collect();
    rest.reverse();
    let mut owned: Vec<std::ffi::OsString> = rest.into_iter().map(|part| part.as_os_str().to_owned()).collect();
    while let Some(part) = owned.pop() {
        match Path::new(&part).components().next() {
            Some(Component::ParentDir) => {
                real.pop();
            }
            Some(Component::CurDir) | None => {}
            _ => {
                real.push(&part);
                if let Ok(target) = fs::read_link(&real) {
                    links += 1;
                    if links > MAX_LINKS {
                        return None;
                    }
                    real.pop();
                    let parts: Vec<_> = target.components().map(|part| part.as_os_str().to_owned()).collect();
                    owned.extend(parts.into_iter().rev());
                }
            }
        }
    }
    Some(real)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_has_one_key_by_all_its_names_and_also_when_it_is_gone() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().canonicalize().unwrap().join(name);
        let data = at("far/data");
        symlink("../x/../far/data", at("relative")).unwrap();
        symlink(at("far"), at("parent")).unwrap();
        fs::create_dir(at("x")).unwrap();
        fs::rename(at("relative"), at("x/relative")).unwrap();
        let names = [data.clone(), at("x/relative"), at("parent/data"), at("far/./data"), at("x/../far/data")];
        let all = || names.iter().map(|name| data_key(name).unwrap()).collect::<Vec<_>>();
        let gone = all();
        fs::create_dir_all(&data).unwrap();
        assert!(gone.iter().all(|key| *key == gone[0]) && all() == gone, "{gone:?}");
        assert_ne!(data_key(&at("far/other")), data_key(&data));
        symlink("loop", at("loop")).unwrap();
        assert_eq!(data_key(&at("loop")), None);
    }

    #[test]
    fn a_mark_says_whose_it_is() {
        let run = Process::look(this()).unwrap().identity;
        let space = ProcessSpace::here().unwrap();
        let text = |start: u64, boot: &str| {
            let clocks = space.clocks.map(|clocks| clocks.to_string()).unwrap_or_default();
            format!("ab:{}:{start}:{}:{clocks}:{boot}:key", run.pid, space.namespace)
        };
        let own = RunMark::parse(&text(run.start, &space.boot)).unwrap();
        assert_eq!(own, RunMark { run, space: space.clone(), data: "key".into() });
        assert!(!own.is_gone());
        assert!(RunMark::parse(&text(run.start + 1, &space.boot)).unwrap().is_gone());
        assert!(!RunMark::parse(&text(run.start + 1, "another boot")).unwrap().is_gone());
        assert_eq!(RunMark::parse("0123456789abcdef"), None);
        // The one of this process begins without a directory in this test.
        assert!(!mark().unwrap().is_empty());
    }
}
