//! Epochs: which instance of an app writes, as objects under `epochs/`.
//!
//! An instance that runs an app has an epoch, whose number is the upper half of its snapshots' numbers. The objects of an
//! epoch are created once; which of them there are says how it stands. `epochs/protocol.rs` says who creates which one,
//! and when.
//!
//! The objects may come from strangers. Names have one spelling, long texts are cut, and unknown fields are ignored.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::hex::Hex;
use super::root::{SnapshotName, SourceIdentity};

/// The folder of epochs.
pub const EPOCHS: &str = "epochs/";
/// The version of the form of the documents.
pub const FORMAT: u32 = 1;
/// The largest document that is read, in bytes.
pub const MAX_EPOCH: u64 = 64 << 10;
/// How far a number may be above the epoch of the newest snapshot. One that is further above is ignored: numbers must not
/// be used up by one writer.
pub const AHEAD: u32 = 1 << 20;
/// The most bytes that are kept of a text in a document; a cut text gets an ellipsis on top.
const TEXT: usize = 200;
/// The number of bits of a snapshot's number below its epoch.
const BITS: u32 = 32;

/// The kinds of objects that an epoch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EpochRecord {
    /// `<n>.json`: the epoch itself, or a signpost to a greater one.
    Epoch,
    /// `<n>.yields.json`: the holder has seen its successor, and is about to end.
    Yields,
    /// `<n>.end.json`: the epoch is over.
    End,
    /// `<n>.runs.json`: the holder's app was started.
    Runs,
    /// `<n>.alive.json`: an epoch that only asks is told that the holder of an older one lives.
    Alive,
}

impl EpochRecord {
    const ALL: [EpochRecord; 5] =
        [EpochRecord::Epoch, EpochRecord::Yields, EpochRecord::End, EpochRecord::Runs, EpochRecord::Alive];

    fn ending(self) -> &'static str {
        match self {
            EpochRecord::Epoch => ".json",
            EpochRecord::Yields => ".yields.json",
            EpochRecord::End => ".end.json",
            EpochRecord::Runs => ".runs.json",
            EpochRecord::Alive => ".alive.json",
        }
    }

    /// Returns the name of its object for the epoch `number`.
    pub fn object(self, number: u32) -> String {
        format!("{EPOCHS}{number}{}", self.ending())
    }

    /// Reads the name of an object. `None` if it is not one of an epoch: numbers begin at 1 and have no leading zeros.
    pub fn parse_object(object: &str) -> Option<(EpochRecord, u32)> {
        let name = object.strip_prefix(EPOCHS)?;
        let digits = name.split_once('.')?.0;
        let number: u32 = digits.parse().ok().filter(|number| *number > 0)?;
        EpochRecord::ALL
            .into_iter()
            .map(|record| (record, number))
            .find(|(record, number)| record.object(*number) == object)
    }
}

/// The content of `<n>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EpochDocument {
    /// The version of this form.
    #[serde(default)]
    pub format: u32,
    /// The run whose epoch it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Hex<8>>,
    /// Where it is only a signpost for the holder of the epoch before: the number of the epoch that took over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<u32>,
    /// Whether it gives way to the holder of an older epoch, if that one lives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// The app's service, if it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The service's revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The host's name.
    #[serde(default)]
    pub host: String,
    /// The data directory, if it is on a filesystem of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<SourceIdentity>,
    /// How often the holder looks for a successor, in milliseconds.
    #[serde(default = "unknown_poll")]
    pub poll_ms: u64,
    /// When it was begun, by the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// How many epochs, with this one, were begun in quick succession.
    #[serde(default)]
    pub row: u32,
    /// The program and its version.
    #[serde(default)]
    pub writer: String,
}

/// The content of an epoch's other objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochMark {
    /// The version of this form.
    #[serde(default)]
    pub format: u32,
    /// The number of the epoch that created it. An end is made by the epoch itself, or by force by a greater one.
    pub by: u32,
    /// That epoch's run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Hex<8>>,
    /// When it was created, by the store's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// In an end by the epoch itself: its last snapshot, if it took one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotName>,
    /// In the mark that the app runs: the data directory then, as an epoch's document has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<SourceIdentity>,
    /// The host's name.
    #[serde(default)]
    pub host: String,
    /// The program and its version.
    #[serde(default)]
    pub writer: String,
}

impl EpochDocument {
    /// Reads the document. One that is not what this program writes still stands for an epoch that nothing is known of,
    /// with an interval that is the longest one: its number is taken, and its holder may live.
    pub fn parse(bytes: &[u8]) -> Self {
        let object = serde_json::from_slice::<serde_json::Map<_, _>>(bytes).ok();
        let read = object.and_then(|object| serde_json::from_value(object.into()).ok());
        let mut document = read.unwrap_or_else(|| EpochDocument { poll_ms: unknown_poll(), ..Self::default() });
        let texts = [Some(&mut document.host), document.service.as_mut(), document.revision.as_mut()];
        texts.into_iter().flatten().chain([&mut document.writer]).for_each(shorten);
        document
    }
}

impl EpochMark {
    /// Reads the document. `None` if it does not say by whom it was created.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut mark: EpochMark = serde_json::from_slice(bytes).ok()?;
        [&mut mark.host, &mut mark.writer].into_iter().for_each(shorten);
        Some(mark)
    }
}

/// The interval of a holder that does not tell it.
fn unknown_poll() -> u64 {
    u64::MAX
}

fn shorten(text: &mut String) {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.push('…');
    }
}

/// Returns the epoch that a snapshot's number belongs to.
pub fn of_snapshot(name: SnapshotName) -> u32 {
    u32::try_from(name.seq >> BITS).unwrap_or(u32::MAX)
}

/// Whether the number of an epoch is one that counts, where `newest` is the greatest epoch of a snapshot.
pub fn counts(number: u32, newest: u32) -> bool {
    number <= newest.saturating_add(AHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        for record in EpochRecord::ALL {
            for number in [1, 17, u32::MAX] {
                assert_eq!(EpochRecord::parse_object(&record.object(number)), Some((record, number)));
            }
        }
        assert_eq!(EpochRecord::End.object(12), "epochs/12.end.json");
        for other in [
            "epochs/0.json",
            "epochs/01.json",
            "epochs/+1.json",
            "epochs/4294967296.json",
            "epochs/1.ends.json",
            "epochs/1.json.json",
            "epochs/1",
            "epochs/.json",
            "epochs/x.json",
            "epochs/1/2.json",
            "1.json",
        ] {
            assert_eq!(EpochRecord::parse_object(other), None, "{other}");
        }
    }

    #[test]
    fn a_document_is_read_whatever_else_is_in_it_and_unreadable_ones_count_as_epochs() {
        let document = EpochDocument {
            format: FORMAT,
            run: Some(Hex([7; 8])),
            service: Some("shop".into()),
            poll_ms: 5000,
            row: 1,
            ..EpochDocument::default()
        };
        let mut json: serde_json::Value = serde_json::to_value(&document).unwrap();
        json["new"] = "field".into();
        assert_eq!(EpochDocument::parse(json.to_string().as_bytes()), document);
        json["service"] = "é".repeat(500).into();
        let cut = EpochDocument::parse(json.to_string().as_bytes()).service.unwrap();
        assert!(cut.len() <= TEXT + '…'.len_utf8() && cut.ends_with("é…"), "{cut}");
        for strange in [&b"no JSON"[..], b"[]", b"{\"poll_ms\":-1}"] {
            let read = EpochDocument::parse(strange);
            assert_eq!((read.run, read.poll_ms), (None, u64::MAX));
        }
    }

    #[test]
    fn a_mark_says_who_made_it() {
        let mark = EpochMark::parse(br#"{"by":3,"run":"0707070707070707","later":[]}"#).unwrap();
        assert_eq!((mark.by, mark.run), (3, Some(Hex([7; 8]))));
        assert_eq!((EpochMark::parse(b"{}"), EpochMark::parse(b"x")), (None, None));
    }

    #[test]
    fn a_number_far_above_all_snapshots_does_not_count() {
        let snapshot = |seq| SnapshotName::of(seq, Timestamp::UNIX_EPOCH, b"root");
        assert_eq!(of_snapshot(snapshot(1_790_000_000)), 0);
        assert_eq!(of_snapshot(snapshot(7 << 32 | 5)), 7);
        assert_eq!(of_snapshot(snapshot(u64::MAX)), u32::MAX);
        assert!(counts(1, 0) && counts(AHEAD + 7, 7) && !counts(AHEAD + 8, 7));
        assert!(counts(u32::MAX, u32::MAX - 1));
    }
}
