//! Verifies each of several vaults.

use serde::Serialize;

use super::pool::VaultPool;
use crate::error::{Error, Kind, Result};
use crate::monitor::Context;
use crate::vault::VaultUser;
use crate::verify::{self, VerifyOptions};

/// The result of verifying one of the vaults.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// Its address.
    pub vault: String,
    /// The report; `None` if the vault could not be verified.
    #[serde(flatten)]
    pub report: Option<verify::VerifyReport>,
    /// Why it could not be verified; `None` if it could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The kind of that failure.
    #[serde(skip)]
    pub kind: Option<Kind>,
}

impl Verified {
    /// Whether something was not verified: the whole vault, or what a newer lastgood wrote.
    pub fn incomplete(&self) -> bool {
        self.error.is_some() || self.report.as_ref().is_some_and(|report| !report.newer_format.is_empty())
    }

    /// Whether damage was found.
    pub fn damaged(&self) -> bool {
        self.kind == Some(Kind::Damage) || self.report.as_ref().is_some_and(|report| !report.sound())
    }
}

/// Verifies every vault, for `user`. A vault that cannot be read does not keep the others from being verified.
///
/// # Errors
/// The only vault cannot be read. If there are several, that is in the report.
pub fn verify(vaults: &VaultPool, options: &VerifyOptions, user: &VaultUser, ctx: &Context) -> Result<Vec<Verified>> {
    let mut done = Vec::new();
    for address in vaults.addresses() {
        let vault = address.absolute();
        let failed = |why: &Error| Verified {
            vault: vault.clone(),
            report: None,
            error: Some(why.what()),
            kind: Some(why.kind()),
        };
        match vaults.store(address).and_then(|store| verify::verify_store_for(user, store, options, ctx)) {
            Ok(report) => done.push(Verified { vault, report: Some(report), error: None, kind: None }),
            Err(why) if vaults.addresses().len() == 1 => return Err(why),
            Err(why) => {
                ctx.check("verify the vaults")?;
                done.push(failed(&why));
            }
        }
    }
    Ok(done)
}
