//! The map of an entry, as a hunk writes it.

use serde::{Deserialize, Serialize};

use crate::vault::entry::{Map, MapForm, MapFrame, PackUse, PageMap};
use crate::vault::frame::FrameRef;
use crate::vault::hex::{Hash, PackId};
use crate::vault::lines::PackNumbers;
use crate::vault::list::List;

type WireFrame = (u32, u64, u64, Hash);
type WireMapFrame = (u32, u64, u64, Hash, u64);
type WireUse = (u32, u64, u64);

/// Frames in place or in list frames: exactly one of the two.
#[derive(Serialize, Deserialize)]
struct WireList {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    items: Option<Vec<WireMapFrame>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frames: Option<Vec<WireFrame>>,
}

/// A map as it is written; see `format.md`. If it has `layers`, it is a page map.
#[derive(Serialize, Deserialize)]
pub struct WireMap {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    items: Option<Vec<WireMapFrame>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frames: Option<Vec<WireFrame>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    block: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<WireList>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    live: Option<Vec<WireUse>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    credit: u64,
    packs: Vec<u32>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl WireMap {
    /// Returns the form in which `map` is written, with its packs numbered.
    pub fn of(map: &Map, numbers: &mut PackNumbers) -> Self {
        let mut wire =
            WireMap { items: None, frames: None, block: None, layers: None, live: None, credit: 0, packs: Vec::new() };
        match &map.form {
            MapForm::Blocks(list) => WireList { items: wire.items, frames: wire.frames } = WireList::of(list, numbers),
            MapForm::Pages(pages) => {
                wire.block = Some(pages.block);
                wire.layers = Some(pages.layers.iter().map(|layer| WireList::of(layer, numbers)).collect());
                wire.live = Some(pages.live.iter().map(|u| (numbers.of(u.pack), u.live, u.stored)).collect());
                wire.credit = pages.credit;
            }
        }
        wire.packs = map.packs.iter().map(|pack| numbers.of(*pack)).collect();
        wire
    }

    /// Returns the map that was written; `packs` are the packs in the order of their numbers.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub fn read(&self, packs: &[PackId]) -> Result<Map, String> {
        let form = match (&self.block, &self.layers, &self.live) {
            (None, None, None) if self.credit == 0 => MapForm::Blocks(list(&self.items, &self.frames, packs)?),
            (Some(block), Some(layers), Some(live)) if self.items.is_none() && self.frames.is_none() => {
                let layers = layers.iter().map(|layer| list(&layer.items, &layer.frames, packs));
                let live = live.iter().map(|&(n, live, stored)| Ok(PackUse { pack: pack(n, packs)?, live, stored }));
                MapForm::Pages(PageMap {
                    block: *block,
                    layers: layers.collect::<Result<_, String>>()?,
                    live: live.collect::<Result<_, String>>()?,
                    credit: self.credit,
                })
            }
            _ => return Err("a map needs either items, or frames, or block, layers and live".into()),
        };
        Ok(Map { form, packs: self.packs.iter().map(|&n| pack(n, packs)).collect::<Result<_, _>>()? })
    }
}

impl WireList {
    fn of(list: &List<MapFrame>, numbers: &mut PackNumbers) -> Self {
        let mut frame = |f: &FrameRef| (numbers.of(f.pack), f.offset, f.length, f.hash);
        let (mut items, mut frames) = (None, None);
        match list {
            List::Items(list) => {
                let wire = |m: &MapFrame| {
                    let (pack, offset, length, hash) = frame(&m.frame);
                    (pack, offset, length, hash, m.content)
                };
                items = Some(list.iter().map(wire).collect());
            }
            List::Frames(list) => frames = Some(list.iter().map(frame).collect()),
        }
        WireList { items, frames }
    }
}

fn pack(number: u32, packs: &[PackId]) -> Result<PackId, String> {
    packs.get(number as usize).copied().ok_or_else(|| format!("pack number {number} of {}", packs.len()))
}

fn list(
    items: &Option<Vec<WireMapFrame>>,
    frames: &Option<Vec<WireFrame>>,
    packs: &[PackId],
) -> Result<List<MapFrame>, String> {
    let frame =
        |&(number, offset, length, hash): &WireFrame| Ok(FrameRef { pack: pack(number, packs)?, offset, length, hash });
    match (items, frames) {
        (Some(items), None) => {
            let one = |&(p, o, l, h, content): &WireMapFrame| Ok(MapFrame { frame: frame(&(p, o, l, h))?, content });
            Ok(List::Items(items.iter().map(one).collect::<Result<_, String>>()?))
        }
        (None, Some(frames)) => Ok(List::Frames(frames.iter().map(frame).collect::<Result<_, String>>()?)),
        _ => Err("a map needs either items or frames".into()),
    }
}
