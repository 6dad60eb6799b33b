//! The content of an index frame: JSON lines, the first of which says what the others are and which packs they number.
//!
//! `{"lastgood":"hunk","packs":["…32 hex digits…",…]}` – extents and frame references in the lines name a pack by its
//! place in `packs`. So a frame names every pack that it reaches without its other lines being read.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::hex::PackId;

/// The most bytes of content in an index frame; writers stay far below.
pub const MAX_FRAME: usize = 4 << 20;

#[derive(Serialize, Deserialize)]
struct FrameHead<'a> {
    lastgood: &'a str,
    packs: Vec<PackId>,
}

/// Lines that are being collected for a frame.
#[derive(Debug)]
pub struct FrameBuilder {
    kind: &'static str,
    body: Vec<u8>,
}

impl FrameBuilder {
    /// Returns a frame of `kind` without lines.
    pub fn new(kind: &'static str) -> Self {
        FrameBuilder { kind, body: Vec::new() }
    }

    /// Adds a line of JSON, which has no line breaks.
    pub fn line(&mut self, json: &[u8]) {
        self.body.extend_from_slice(json);
        self.body.push(b'\n');
    }

    /// Returns the number of bytes of its lines.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Splits off the lines from byte `at` on, where a line begins.
    pub fn split_off(&mut self, at: usize) -> FrameBuilder {
        FrameBuilder { kind: self.kind, body: self.body.split_off(at) }
    }

    /// Whether it has no lines.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Returns the frame's content: the head with the numbered packs, then the lines.
    pub fn finish(&self, packs: &[PackId]) -> Vec<u8> {
        let mut out = format!("{{\"lastgood\":\"{}\",\"packs\":[", self.kind).into_bytes();
        for (n, pack) in packs.iter().enumerate() {
            out.extend_from_slice(format!("{}\"{pack}\"", if n == 0 { "" } else { "," }).as_bytes());
        }
        out.extend_from_slice(b"]}\n");
        out.extend_from_slice(&self.body);
        out
    }
}

/// The lines of a frame after its head.
#[derive(Debug)]
pub struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    /// Reads the head, which must be of `kind`. Returns the lines and the numbered packs.
    ///
    /// # Errors
    /// A text that says what is wrong with the bytes.
    pub fn parse(kind: &str, bytes: &'a [u8]) -> Result<(Self, Vec<PackId>), String> {
        if bytes.len() > MAX_FRAME {
            return Err(format!("an index frame of {} bytes", bytes.len()));
        }
        let mut lines = Lines { rest: bytes };
        let head = lines.next().ok_or("an empty index frame")?;
        let head: FrameHead = serde_json::from_slice(head).map_err(|e| format!("the head of an index frame: {e}"))?;
        if head.lastgood != kind {
            return Err(format!("an index frame of kind {:?} where {kind:?} belongs", head.lastgood));
        }
        Ok((lines, head.packs))
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|&b| b == b'\n').unwrap_or(self.rest.len());
        let line = &self.rest[..end];
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        Some(line)
    }
}

/// Gives packs their numbers in the order in which they are first named.
#[derive(Debug, Default)]
pub struct PackNumbers {
    packs: Vec<PackId>,
    numbers: HashMap<PackId, u32>,
}

impl PackNumbers {
    /// Returns the number of a pack.
    pub fn of(&mut self, pack: PackId) -> u32 {
        // Entries of one hunk nearly always continue in the pack of the entry before.
        if let Some(last) = self.packs.last()
            && *last == pack
        {
            return self.packs.len() as u32 - 1;
        }
        *self.numbers.entry(pack).or_insert_with(|| {
            self.packs.push(pack);
            self.packs.len() as u32 - 1
        })
    }

    /// Returns the packs in the order of their numbers.
    pub fn packs(&self) -> &[PackId] {
        &self.packs
    }
}
