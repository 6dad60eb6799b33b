//! Packs that are lost, as far as a backup knows.

use std::collections::HashSet;

use crate::vault::doubt::told;
use crate::vault::hex::PackId;
use crate::vault::pack::PackInfo;
use crate::vault::state::Tested;

/// Packs that a new snapshot may not name, although earlier ones do.
#[derive(Debug, Default)]
pub struct LostPacks {
    /// They are missing, or have another size.
    pub missing: HashSet<PackId>,
    /// They were read whole, and are not what was stored.
    pub damaged: HashSet<PackId>,
    /// They are damaged in another replica.
    pub elsewhere: HashSet<PackId>,
    /// This user may not read them.
    pub closed: HashSet<PackId>,
    /// What was told of the damaged and the closed ones.
    pub told: Vec<String>,
}

impl LostPacks {
    /// All of them.
    pub fn all(&self) -> HashSet<PackId> {
        let all = self.missing.iter().chain(&self.damaged);
        all.chain(&self.elsewhere).chain(&self.closed).copied().collect()
    }

    /// Takes in a pack that is damaged; says what is to be told of it.
    pub fn add(&mut self, pack: &PackInfo, tested: &Tested) -> Option<String> {
        let what = "what it holds is stored anew, and nothing is built upon it; `lastgood verify` names the snapshots that it hurts";
        let text = format!("{}; {what}", told(pack, &tested.state));
        self.damaged.insert(pack.id).then(|| {
            self.told.push(text.clone());
            text
        })
    }
}
