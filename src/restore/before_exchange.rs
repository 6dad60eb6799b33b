//! What a caller does with a restored tree before it takes the target's place.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::fs::Folder;

/// Called with lastgood's own folder in a tree that is about to take the target's place, while it is still in staging:
/// what is made in it there, such as a lock that is held, is in the target from its first moment on.
///
/// It is not called if the target is filled in place, since its own folder stays then, and may be called several times, if
/// a snapshot turns out to be damaged and another one is restored.
#[derive(Clone)]
pub struct BeforeExchange {
    staged: Arc<StagedFolderCallback>,
    aside: Option<Arc<AsideCallback>>,
}

type StagedFolderCallback = dyn Fn(&Folder) -> Result<()> + Send + Sync;
type AsideCallback = dyn Fn(&Folder, &Path) + Send + Sync;

impl BeforeExchange {
    /// Wraps a function; if it returns an error, nothing is put into place.
    pub fn new(call: impl Fn(&Folder) -> Result<()> + Send + Sync + 'static) -> Self {
        BeforeExchange { staged: Arc::new(call), aside: None }
    }

    /// Adds a function that is called before the first step with the directory that holds the restored data in the end, be it still in
    /// staging or filled in place, and with where the previous content goes: relative to that directory once it is in its place, in it
    /// or beside it.
    #[must_use]
    pub fn telling_aside(mut self, call: impl Fn(&Folder, &Path) + Send + Sync + 'static) -> Self {
        self.aside = Some(Arc::new(call));
        self
    }

    /// Calls the function.
    ///
    /// # Errors
    /// Any error of the function.
    pub fn call(&self, own: &Folder) -> Result<()> {
        (self.staged)(own)
    }

    /// Calls the function of [`BeforeExchange::telling_aside`].
    pub fn tell_aside(&self, directory: &Folder, aside: &Path) {
        self.aside.iter().for_each(|tell| tell(directory, aside));
    }
}

impl fmt::Debug for BeforeExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeExchange")
    }
}
