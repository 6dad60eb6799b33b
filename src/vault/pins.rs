//! Pins: promises that a snapshot is kept until a time, as objects under `pins/`.
//!
//! A pin only ever adds to what is kept, and it is believed whoever made it: a stranger who can write here could as well
//! store more. Unknown fields are ignored. A pin that cannot be read counts for the snapshot that its name tells, until
//! somebody removes it: its name alone is enough to keep something.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Vault;
use super::document::{DocumentError, check_format};
use super::hex::Hex;
use super::root::SnapshotName;
use crate::error::{Code, Error, Result};

/// The folder of pins.
pub const PINS: &str = "pins/";
/// The largest pin that is read, in bytes.
pub const MAX_PIN: u64 = 16 << 10;
/// The version of the form of a pin.
const FORMAT: u32 = 1;
/// The most bytes that are kept of the reason.
const TEXT: usize = 500;

/// The content of a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The version of its form.
    pub format: u32,
    /// The snapshot that is kept.
    pub snapshot: SnapshotName,
    /// Until when it is kept at least.
    pub until: Timestamp,
    /// Why, for people.
    #[serde(default)]
    pub why: String,
    /// The run that made the pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Hex<8>>,
}

impl Pin {
    /// Creates a pin; a long reason is cut.
    pub fn new(snapshot: SnapshotName, until: Timestamp, why: &str, run: Option<Hex<8>>) -> Self {
        let why = why[..why.floor_char_boundary(TEXT)].to_owned();
        Pin { format: FORMAT, snapshot, until, why, run }
    }

    /// Returns its encoded bytes.
    ///
    /// # Errors
    /// No errors in practice: every field has a JSON form.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes =
            serde_json::to_vec(self).map_err(|why| Error::failed("write a pin", why).with_code(Code::Internal))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads the pin of the object `object`.
    ///
    /// # Errors
    /// It has another format, is not a pin, or is of another snapshot than its name says.
    pub fn parse(object: &str, bytes: &[u8]) -> Result<Self, DocumentError> {
        check_format(bytes)?;
        let damaged = |why: String| DocumentError::Damaged(format!("it is not a pin: {why}"));
        let pin: Pin = serde_json::from_slice(bytes).map_err(|why| damaged(why.to_string()))?;
        match pinned(object) == Some(pin.snapshot) {
            true => Ok(pin),
            false => Err(damaged(format!("it is of {}, and its name is not", pin.snapshot))),
        }
    }
}

/// Returns the name of a pin's object.
pub fn object(snapshot: SnapshotName, random: Hex<8>) -> String {
    format!("{PINS}{snapshot}-{random}.json")
}

/// Returns the snapshot that the pin with this object name keeps. `None` if it is not the name of a pin.
pub fn pinned(object: &str) -> Option<SnapshotName> {
    snapshot_of(PINS, object)
}

/// Returns the snapshot that an object of this name in `folder` is about, where objects are named by a snapshot and 64 random bits.
pub fn snapshot_of(folder: &str, object: &str) -> Option<SnapshotName> {
    let (snapshot, random) = object.strip_prefix(folder)?.strip_suffix(".json")?.rsplit_once('-')?;
    random.parse::<Hex<8>>().ok()?;
    snapshot.parse().ok()
}

/// Stores a pin under a new name. Returns the name.
///
/// # Errors
/// The store fails; there are no random bytes.
pub fn store(vault: &Vault, pin: &Pin, random: &dyn Fn(&mut [u8]) -> Result<()>) -> Result<String> {
    let mut id = [0; 8];
    random(&mut id)?;
    let object = object(pin.snapshot, Hex(id));
    let created = vault.store.create(&object, &[&pin.encode()?]);
    created.map_err(|why| why.while_doing(format!("create {object} in {}", vault.store.url())))?;
    Ok(object)
}

/// Returns the snapshots that pins keep, oldest first, whatever the pins themselves say.
///
/// # Errors
/// The store fails.
pub fn all_pinned(vault: &Vault) -> Result<Vec<SnapshotName>> {
    let listed = vault.store.list(PINS).map_err(|why| why.while_doing("list the pins"))?;
    let mut names: Vec<_> = listed.iter().filter_map(|object| pinned(&object.name)).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::system_random;
    use crate::store::Store;
    use crate::store::testing::memory::MemoryStore;

    fn pin() -> Pin {
        let snapshot = "1790000000-20260921T142640Z-00112233aabbccdd".parse().unwrap();
        Pin::new(snapshot, "2026-12-20T00:00:00Z".parse().unwrap(), "diverged", Some(Hex([7; 8])))
    }

    #[test]
    fn a_pin_is_as_it_is_documented_and_named_by_its_snapshot() {
        let object = object(pin().snapshot, Hex([1; 8]));
        assert_eq!(object, "pins/1790000000-20260921T142640Z-00112233aabbccdd-0101010101010101.json");
        assert_eq!(pinned(&object), Some(pin().snapshot));
        let text = String::from_utf8(pin().encode().unwrap()).unwrap();
        let expected = r#"{"format":1,"snapshot":"1790000000-20260921T142640Z-00112233aabbccdd","until":"2026-12-20T00:00:00Z","why":"diverged","run":"0707070707070707"}"#;
        assert_eq!(text, format!("{expected}\n"));
        assert_eq!(Pin::parse(&object, text.as_bytes()), Ok(pin()));
        let more = text.replace("\"until\"", "\"later\":1,\"until\"");
        assert_eq!(Pin::parse(&object, more.as_bytes()), Ok(pin()));
        let newer = text.replace("\"format\":1", "\"format\":2");
        assert_eq!(Pin::parse(&object, newer.as_bytes()), Err(DocumentError::NewerFormat(2)));
        let other = object.replace("1790000000", "1790000001");
        for (object, text) in [(other.as_str(), text.as_str()), (&object, "{}"), (&object, &text[..90])] {
            assert!(matches!(Pin::parse(object, text.as_bytes()), Err(DocumentError::Damaged(_))), "{object} {text}");
        }
        assert_eq!(Pin::new(pin().snapshot, pin().until, &"ü".repeat(400), None).why.len(), TEXT);
        for name in
            ["pins/x.json", "snapshots/1790000000-20260921T142640Z-00112233aabbccdd-0101010101010101.json", "pins/"]
        {
            assert_eq!(pinned(name), None);
        }
    }

    #[test]
    fn several_pins_of_a_snapshot_keep_it() {
        let vault = Vault::init(Box::new(MemoryStore::default()), system_random).unwrap();
        assert_eq!(all_pinned(&vault).unwrap(), []);
        let first = store(&vault, &pin(), &system_random).unwrap();
        assert_ne!(store(&vault, &pin(), &system_random).unwrap(), first);
        vault.store.create("pins/notes.txt", &[b"mine"]).unwrap();
        assert_eq!(all_pinned(&vault).unwrap(), [pin().snapshot]);
        assert_eq!(Pin::parse(&first, &vault.store.get(&first, MAX_PIN).unwrap()), Ok(pin()));
    }
}
