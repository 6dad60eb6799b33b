//! Holds and unpins: pins that last longer than 90 days, and what takes pins and holds back.
//!
//! Both lie in folders in which a writer may create nothing: a stolen writer can neither keep what it stores for ever, nor let go what
//! others keep. What is below `holds/` is believed as pins are, and a hold that cannot be read counts for the snapshot that its name
//! tells. An unpin names the pins and holds that it takes back, so that later ones hold again; one that cannot be read takes nothing back.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Vault;
use super::document::{DocumentError, check_format};
use super::hex::Hex;
use super::pins::{PINS, snapshot_of};
use super::root::SnapshotName;
use crate::error::{Code, Error, Result};

/// The folder of pins that are longer than 90 days, or have no end.
pub const HOLDS: &str = "holds/";
/// The folder of what takes pins and holds back.
pub const UNPINS: &str = "unpins/";
/// The largest hold or unpin that is read, in bytes.
pub const MAX_NOTE: u64 = 64 << 10;
/// The most pins and holds that one unpin names.
pub const MOST_TAKEN_BACK: usize = 200;
/// The version of their form.
const FORMAT: u32 = 1;
/// The most bytes that are kept of the reason.
const TEXT: usize = 500;

/// The content of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The version of its form.
    pub format: u32,
    /// The snapshot that is kept.
    pub snapshot: SnapshotName,
    /// Until when it is kept at least; `None` without end.
    pub until: Option<Timestamp>,
    /// Why, for people.
    #[serde(default)]
    pub why: String,
}

/// The content of an unpin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpin {
    /// The version of its form.
    pub format: u32,
    /// The snapshot that is no longer kept by what it names.
    pub snapshot: SnapshotName,
    /// The objects below `pins/` and `holds/` that it takes back.
    pub pins: Vec<String>,
    /// Why, for people.
    #[serde(default)]
    pub why: String,
}

/// A note about a snapshot, whose object is named by the snapshot.
pub trait Note: Serialize + DeserializeOwned {
    /// The folder of its objects.
    const FOLDER: &str;
    /// What it is called in errors.
    const NOUN: &str;
    /// The snapshot that it is about.
    fn snapshot(&self) -> SnapshotName;
}

impl Note for Hold {
    const FOLDER: &str = HOLDS;
    const NOUN: &str = "hold";
    fn snapshot(&self) -> SnapshotName {
        self.snapshot
    }
}

impl Note for Unpin {
    const FOLDER: &str = UNPINS;
    const NOUN: &str = "unpin";
    fn snapshot(&self) -> SnapshotName {
        self.snapshot
    }
}

fn cut(why: &str) -> String {
    why[..why.floor_char_boundary(TEXT)].to_owned()
}

impl Hold {
    /// Creates a hold; a long reason is cut.
    pub fn new(snapshot: SnapshotName, until: Option<Timestamp>, why: &str) -> Self {
        Hold { format: FORMAT, snapshot, until, why: cut(why) }
    }
}

impl Unpin {
    /// Creates an unpin of at most [`MOST_TAKEN_BACK`] pins and holds; a long reason is cut.
    pub fn new(snapshot: SnapshotName, pins: &[String], why: &str) -> Self {
        Unpin { format: FORMAT, snapshot, pins: pins.to_vec(), why: cut(why) }
    }
}

/// Reads the note of the object `object`.
///
/// # Errors
/// It has another format, is not such a note, or is about another snapshot than its name says.
pub fn parse<N: Note>(object: &str, bytes: &[u8]) -> Result<N, DocumentError> {
    check_format(bytes)?;
    let damaged = |why: String| DocumentError::Damaged(format!("it is not one: {why}"));
    let note: N = serde_json::from_slice(bytes).map_err(|why| damaged(why.to_string()))?;
    match snapshot_of(N::FOLDER, object) == Some(note.snapshot()) {
        true => Ok(note),
        false => Err(damaged(format!("it is of {}, and its name is not", note.snapshot()))),
    }
}

/// Stores a note under a new name. Returns the name.
///
/// # Errors
/// The store fails; there are no random bytes.
pub fn store<N: Note>(vault: &Vault, note: &N, random: &dyn Fn(&mut [u8]) -> Result<()>) -> Result<String> {
    let mut id = [0; 8];
    random(&mut id)?;
    let object = format!("{}{}-{}.json", N::FOLDER, note.snapshot(), Hex(id));
    let mut bytes = serde_json::to_vec(note)
        .map_err(|why| Error::failed(format!("write a {}", N::NOUN), why).with_code(Code::Internal))?;
    bytes.push(b'\n');
    let created = vault.store.create(&object, &[&bytes]);
    created.map_err(|why| why.while_doing(format!("create {object} in {}", vault.store.url())))?;
    Ok(object)
}

/// Returns the snapshot that the pin or hold with this object name keeps. `None` if it is the name of neither.
pub fn kept_by(object: &str) -> Option<SnapshotName> {
    [PINS, HOLDS].iter().find_map(|folder| snapshot_of(folder, object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::system_random;
    use crate::store::Store;
    use crate::store::testing::memory::MemoryStore;

    #[test]
    fn holds_and_unpins_are_as_they_are_documented() {
        let snapshot: SnapshotName = "1790000000-20260921T142640Z-00112233aabbccdd".parse().unwrap();
        let vault = Vault::init(Box::new(MemoryStore::default()), system_random).unwrap();
        let hold = Hold::new(snapshot, None, "the release");
        let object = store(&vault, &hold, &system_random).unwrap();
        assert!(
            object.starts_with("holds/1790000000-20260921T142640Z-00112233aabbccdd-")
                && kept_by(&object) == Some(snapshot)
        );
        let bytes = vault.store.get(&object, MAX_NOTE).unwrap();
        let expected = r#"{"format":1,"snapshot":"1790000000-20260921T142640Z-00112233aabbccdd","until":null,"why":"the release"}"#;
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), format!("{expected}\n"));
        assert_eq!(parse(&object, &bytes), Ok(hold));
        assert!(matches!(
            parse::<Hold>(&object.replace("1790000000", "1790000001"), &bytes),
            Err(DocumentError::Damaged(_))
        ));
        let newer = String::from_utf8(bytes).unwrap().replace("\"format\":1", "\"format\":2");
        assert_eq!(parse::<Hold>(&object, newer.as_bytes()), Err(DocumentError::NewerFormat(2)));

        let unpin = Unpin::new(snapshot, std::slice::from_ref(&object), &"ü".repeat(400));
        assert_eq!(unpin.why.len(), TEXT);
        let taken = store(&vault, &unpin, &system_random).unwrap();
        assert!(taken.starts_with("unpins/") && kept_by(&taken).is_none());
        assert_eq!(parse(&taken, &vault.store.get(&taken, MAX_NOTE).unwrap()), Ok(unpin));
        let most = Unpin::new(snapshot, &vec![object; MOST_TAKEN_BACK], &"\u{1}".repeat(TEXT));
        let most = store(&vault, &most, &system_random).unwrap();
        vault.store.get(&most, MAX_NOTE).unwrap();
    }
}
