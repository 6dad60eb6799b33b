//! The names of snapshots, which give their order.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::vault::hex::Hex;

/// A snapshot's name: what the name of its object says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName {
    /// Greater than that of every earlier snapshot in the vault and in its replicas; gives the order of snapshots. See
    /// [`seq`](crate::vault::seq).
    pub seq: u64,
    /// When it was committed, to the second.
    pub time: Timestamp,
    /// The first 8 bytes of its root's BLAKE3.
    pub id: Hex<8>,
}

impl SnapshotName {
    /// Returns the name of the root whose encoded bytes are `bytes`; `time` is cut to the second.
    pub fn of(seq: u64, time: Timestamp, bytes: &[u8]) -> Self {
        let time = Timestamp::from_second(time.as_second()).unwrap_or(time);
        SnapshotName { seq, time, id: id_of(bytes) }
    }

    /// Returns the name of its object in `folder`.
    pub fn object(&self, folder: &str) -> String {
        format!("{folder}{self}.json")
    }

    /// Reads a snapshot's name from the name of an object in `folder`. `None` if it is not the name of a snapshot.
    pub fn parse_object(folder: &str, object: &str) -> Option<Self> {
        object.strip_prefix(folder)?.strip_suffix(".json")?.parse().ok()
    }

    /// Checks that the name was made from these bytes.
    ///
    /// # Errors
    /// A text that says that it was not.
    pub fn check_bytes(&self, bytes: &[u8]) -> Result<(), &'static str> {
        match id_of(bytes) == self.id {
            true => Ok(()),
            false => Err("its bytes are not those that its name was made from: it was altered or cut short"),
        }
    }
}

fn id_of(bytes: &[u8]) -> Hex<8> {
    let mut id = [0; 8];
    id.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    Hex(id)
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010}-{}-{}", self.seq, self.time.strftime("%Y%m%dT%H%M%SZ"), self.id)
    }
}

impl FromStr for SnapshotName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not the name of a snapshot");
        let parts: Vec<&str> = text.split('-').collect();
        let [seq, time, id] = parts[..] else { return Err(wrong()) };
        if seq.len() < 10 || !seq.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time)
            .and_then(|t| t.to_zoned(jiff::tz::TimeZone::UTC))
            .map_err(|_| wrong())?;
        let name = SnapshotName { seq: seq.parse().map_err(|_| wrong())?, time: time.timestamp(), id: id.parse()? };
        // A number with more leading zeros parses too, but would be the name of another object.
        if name.to_string() == text { Ok(name) } else { Err(wrong()) }
    }
}

impl Serialize for SnapshotName {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SnapshotName {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_ten_to_twenty_digits_are_in_order_as_numbers_and_written_in_one_way() {
        let name = |seq: u64| SnapshotName::of(seq, Timestamp::UNIX_EPOCH, b"root");
        let numbers = [7, 1_795_957_875, 6_090_925_171, 10_385_892_467, 130_644_976_755, u64::MAX];
        let names: Vec<_> = numbers.into_iter().map(name).collect();
        let mut as_text: Vec<_> = names.iter().map(SnapshotName::to_string).collect();
        assert!(names.is_sorted() && !as_text.is_sorted(), "{as_text:?}");
        as_text.sort();
        let mut read: Vec<_> = as_text.iter().map(|text| text.parse::<SnapshotName>().unwrap()).collect();
        read.sort();
        assert_eq!(read, names);
        let text = name(1_795_957_875).to_string();
        for other in [format!("0{text}"), format!("+{text}"), format!("99{text}9999999999"), text.to_uppercase() + "0"]
        {
            assert!(other.parse::<SnapshotName>().is_err(), "{other}");
        }
        assert!("18446744073709551616-20261121T100001Z-0000000000000000".parse::<SnapshotName>().is_err());
    }
}
