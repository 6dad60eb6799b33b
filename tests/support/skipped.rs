//! How a test says that the machine lacks what it needs. The library's own tests use this file too.

use std::fs::File;
use std::io::Write;
use std::thread;

/// Says that this test, or a part of it, is skipped, since the machine lacks `what` (a word such as `gcloud`), and `why`.
///
/// Where `LASTGOOD_SKIPPED` names a file, as in `.ci/run`, a line with the word, the test and the reason is added to it, and
/// `.ci/run` lists them all at its end. Without it, `CI=true` makes this a failure unless `LASTGOOD_CI_SKIP` names the word.
pub fn skipped(what: &str, why: &str) {
    let test = thread::current().name().unwrap_or("a thread").to_owned();
    eprintln!("SKIPPED: {test}: {what}: {why}");
    if let Some(list) = std::env::var_os("LASTGOOD_SKIPPED") {
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        // One write for each line: other tests add theirs at the same time.
        let line = format!("{what}\t{test}\t{why}\n");
        let mut list = File::options().append(true).create(true).open(list).unwrap();
        return list.write_all(line.as_bytes()).unwrap();
    }
    let allowed = std::env::var("LASTGOOD_CI_SKIP").unwrap_or_default();
    let allowed = allowed.split(',').any(|word| word.trim() == what);
    assert!(allowed || std::env::var("CI").as_deref() != Ok("true"), "{what} is missing: {why}");
}
