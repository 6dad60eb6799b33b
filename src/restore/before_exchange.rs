//! What a caller does with a restored tree before it takes the target's place.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::fs::Folder;

/// Called with lastgood's own folder in a tree that is about to take the target's place, while it is still in staging:
/// what is made in it there, such as a lock that is held, is in the target from its first moment on.
///
/// It is not called if the target is filled in place, since its own folder stays then, and may be called several times, if
/// a snapshot turns out to be damaged and another one is restored.
#[derive(Clone)]
pub struct BeforeExchange(Arc<StagedFolderCallback>);

type StagedFolderCallback = dyn Fn(&Folder) -> Result<()> + Send + Sync;

impl BeforeExchange {
    /// Wraps a function; if it returns an error, nothing is put into place.
    pub fn new(call: impl Fn(&Folder) -> Result<()> + Send + Sync + 'static) -> Self {
        BeforeExchange(Arc::new(call))
    }

    /// Calls the function.
    ///
    /// # Errors
    /// Any error of the function.
    pub fn call(&self, own: &Folder) -> Result<()> {
        (self.0)(own)
    }
}

impl fmt::Debug for BeforeExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeExchange")
    }
}
