//! What the target says of restores that were cut off.

use std::path::{Path, PathBuf};

use super::RestoreTarget;
use crate::error::{Error, Kind};
use crate::source::marker::Unfinished;

impl RestoreTarget {
    /// Returns a message for each restore to this target that was cut off, or whose marker is unclear.
    pub fn interrupted_restores(&self) -> Vec<String> {
        let mut messages = Vec::new();
        let mut marked = |of: &str, folder: &Path| match Unfinished::at(folder) {
            Ok(marked) => marked,
            Err(unclear) => {
                messages.push(format!("{of}: {unclear}. {}", unclear.advice));
                None
            }
        };
        let kept = self.kept.iter().map(|kept| (kept, marked(&kept.to_string(), &self.target.join(kept.as_path()))));
        let kept: Vec<_> = kept.collect();
        if let Some(unfinished) = marked("the target", &self.folder()) {
            let mut of = "an in-place restore".to_owned();
            if !unfinished.is_all() {
                of = format!("a restore of {unfinished}");
            }
            messages.push(match unfinished.without(&self.paths_below(), &self.lacking_below()) {
                Some(left) => {
                    let ends = left.command(self.vault.as_deref(), &self.target, &self.within);
                    format!("the target is broken: {of} was interrupted; `{ends}` completes it")
                }
                None => {
                    let aside = unfinished.was_there(&self.folder());
                    // If the folder is exchanged, it moves along.
                    let shown = |at: &PathBuf| match at.strip_prefix(&self.target) {
                        Ok(below) if !self.keeps_target() => format!("{}, in what moves aside now", below.display()),
                        _ => at.display().to_string(),
                    };
                    let aside: String =
                        aside.iter().map(|at| format!("; what was there before is in {}", shown(at))).collect();
                    format!("the target was broken: {of} was interrupted; this one completes it{aside}")
                }
            });
        }
        for (kept, marked) in kept {
            if let Some(unfinished) = marked {
                let ends = unfinished.command(self.vault.as_deref(), &self.target, kept);
                messages
                    .push(format!("{kept} is broken: a restore of it in place was interrupted; `{ends}` completes it"));
            }
        }
        messages
    }

    /// Adds to the error that the snapshot lacks a path how an interrupted restore can be completed, if there was one
    /// that may have had that path.
    pub(crate) fn explain_unknown_path(&self, why: Error) -> Error {
        let marked = Unfinished::at(&self.folder()).unwrap_or_default();
        let Some(unfinished) = marked.filter(|marked| !marked.is_all() && why.kind() == Kind::Usage) else {
            return why;
        };
        let ends = unfinished.command(self.vault.as_deref(), &self.target, &self.within);
        let hint = format!(
            "A restore of {unfinished} there was interrupted: `{ends}` completes it, from the same snapshot, and so does a \
             restore of the whole directory."
        );
        let both = why.advice().map(|advice| format!("{advice} {hint}"));
        why.hint(both.unwrap_or(hint))
    }
}
