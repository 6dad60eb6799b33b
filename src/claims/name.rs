//! The name by which one process tells another of a claim.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::vault::hex::Hash;

/// A claim's name: `<hash>/<n>`, where its objects are `claims/<hash>/<n>.….json`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimName {
    hash: String,
    n: u64,
}

impl ClaimName {
    /// The name of claim `n` in a folder of claims.
    pub(super) fn of(folder: &str, n: u64) -> Self {
        let hash = folder.strip_prefix(CLAIMS).unwrap_or(folder).trim_end_matches('/').to_owned();
        ClaimName { hash, n }
    }

    /// The claim's number in its folder.
    pub fn number(&self) -> u64 {
        self.n
    }

    /// The folder of its event's claims.
    pub fn folder(&self) -> String {
        format!("{CLAIMS}{}/", self.hash)
    }

    /// The name of an object that belongs to the claim.
    pub fn object(&self, kind: &str) -> String {
        format!("{CLAIMS}{self}.{kind}.json")
    }
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hash, self.n)
    }
}

impl FromStr for ClaimName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "the name of a claim is 32 hex digits, a slash and a number from 1".to_owned();
        let (hash, number) = text.split_once('/').ok_or_else(form)?;
        let hash: Hash = hash.parse().map_err(|_| form())?;
        let n: u64 = number.parse().map_err(|_| form())?;
        let name = ClaimName { hash: hash.to_string(), n };
        // There is one name for one claim: no sign, and no zeros before the number.
        if n > 0 && name.to_string() == text { Ok(name) } else { Err(form()) }
    }
}

impl Serialize for ClaimName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClaimName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// The folder of claims.
pub const CLAIMS: &str = "claims/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "0123456789abcdef0123456789abcdef/12";
        let name: ClaimName = text.parse().unwrap();
        assert_eq!((name.to_string().as_str(), name.number()), (text, 12));
        assert_eq!(name.object("order"), format!("claims/{text}.order.json"));
        assert_eq!(ClaimName::of(&name.folder(), 12), name);
        assert_eq!(serde_json::to_string(&name).unwrap(), format!("\"{text}\""));
        let hash = &text[..32];
        for wrong in ["", "12", "../12", &format!("{hash}/0"), &format!("{hash}/01"), &format!("{hash}/+1")] {
            assert!(wrong.parse::<ClaimName>().is_err(), "{wrong}");
        }
        for wrong in ["/1.failed", "/18446744073709551616", "/1/2", "0/1", ""] {
            assert!(format!("{hash}{wrong}").parse::<ClaimName>().is_err(), "{wrong}");
        }
    }
}
