//! Staging: how packs are kept that nothing names yet.
//!
//! A backup stores packs for as long as it runs, and only its root, or a checkpoint, names them. If it fails before
//! that, they are garbage that nobody may delete: an object in a vault may be somebody else's. In a folder they are
//! therefore not objects until something is about to name them: they wait in `tmp/`, whole and durable, and get their
//! names all at once. The files that a failed backup leaves behind there are its own, and it removes them; those of a
//! killed one are swept a day later. So a full disk does not stay full of what nothing needs. A bucket does not run
//! full, and its objects cannot be renamed: there, packs are objects at once.
