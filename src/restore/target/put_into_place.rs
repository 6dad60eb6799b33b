//! Puts the tree in the staging folder into place, clears up, and takes it all back when a step fails.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::syncfs;

use super::paths::may_be_there;
use super::{Replaced, RestoreTarget};
use crate::error::{Code, Doing, Error, Result};
use crate::fs::filesystem::is_mount;
use crate::fs::{Folder, Spot, is_folder};
use crate::monitor::Context;
use crate::path::EntryPath;
use crate::restore::capabilities::sync_folder;
use crate::restore::put::Putting;
use crate::restore::stage::StagingFolder;
use crate::restore::staging_names::shortened;
use crate::restore::undo::Undone;
use crate::restore::{in_place, mounts};
use crate::source::marker::{self, MARKER, Unfinished};

impl RestoreTarget {
    /// Puts the tree in `staging`, which is whole and verified, into place, and returns what was there. `last` is
    /// called before anything is moved and may refuse; `set_metadata` gives a target that is filled in place the metadata that
    /// the snapshot has for it.
    ///
    /// # Errors
    /// A system call that fails, and any error of `last`: the target is then as it was, or, if a step could not be
    /// undone, the error says what is where. An error after the last step says that what was restored is in place.
    pub fn put(
        &self,
        staging: StagingFolder,
        now: Timestamp,
        ctx: &Context,
        last: &dyn Fn() -> Result<()>,
        set_metadata: &dyn Fn(&OwnedFd) -> Result<()>,
    ) -> Result<Replaced> {
        // What is told goes into staging, which is made durable then.
        let aside = self.aside(&staging, now).and_then(|aside| self.tell_aside(&staging, &aside).map(|()| aside));
        let (aside, since) = match aside.and_then(|aside| Ok((aside, staging.sync().and_then(|()| staging.settle())?)))
        {
            Ok(ready) => ready,
            Err(why) => {
                staging.abandon();
                return Err(why);
            }
        };
        let base = staging.base().clone();
        let kept = self.kept.iter().map(|path| self.below(path)).collect();
        let mut putting = Putting::new(aside, kept, self.paths_below(), ctx);
        putting.steps.staged = Some((staging.name().into(), since));
        putting.notes = Some(staging.folder().clone());
        putting.snapshot = self.snapshot;
        putting.before_fill = self.telling_in_place(&putting.aside);
        let (moved, beside) = match last().and_then(|()| self.steps(&mut putting, &staging, last)) {
            Ok(done) => done,
            Err(why) => {
                let Undone { why, whole } = putting.undo(why);
                // A step that could not be undone may involve the staging folder.
                if whole {
                    staging.abandon();
                }
                return Err(why);
            }
        };
        let aside = (moved || !beside.is_empty()).then(|| putting.aside.path());
        let ended = self.end(putting, staging, &base, set_metadata).map_err(|why| {
            let place = match &aside {
                Some(aside) => format!("What was restored is in place, what was there in {}.", aside.display()),
                None => "What was restored is in place.".to_owned(),
            };
            let both = why.advice().map(|advice| format!("{place} {advice}"));
            why.hint(both.unwrap_or(place))
        });
        ended.map(|replaced| Replaced { aside, beside, ..replaced })
    }

    /// Makes durable what was put into place, and clears up.
    fn end(
        &self,
        mut putting: Putting,
        staging: StagingFolder,
        base: &Arc<Folder>,
        set_metadata: &dyn Fn(&OwnedFd) -> Result<()>,
    ) -> Result<Replaced> {
        let doing = |path: &Path| format!("open {}", path.display());
        let target = self.opened(base)?;
        let whole = putting.filled && self.paths_below().is_empty();
        let set_metadata = || match whole && self.in_place {
            true => set_metadata(&target.readable().doing(|| doing(target.path()))?),
            false => Ok(()),
        };
        if putting.filled || putting.is_marked() {
            let readable = target.readable().doing(|| doing(target.path()))?;
            syncfs(&readable).doing(|| format!("write {} to the disk", target.path().display()))?;
        }
        // Whichever restore marked it: the target, or at least the paths that were put there, are whole and durable
        // now. A file of that name that is not a marker was reported before.
        let mut gone = self.lacking_below();
        gone.retain(|path| !may_be_there(&target, path));
        let marked = Unfinished::read(&target).unwrap_or_default();
        let mut done = self.paths_below();
        let all = done.len();
        done.retain(|path| !putting.damaged.contains(path));
        let left = match done.len() {
            n if n == all => marked.as_ref().and_then(|marked| marked.without(&done, &gone)),
            // Paths that this restore left out are as they were before.
            0 => putting.was_unfinished(marked.as_ref()).cloned(),
            _ => putting.was_unfinished(marked.as_ref()).and_then(|marked| marked.without(&done, &gone)),
        };
        let saying = || format!("have {MARKER} in {} say what is left", target.path().display());
        if left.is_some() && left != marked {
            marker::set(&target, staging.folder(), left.as_ref()).doing(saying)?;
        }
        let via = staging.folder().clone();
        staging.remove()?;
        if whole && self.in_place {
            self.write_lineage(&target)?;
        }
        set_metadata()?;
        if whole && self.in_place {
            self.give_lineage(&target);
        }
        if left.is_none() && marked.is_some() {
            marker::set(&target, &via, None).doing(|| format!("remove {MARKER} from {}", target.path().display()))?;
        }
        // At the very end, because everything else changes the times of folders.
        let without_attributes = putting.apply_pending_attributes();
        set_metadata()?;
        sync_folder(&target)?;
        match self.in_place {
            true => sync_folder(&Folder::open(self.parent()).doing(|| doing(self.parent()))?)?,
            false => sync_folder(base)?,
        }
        Ok(Replaced {
            without_attributes,
            left_out: putting.left_out,
            unfinished: left.filter(|_| done.len() < all),
            ..Replaced::default()
        })
    }

    /// Takes all steps that put what is in `staging` into place. Returns whether something was moved aside, and which
    /// side files were.
    fn steps(
        &self,
        putting: &mut Putting,
        staging: &StagingFolder,
        last: &dyn Fn() -> Result<()>,
    ) -> Result<(bool, Vec<EntryPath>)> {
        if self.exists && mounts::below(&self.target)? != self.mounts {
            let why = "what is mounted in it has changed meanwhile";
            return Err(Error::failed(format!("restore to {}", self.target.display()), why).hint("Run it again."));
        }
        if !self.exists && !self.in_place {
            // The rename replaces nothing, even if something appears there at this moment.
            let tree = staging.tree();
            if !self.has_come(staging)? && putting.steps.rename(&tree, &Spot::new(staging.base(), self.name()?)).is_ok()
            {
                return Ok((false, Vec::new()));
            }
            if self.has_come(staging)? {
                self.lock_what_came(putting)?;
                last()?;
            }
        }
        if !self.paths_below().is_empty() && (self.keeps_target() || self.has_come(staging)?) {
            return self.put_paths(putting, staging);
        }
        let root = EntryPath::root();
        let moved = if self.in_place {
            let tree = staging.tree();
            let tree = Arc::new(tree.enter().doing(|| format!("open {}", tree.path().display()))?);
            putting.fill_folder(&tree, staging.base(), &root)?
        } else {
            putting.replace(&staging.tree(), &Spot::new(staging.base(), self.name()?), &root)?
        };
        putting.forget()?;
        Ok((moved, Vec::new()))
    }

    /// Whether there is a folder at the target now where there was none: an app or another restore may have made it meanwhile.
    fn has_come(&self, staging: &StagingFolder) -> Result<bool> {
        let doing = || format!("look whether {} has come meanwhile", self.target.display());
        Ok(matches!(staging.base().look(self.name()?).doing(doing)?, Some(stat) if is_folder(&stat)))
    }

    /// Locks a target that has appeared meanwhile, and refuses it if something is mounted there.
    fn lock_what_came(&self, putting: &mut Putting) -> Result<()> {
        let doing = || format!("look at {}", self.target.display());
        putting.lock(&self.target)?;
        if !mounts::below(&self.target)?.is_empty() || is_mount(&self.target).doing(doing)? {
            let why = "something was mounted there meanwhile";
            return Err(Error::failed(format!("restore to {}", self.target.display()), why)
                .with_code(Code::MountPoint)
                .hint("Run it again."));
        }
        Ok(())
    }

    /// Opens the folder that is worked in; `base` is the folder in which the staging folder is.
    pub(super) fn opened(&self, base: &Arc<Folder>) -> Result<Arc<Folder>> {
        if self.in_place {
            return Ok(base.clone());
        }
        let target = base.enter(self.name()?).doing(|| format!("open {}", self.target.display()))?;
        Ok(Arc::new(target))
    }

    /// Finds a name for what was there: one that is free, and still will be when the tree is in place.
    fn aside(&self, staging: &StagingFolder, now: Timestamp) -> Result<Spot> {
        let (base, tree) = (staging.base(), staging.tree());
        let tree = tree.enter().doing(|| format!("open {}", tree.path().display()))?;
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let stem = match self.in_place {
            true => OsString::from(format!("{}{time}", in_place::REPLACED)),
            false => {
                // Leaves room for a number that may follow.
                let after = format!(".replaced-{time}");
                let mut name = shortened(self.name()?, after.len() + "-999".len());
                name.push(after);
                name
            }
        };
        let numbered = (2..1000).map(|n| {
            let mut name = stem.clone();
            name.push(format!("-{n}"));
            name
        });
        let mut names = std::iter::once(stem.clone()).chain(numbered);
        let is_free = |name: &OsString| matches!((base.look(name), tree.look(name)), (Ok(None), Ok(None)));
        let free = names.find(is_free);
        let free = free.ok_or_else(|| {
            let stem = base.path().join(&stem);
            let why = format!("all names from {0} to {0}-999 are taken", stem.display());
            Error::failed("move aside what is there", why).with_code(Code::AlreadyExists).hint("Run it again.")
        })?;
        Ok(Spot::new(base, free))
    }
}
