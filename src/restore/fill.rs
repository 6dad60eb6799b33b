//! Names that are ours in a target that is filled in place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::stage::STAGING;
use crate::backup::marker::{MARKER, NEXT};
use crate::backup::select::is_ours;

pub use crate::backup::select::OWN as REPLACED;

/// Whether a name in the target is ours: it is not moved aside, and no entry may have it.
pub fn is_reserved(name: &OsStr) -> bool {
    let name = name.as_bytes();
    [MARKER, NEXT].iter().any(|marker| name == marker.as_bytes())
        || is_ours(name) && [STAGING, REPLACED].iter().any(|own| name.starts_with(own.as_bytes()))
}
