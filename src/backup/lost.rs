//! Holds the packs that are lost, as far as a backup knows.

use std::collections::HashSet;

use crate::vault::doubt::told;
use crate::vault::hex::PackId;
use crate::vault::pack::PackInfo;
use crate::vault::state::Tested;

/// Packs that a new snapshot may not name, although earlier ones do.
#[derive(Debug, Default)]
pub struct LostPacks {
    /// Packs that are missing, or have another size.
    pub missing: HashSet<PackId>,
    /// Packs that were read whole, and are not what was stored.
    pub damaged: HashSet<PackId>,
    /// Packs that are damaged in another replica.
    pub elsewhere: HashSet<PackId>,
    /// Packs that this user may not read.
    pub closed: HashSet<PackId>,
    /// Warnings that were given about damaged and closed packs.
    pub warnings: Vec<String>,
}

impl LostPacks {
    /// Returns all of these packs.
    pub fn all(&self) -> HashSet<PackId> {
        let all = self.missing.iter().chain(&self.damaged);
        all.chain(&self.elsewhere).chain(&self.closed).copied().collect()
    }

    /// Adds a damaged pack. Returns the warning about it, unless it is known already.
    pub fn add(&mut self, pack: &PackInfo, tested: &Tested) -> Option<String> {
        let what = "what it holds is stored again, and nothing is built upon it; `lastgood verify` names the snapshots that need it";
        let text = format!("{}; {what}", told(pack, &tested.state));
        self.damaged.insert(pack.id).then(|| {
            self.warnings.push(text.clone());
            text
        })
    }
}
