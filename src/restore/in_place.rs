//! Names that are ours in a target that is filled in place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::staging_names::STAGING;
use crate::source::marker::MARKER;
use crate::source::select::is_ours;

pub use crate::source::select::OWN as REPLACED;

/// Whether a name in the target is the marker's: no entry of a snapshot gets it.
pub fn is_marker(name: &OsStr) -> bool {
    name == MARKER
}

/// Whether a folder of that name in the target is a restore's own, and stays where it is. Anything else of such a name is
/// somebody's data.
pub fn is_reserved(name: &OsStr) -> bool {
    let name = name.as_bytes();
    is_ours(name) && [STAGING, REPLACED].iter().any(|own| name.starts_with(own.as_bytes()))
}
