//! Programs of others in Python: packages of PyPI, fetched once and kept beside what cargo builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::requirements;

/// Returns Python with these packages (`name==version`); `None`, after printing why, if they are not available.
pub fn with(packages: &[&str]) -> Option<Command> {
    match folder(packages) {
        Ok(folder) => {
            let mut python = Command::new("python3");
            python.env("PYTHONPATH", folder).env("PYTHONDONTWRITEBYTECODE", "1").env("NO_PROXY", "*");
            Some(python)
        }
        Err(why) => {
            requirements::skipped("pypi", &format!("{} cannot be had: {why}", packages.join(", ")));
            None
        }
    }
}

/// Returns the folder that has them. Other processes may fetch the same at the same time: each does it in a folder of its
/// own, and the first rename stays.
fn folder(packages: &[&str]) -> Result<PathBuf, String> {
    let name: String = packages.join("-").chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("python-{name}"));
    if kept.is_dir() {
        return Ok(kept);
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|why| why.to_string())?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]);
    pip.args(["--only-binary=:all:", "--target"]).arg(folder.path().join("packages")).args(packages);
    let done = pip.output().map_err(|why| format!("run python3: {why}"))?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    match std::fs::rename(folder.path().join("packages"), &kept) {
        Err(why) if !kept.is_dir() => Err(format!("keep them: {why}")),
        _ => Ok(kept),
    }
}
