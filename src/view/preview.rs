//! The preview of a restore as text for people.

use crate::restore::preview::{Changes, Preview};
use indicatif::BinaryBytes;

use super::{IN_USE, PASSED_OVER, entries, line, named, path, time};
use crate::text::{entry_name, printable};

/// The most paths that are shown of each kind of change.
const SHOWN: usize = 5;

/// Describes what would be restored from a vault. `while_in_use` says whether programs that use the target would be no obstacle.
pub fn preview(told: &Preview, vault: &str, while_in_use: bool) -> String {
    let mut text = String::new();
    let target = path(&told.target);
    line(&mut text, format_args!("Nothing was done. {target} would be restored from snapshot {}", told.snapshot.id));
    line(&mut text, format_args!("  taken    {}", time(told.snapshot.time)));
    line(&mut text, format_args!("  from     {}", printable(vault)));
    for (what, changes) in [
        ("new      ", &told.added),
        ("changed  ", &told.changed),
        ("as it is ", &told.unchanged),
        ("gone     ", &told.gone),
    ] {
        line(&mut text, format_args!("  {what}{}", changed(changes, !what.starts_with("as"))));
    }
    for aside in &told.moves_aside {
        line(&mut text, format_args!("  before   what is in {} would move aside", path(aside)));
    }
    for kept in &told.kept {
        line(&mut text, format_args!("  stays    {}, which is mounted there", entry_name(kept.bytes())));
    }
    for user in told.in_use.iter().take(IN_USE) {
        let (program, file) = (printable(&user.program), path(&user.file));
        line(&mut text, format_args!("  IN USE   {program} (process {}) has {file} open", user.pid));
    }
    if !told.in_use.is_empty() && !while_in_use {
        line(&mut text, format_args!("  REFUSED  while programs use it; --while-in-use restores it all the same"));
    }
    for newer in told.passed_over.iter().take(PASSED_OVER) {
        line(
            &mut text,
            format_args!("  newer    {} is passed over: {}", named(&newer.snapshot), printable(&newer.why)),
        );
    }
    for warning in &told.warnings {
        line(&mut text, format_args!("  warning  {}", printable(warning)));
    }
    text
}

fn changed(changes: &Changes, shown: bool) -> String {
    let mut text = format!("{}, {}", entries(changes.entries), BinaryBytes(changes.bytes));
    if shown && let Some((last, rest)) = changes.first[..changes.first.len().min(SHOWN)].split_last() {
        let all: Vec<_> = rest.iter().chain([last]).map(|path| entry_name(path.bytes())).collect();
        let more = if changes.entries > all.len() as u64 { ", …" } else { "" };
        text.push_str(&format!(": {}{more}", all.join(", ")));
    }
    text
}
