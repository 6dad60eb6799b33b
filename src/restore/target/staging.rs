//! The staging folder of a target: where it can be made, and making it.

use std::ffi::OsStr;
use std::path::Path;
use std::{fs, io};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::RestoreTarget;
use crate::error::{Code, Doing, Error, Result};
use crate::fs::Folder;
use crate::fs::filesystem;
use crate::monitor::Context;
use crate::restore::attributes::take_over_none;
use crate::restore::lock::lock_target;
use crate::restore::put::USE_IN_PLACE;
use crate::restore::stage::{CreatedFolders, StagingFolder};

impl RestoreTarget {
    /// Checks that something can be made where the staging folder will be, as far as the system can tell beforehand.
    ///
    /// # Errors
    /// Failed: nothing can be made there.
    pub fn check_writable(&self) -> Result<()> {
        let base = self.base();
        let there = filesystem::existing(&base);
        let may = |folder: &Path| access(folder, Access::WRITE_OK | Access::EXEC_OK);
        let Err(why) = may(there) else { return Ok(()) };
        let hint = match why {
            Errno::ROFS => {
                "It is mounted read-only: mount it so that it can be written to, or restore to another folder."
            }
            _ if !self.in_place && self.exists && may(&self.target).is_ok() => {
                "Run it as a user who may write there. Or --in-place fills the folder itself: what is there is then moved into a \
                 folder inside it."
            }
            _ => {
                "Run it as a user who may write there, or change its owner or mode. Where `lsattr -d` shows it as i, `chattr -i` ends that."
            }
        };
        let code = match why {
            Errno::ROFS => Code::ReadOnly,
            Errno::ACCESS | Errno::PERM => Code::PermissionDenied,
            _ => Code::Failed,
        };
        let doing = format!("restore to {}", self.target.display());
        let why = format!("nothing can be made in {}: {}", there.display(), io::Error::from(why));
        Err(Error::failed(doing, why).with_code(code).hint(hint))
    }

    /// Makes the staging folder. Also returns what is to be reported of other staging folders, as
    /// [`StagingFolder::make`] does.
    ///
    /// # Errors
    /// A system call that fails; a target that could not be exchanged there. Nothing that was made for it stays then.
    pub fn stage(&self, ctx: &Context) -> Result<(StagingFolder, Vec<String>)> {
        let doing = || format!("make the folder that {} goes into", self.target.display());
        if self.exists {
            return match self.in_place {
                true => StagingFolder::make(Folder::straight(&self.folder()).doing(doing)?, OsStr::new(""), ctx),
                false => self.stage_in(Folder::straight(self.parent()).doing(doing)?, ctx),
            };
        }
        let there = filesystem::existing(self.parent());
        let within = |path: &Path| path.strip_prefix(there).map(Path::to_owned).unwrap_or_default();
        let mut made: Vec<_> = self.parent().ancestors().take_while(|above| *above != there).map(within).collect();
        if self.in_place {
            made.insert(0, within(&self.target));
        }
        let made = CreatedFolders { base: Folder::open(there).doing(doing)?, folders: made };
        let staged = fs::create_dir_all(self.parent()).doing(doing).and_then(|()| {
            let above = Folder::open(self.parent()).doing(doing)?;
            if !self.in_place {
                return self.stage_in(above, ctx);
            }
            let target = above.make_all(Path::new(self.name()?), 0o777).doing(doing)?;
            take_over_none(target.readable().doing(doing)?).doing(doing)?;
            // Another restore may have made it and be filling it.
            let (locked, note) = lock_target(&self.target, ctx)?;
            let (staging, mut left) = StagingFolder::make(target, OsStr::new(""), ctx)?;
            left.extend(note);
            Ok((staging.locking(locked), left))
        });
        match staged {
            Ok((staging, left)) => Ok((staging.with(made), left)),
            Err(why) => {
                made.remove();
                Err(why)
            }
        }
    }

    /// Makes the staging folder beside the target, if what is made there can be put into place.
    fn stage_in(&self, above: Folder, ctx: &Context) -> Result<(StagingFolder, Vec<String>)> {
        let (staging, left) = StagingFolder::make(above, self.name()?, ctx)?;
        let moves = if self.keeps_target() { Ok(true) } else { staging.moves_folders() };
        let why = match moves {
            Ok(true) => return Ok((staging, left)),
            Ok(false) => {
                let why = "folders cannot be renamed on that filesystem";
                Error::usage(format!("restore to {}", self.target.display()), why).hint(USE_IN_PLACE)
            }
            Err(why) => why,
        };
        staging.abandon();
        left.iter().for_each(|left| tracing::warn!("{left}"));
        Err(why)
    }
}
