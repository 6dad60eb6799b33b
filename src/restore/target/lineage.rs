//! What a restored directory says of where its content comes from.

use std::path::Path;

use super::RestoreTarget;
use crate::error::{Doing, Result};
use crate::fs::{Folder, Spot};
use crate::lineage;
use crate::restore::before_exchange::BeforeExchange;
use crate::restore::put::BeforeFill;
use crate::restore::stage::StagingFolder;

impl RestoreTarget {
    /// Writes the lineage into the tree in `staging`, if that is what will be put into place as a whole: so the two
    /// appear together. `before` is called with lastgood's own folder there.
    ///
    /// # Errors
    /// A disk that fails; any error of `before`.
    pub fn stage_lineage(&self, staging: &StagingFolder, before: Option<&BeforeExchange>) -> Result<()> {
        let Some(lineage) = self.lineage.as_ref().filter(|_| !self.in_place) else { return Ok(()) };
        let tree = staged(staging)?;
        lineage::write_in(&tree, lineage)?;
        before.map_or(Ok(()), |before| before.call(&lineage::own_folder(&tree)?))
    }

    /// Tells who wants to know it where the previous content goes, as seen from the restored directory.
    ///
    /// # Errors
    /// A staging folder that cannot be opened.
    pub(super) fn tell_aside(&self, staging: &StagingFolder, aside: &Spot) -> Result<()> {
        let Some(before) = &self.before else { return Ok(()) };
        match self.in_place {
            true => before.tell_aside(staging.base(), Path::new(&aside.name)),
            false => before.tell_aside(&staged(staging)?, &Path::new("..").join(&aside.name)),
        }
        Ok(())
    }

    /// Returns what tells it in the target itself, where that is filled since it could not be exchanged: what was told in the staging
    /// folder is lost with that, if the program is killed before all is in place.
    pub(super) fn telling_in_place<'t>(&'t self, aside: &Spot) -> Option<Box<BeforeFill<'t>>> {
        let (before, aside) = (self.before.as_ref()?, Path::new("..").join(&aside.name));
        Some(Box::new(move |target: &Folder| before.tell_aside(target, &aside)))
    }

    /// Gives the lineage in `staging` to the owner of the tree, which the tree has only when all is in it.
    ///
    /// # Errors
    /// A staging folder that cannot be opened.
    pub fn hand_over_lineage(&self, staging: &StagingFolder) -> Result<()> {
        if !self.in_place {
            self.give_lineage(&staged(staging)?);
        }
        Ok(())
    }

    /// Gives the lineage in a directory to the owner that the directory has now.
    pub(super) fn give_lineage(&self, directory: &Folder) {
        if self.lineage.is_some() {
            lineage::hand_over(directory);
        }
    }

    /// Writes the lineage into the target, which was filled in place.
    ///
    /// # Errors
    /// A disk that fails.
    pub(super) fn write_lineage(&self, target: &Folder) -> Result<()> {
        self.lineage.as_ref().map_or(Ok(()), |lineage| lineage::write_in(target, lineage))
    }
}

fn staged(staging: &StagingFolder) -> Result<Folder> {
    let tree = staging.tree();
    tree.enter().doing(|| format!("open {}", tree.path().display()))
}
