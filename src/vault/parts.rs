//! Parts of a snapshot: sixteenths of its files, by their names. With them, a root can say in two bytes which files
//! were not read in its place.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of sixteenths of the files. It is written as the list of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts(u16);

/// How many parts there are.
pub const PARTS: u8 = 16;

impl Parts {
    /// No part.
    pub const NONE: Parts = Parts(0);
    /// All parts.
    pub const ALL: Parts = Parts(u16::MAX);

    /// Returns the part that a file is in; `mark` is the first byte of its name's BLAKE3.
    pub fn of(mark: u8) -> Self {
        Parts(1 << (mark % PARTS))
    }

    /// Returns the parts with these bits.
    pub fn from_bits(bits: u16) -> Self {
        Parts(bits)
    }

    /// Returns the set with one bit for each part.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Whether the set has no part.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all parts of `other` are in it.
    pub fn has(self, other: Parts) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the set with the parts of `other` added.
    pub fn with(self, other: Parts) -> Self {
        Parts(self.0 | other.0)
    }

    /// Returns the first `count` parts of the set from number `start` on; after the last part comes the first one.
    pub fn first(self, count: u32, start: u64) -> Self {
        let start = (start % u64::from(PARTS)) as u8;
        let in_order = (0..PARTS).map(|n| Parts::of(start + n)).filter(|part| self.has(*part));
        in_order.take(count as usize).fold(Parts::NONE, Parts::with)
    }
}

impl Serialize for Parts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq((0..PARTS).filter(|n| self.has(Parts::of(*n))))
    }
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let numbers = Vec::<u64>::deserialize(from)?;
        let part = |number: u64| u8::try_from(number).ok().filter(|n| *n < PARTS).map_or(Parts::ALL, Parts::of);
        // A later version may divide the files differently. Its parts are unknown here, so all parts count, which means
        // that nothing was read.
        Ok(numbers.into_iter().map(part).fold(Parts::NONE, Parts::with))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Parts {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn parts_are_written_as_their_numbers() {
        for text in ["[]", "[0]", "[3,7,15]", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]"] {
            assert_eq!(serde_json::to_string(&parts(text)).unwrap(), text);
        }
        assert_eq!((parts("[]"), parts("[3,16]"), parts("[300]")), (Parts::NONE, Parts::ALL, Parts::ALL));
        assert_eq!(parts("[4]"), Parts::of(0x54));
    }

    #[test]
    fn the_first_parts_are_counted_from_anywhere() {
        let some = parts("[1,2,9,14]");
        for (count, start, first) in
            [(1, 0, "[1]"), (1, 3, "[9]"), (2, 10, "[1,14]"), (1, 15, "[1]"), (9, 5, "[1,2,9,14]"), (0, 0, "[]")]
        {
            assert_eq!(some.first(count, start), parts(first), "{count} from {start}");
            assert_eq!(some.first(count, start + 32), parts(first), "{count} from {start}");
        }
        assert_eq!(Parts::NONE.first(16, 3), Parts::NONE);
    }
}
