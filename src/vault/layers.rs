//! Joins the layers of a page map: for every block, the newest layer that has it counts.

pub mod compact;

use std::collections::VecDeque;
use std::vec::IntoIter;

use super::decoder::Decoder;
use super::entry::{Extent, MapFrame, PageMap};
use super::frame::FrameRef;
use super::list::{self, List};
use super::pack::{self, PackKind};
use super::pages::{self, Piece, Pieces, Placed};
use super::read::PackReader;
use crate::error::{Error, Result};

/// Goes through the blocks of a file in order, and holds one frame of each layer.
pub struct Layered<'a> {
    packs: &'a PackReader<'a>,
    decoder: Decoder,
    block: u32,
    size: u64,
    with_tags: bool,
    /// The layers, newest first.
    layers: Vec<LayerReader>,
    /// For every layer, the first block of its current piece, and the block after the last one.
    fronts: Vec<(u64, u64)>,
    /// All blocks before this one were returned or are in no layer.
    at: u64,
    /// The run that [`Layered::next`] returns block by block.
    run: LayerRun,
}

/// Consecutive blocks that lie consecutively in the current piece of a layer.
#[derive(Debug, Clone, Copy)]
struct LayerRun {
    layer: usize,
    from: u64,
    to: u64,
}

#[derive(Debug)]
struct LayerReader {
    /// List frames that have not been read yet.
    lists: IntoIter<FrameRef>,
    /// Map frames that have not been read yet, out of the list frames that have.
    frames: VecDeque<MapFrame>,
    pieces: Pieces,
    /// The index of the current piece.
    next: usize,
}

impl<'a> Layered<'a> {
    /// Returns a reader of the blocks of a file of `size` bytes, with their tags.
    ///
    /// # Errors
    /// No memory for a decoder.
    pub fn new(packs: &'a PackReader<'a>, map: &PageMap, size: u64) -> Result<Self> {
        Self::newest(packs, map, 0, size)
    }

    /// Like [`Layered::new`], but without the blocks' tags; for [`Layered::next_run`].
    ///
    /// # Errors
    /// No memory for a decoder.
    pub fn without_tags(packs: &'a PackReader<'a>, map: &PageMap, size: u64) -> Result<Self> {
        Ok(Layered { with_tags: false, ..Self::newest(packs, map, 0, size)? })
    }

    /// Like [`Layered::new`], but only with the blocks that the layer of index `oldest` and all newer ones have.
    ///
    /// # Errors
    /// No memory for a decoder.
    pub fn newest(packs: &'a PackReader<'a>, map: &PageMap, oldest: usize, size: u64) -> Result<Self> {
        let layers: Vec<_> = map.layers.iter().skip(oldest).rev().map(LayerReader::of).collect();
        Ok(Layered {
            packs,
            decoder: Decoder::new()?,
            block: map.block.max(1),
            size,
            with_tags: true,
            fronts: vec![(0, 0); layers.len()],
            layers,
            at: 0,
            run: LayerRun { layer: 0, from: 0, to: 0 },
        })
    }

    /// Returns the next block that some layer has and that lies within the file.
    ///
    /// # Errors
    /// The store fails; damage.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and `?` belongs to the caller")]
    pub fn next(&mut self) -> Result<Option<Placed>> {
        if self.run.from >= self.run.to {
            match self.step()? {
                Some(run) => self.run = run,
                None => return Ok(None),
            }
        }
        let LayerRun { layer, from: block, .. } = self.run;
        self.run.from += 1;
        let LayerReader { pieces, next, .. } = &self.layers[layer];
        Ok(Some(pieces.placed(&pieces.list[*next], block, self.block)))
    }

    /// Returns the next blocks that lie together: the number of the first one, and where they are. Do not mix it with
    /// [`Layered::next`].
    ///
    /// # Errors
    /// The store fails; damage.
    pub fn next_run(&mut self) -> Result<Option<(u64, Extent)>> {
        let Some(run) = self.step()? else { return Ok(None) };
        let LayerReader { pieces, next, .. } = &self.layers[run.layer];
        Ok(Some((run.from, pieces.extent(&pieces.list[*next], run.from, run.to, self.block))))
    }

    fn step(&mut self) -> Result<Option<LayerRun>> {
        let blocks = self.size.div_ceil(u64::from(self.block));
        let mut found: Option<LayerRun> = None;
        for (number, front) in self.fronts.iter_mut().enumerate() {
            if front.1 <= self.at {
                let layer = &mut self.layers[number];
                *front = layer.advance(self.at, self.packs, &mut self.decoder, (self.block, self.with_tags))?;
            }
            let from = front.0.max(self.at);
            match &mut found {
                // The run of a newer layer begins no later than this one, so it comes first.
                Some(newer) if newer.from <= from => {}
                Some(newer) => *newer = LayerRun { layer: number, from, to: newer.from.min(front.1) },
                None => found = Some(LayerRun { layer: number, from, to: front.1 }),
            }
            if from == self.at {
                break;
            }
        }
        let Some(mut run) = found.filter(|run| run.from < blocks) else { return Ok(None) };
        run.to = run.to.min(blocks);
        self.at = run.to;
        let LayerReader { pieces, next, .. } = &self.layers[run.layer];
        let extent = pieces.extent(&pieces.list[*next], run.from, run.to, self.block);
        let block = u64::from(self.block);
        if extent.length != (run.to * block).min(self.size) - run.from * block {
            let why = format!("the block {} or one after it is not as long as the file's size says", run.from);
            return Err(Error::damage("read the map of a database", why));
        }
        Ok(Some(run))
    }
}

impl LayerReader {
    fn of(list: &List<MapFrame>) -> Self {
        let (items, lists) = match list {
            List::Items(items) => (items.iter().copied().collect(), Vec::new()),
            List::Frames(lists) => (VecDeque::new(), lists.clone()),
        };
        LayerReader { lists: lists.into_iter(), frames: items, pieces: Pieces::default(), next: 0 }
    }

    /// Goes on to the first piece that ends after block `at`, reading frames until there is one. Returns its first
    /// block and the block after its last one; after the last piece, both are the greatest possible number.
    fn advance(
        &mut self,
        at: u64,
        packs: &PackReader,
        decoder: &mut Decoder,
        (block, with_tags): (u32, bool),
    ) -> Result<(u64, u64)> {
        loop {
            while let Some(piece) = self.pieces.list.get(self.next) {
                if piece.end() > at {
                    return Ok((piece.block, piece.end()));
                }
                self.next += 1;
            }
            let Some(frame) = self.next_frame(packs, decoder)? else { return Ok((u64::MAX, u64::MAX)) };
            let damage = |why| Error::damage(format!("read {}", pack::name(PackKind::Index, frame.frame.pack)), why);
            let bytes = packs.index_frame(&frame.frame, decoder)?;
            let pieces = pages::parse_pieces(&bytes, block, with_tags).map_err(damage)?;
            let content = pieces.content(block);
            if content != frame.content {
                return Err(damage(format!("a frame holds {content} bytes of a file, not {}", frame.content)));
            }
            let end = self.pieces.list.last().map_or(0, Piece::end);
            if pieces.list.first().is_some_and(|first| first.block < end) {
                return Err(damage("the frames of a layer are out of order".into()));
            }
            (self.pieces, self.next) = (pieces, 0);
        }
    }

    fn next_frame(&mut self, packs: &PackReader, decoder: &mut Decoder) -> Result<Option<MapFrame>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Ok(Some(frame));
            }
            let Some(list) = self.lists.next() else { return Ok(None) };
            let bytes = packs.index_frame(&list, decoder)?;
            let damage = |why| Error::damage(format!("read {}", pack::name(PackKind::Index, list.pack)), why);
            self.frames = list::parse(&bytes).map_err(damage)?.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::restore::sample::{SampleVault, pages};
    use crate::vault::hex::Hex;
    use crate::vault::layers::compact::{blocks_of_layers, compact_layers, suffix_to_compact};
    use crate::vault::map::MapPart;
    use crate::vault::pages::parse;

    const BLOCK: u32 = 1024;

    /// A layer, by block: a pack (0 for zeros) and a position in it.
    type Said = BTreeMap<u64, (u8, u64)>;

    fn placed(layer: &Said, size: u64) -> Vec<Placed> {
        let place = |(&block, &(pack, place)): (&u64, &(u8, u64))| {
            let length = size.saturating_sub(block * 1024).clamp(1, 1024);
            let offset = if pack == 0 { 0 } else { place * 1024 };
            let extent = Extent { pack: (pack > 0).then_some(Hex([pack; 16])), offset, length };
            let tag = Hex((block << 32 | u64::from(pack) << 16 | place).to_be_bytes());
            Placed { block, extent, tag }
        };
        layer.iter().map(place).collect()
    }

    fn all(mut layers: Layered) -> Vec<Placed> {
        std::iter::from_fn(|| layers.next().unwrap()).collect()
    }

    fn any_layers() -> impl Strategy<Value = (Vec<Said>, u64)> {
        let layer = prop::collection::btree_map(0..40u64, (0..3u8, 0..40u64), 0..30);
        (prop::collection::vec(layer, 1..6), 1..42_000u64)
    }

    proptest! {
        #[test]
        fn the_newest_layer_that_has_a_block_says_where_it_is((said, size) in any_layers(), oldest: prop::sample::Index) {
            let mut sample = SampleVault::new();
            let layers: Vec<_> = said.iter().map(|layer| placed(layer, size)).collect();
            let (lists, _) = sample.layers(BLOCK, &layers);
            let map = PageMap { block: BLOCK, layers: lists, live: vec![], credit: 0 };
            let packs = PackReader::new(sample.store, sample.packs.iter().map(|p| (p.id, *p)).collect());
            let model = |layers: &[Vec<Placed>]| -> Vec<Placed> {
                let all: BTreeMap<_, _> = layers.iter().flatten().map(|placed| (placed.block, *placed)).collect();
                all.into_values().filter(|placed| placed.block * 1024 < size).collect()
            };
            let expected = model(&layers);
            prop_assert_eq!(&all(Layered::new(&packs, &map, size).unwrap()), &expected);

            let mut runs = Layered::without_tags(&packs, &map, size).unwrap();
            let mut by_run = Vec::new();
            while let Some((block, extent)) = runs.next_run().unwrap() {
                by_run.extend(pages(extent, BLOCK, block..u64::MAX).iter().map(|p| (p.block, p.extent)));
            }
            prop_assert_eq!(by_run, expected.iter().map(|p| (p.block, p.extent)).collect::<Vec<_>>());

            // The newest layers as one, from any layer on.
            let parts = std::cell::RefCell::new(Vec::new());
            let mut store = |part: &MapPart| {
                parts.borrow_mut().extend(parse(&part.bytes, BLOCK).unwrap());
                Ok(FrameRef { pack: Hex([9; 16]), offset: 0, length: 0, hash: Hex([0; 16]) })
            };
            let oldest = oldest.index(layers.len());
            let frames = compact_layers(&packs, &map, oldest, size, &mut store).unwrap();
            prop_assert_eq!(&parts.take(), &model(&layers[oldest..]));
            prop_assert_eq!(frames.len(), usize::from(!model(&layers[oldest..]).is_empty()));

            let blocks: Vec<_> = layers.iter().map(|layer| layer.len() as u64).collect();
            if size > 40 * 1024 {
                prop_assert_eq!(blocks_of_layers(&packs, &map).unwrap(), blocks);
            }
        }
    }

    #[test]
    fn what_no_writer_writes_is_damage() {
        let layer = |blocks: &[(u64, u64)]| {
            let place = |&(block, length)| {
                let extent = Extent { pack: Some(Hex([1; 16])), offset: block * 1024, length };
                Placed { block, extent, tag: Hex([0; 8]) }
            };
            blocks.iter().map(place).collect::<Vec<_>>()
        };
        let whole: Vec<_> = (0..8).map(|n| (n, 1024)).collect();
        let read = |layers: &[Vec<Placed>], size, change: &dyn Fn(&mut PageMap)| {
            let mut sample = SampleVault::new();
            let (layers, _) = sample.layers(BLOCK, layers);
            let mut map = PageMap { block: BLOCK, layers, live: vec![], credit: 0 };
            change(&mut map);
            let packs = PackReader::new(sample.store, sample.packs.iter().map(|p| (p.id, *p)).collect());
            let mut layered = Layered::new(&packs, &map, size).unwrap();
            loop {
                match layered.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => return "nothing".to_owned(),
                    Err(why) => return why.to_string(),
                }
            }
        };
        let items = |map: &mut PageMap, change: &dyn Fn(&mut Vec<MapFrame>)| match &mut map.layers[0] {
            List::Items(items) => change(items),
            List::Frames(_) => panic!("the first layer's frames are in place"),
        };
        type Case<'a> = (Vec<Vec<Placed>>, u64, &'a dyn Fn(&mut PageMap), &'a str);
        let cases: [Case; 9] = [
            (vec![layer(&whole)], 8192, &|_| {}, "nothing"),
            (vec![layer(&whole)], 8191, &|_| {}, "not as long"),
            (vec![layer(&[(0, 1000)]), layer(&[(1, 1024)])], 2048, &|_| {}, "not as long"),
            (vec![layer(&[(0, 1000)]), layer(&[(0, 1024)])], 1024, &|_| {}, "nothing"),
            (vec![layer(&whole)], 8192, &|map| map.block = 2048, "add up"),
            (vec![layer(&whole)], 8192, &|map| items(map, &|frames| frames.swap(0, 1)), "out of order"),
            (vec![layer(&whole)], 8192, &|map| items(map, &|frames| frames[1].content -= 1), "holds 3072 bytes"),
            (
                vec![layer(&whole)],
                8192,
                &|map| items(map, &|frames| frames[1].frame.hash = Hex([0; 16])),
                "not the one",
            ),
            (
                vec![layer(&whole)],
                8192,
                &|map| {
                    map.layers.push(List::Frames(vec![match &map.layers[0] {
                        List::Items(items) => items[0].frame,
                        List::Frames(lists) => lists[0],
                    }]))
                },
                "kind \"pages\" where \"list\"",
            ),
        ];
        for (layers, size, change, why) in cases {
            let said = read(&layers, size, change);
            assert!(said.contains(why), "{why}: {said}");
        }
    }

    #[test]
    fn layers_stay_few_and_blocks_are_seldom_written_again() {
        let (mut layers, mut written, mut most) = (vec![264_000u64], 0, 0);
        for _ in 0..1000 {
            layers.push(2640);
            if let Some(first) = suffix_to_compact(&layers) {
                let one = layers.drain(first..).sum::<u64>();
                layers.push(if first == 0 { 264_000 } else { one });
                written += one;
            }
            assert!(suffix_to_compact(&layers).is_none());
            most = most.max(layers.len());
        }
        assert!(most <= 12, "{most} layers");
        assert!(written < 1000 * 2640 * 12, "{written} blocks written again");
        assert_eq!(suffix_to_compact(&[]), None);
        assert_eq!(suffix_to_compact(&[0]), None);
        assert_eq!(suffix_to_compact(&[10, 4]), None);
        assert_eq!(suffix_to_compact(&[10, 5]), Some(0));
        assert_eq!(suffix_to_compact(&[100, 4, 1, 3]), Some(2));
        assert_eq!(suffix_to_compact(&[100, 4, 8, 4]), Some(1));
        assert_eq!(suffix_to_compact(&[u64::MAX, u64::MAX, u64::MAX]), Some(0));
    }
}
