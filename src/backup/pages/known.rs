//! Streams the known blocks of a database, read ahead of the comparison by a thread of their own.

use std::collections::HashSet;
use std::thread::Scope;

use crossbeam_channel::{Receiver, bounded};

use crate::error::Result;
use crate::vault::entry::PageMap;
use crate::vault::hex::PackId;
use crate::vault::pages::{Layered, Placed};
use crate::vault::read::PackReader;

/// Blocks that are handed over at once.
const BATCH: usize = 8192;

/// The layers that a database is compared with: the parent's, and the ones of this backup's earlier passes.
pub struct Stack<'v> {
    /// Reads the parent's frames.
    pub base: &'v PackReader<'v>,
    /// Reads the frames of earlier passes too, once there are any.
    pub own: Option<PackReader<'v>>,
    /// The layers.
    pub map: PageMap,
    /// Size in bytes of the file that the layers describe.
    pub size: u64,
    /// Packs that are to be emptied: their live blocks are sent again.
    pub victims: HashSet<PackId>,
}

impl<'v> Stack<'v> {
    /// Creates a stack for a database with blocks of this size, in bytes, of which nothing is known.
    pub fn empty(base: &'v PackReader<'v>, block: u32) -> Self {
        let map = PageMap { block, layers: Vec::new(), live: Vec::new(), credit: 0 };
        Stack { base, own: None, map, size: 0, victims: HashSet::new() }
    }
}

/// Streams the blocks of a [`Stack`].
pub struct KnownBlocks {
    batches: Receiver<Result<Vec<Placed>>>,
    batch: std::vec::IntoIter<Placed>,
    next: Option<Placed>,
}

impl KnownBlocks {
    /// Starts reading in `scope`; the thread ends when this value is dropped.
    pub fn start<'s, 'e: 's>(scope: &'s Scope<'s, 'e>, stack: &'e Stack<'e>) -> KnownBlocks {
        let (to, batches) = bounded(2);
        scope.spawn(move || {
            let read = || -> Result<()> {
                let mut layered = Layered::new(stack.own.as_ref().unwrap_or(stack.base), &stack.map, stack.size)?;
                let mut batch = Vec::with_capacity(BATCH);
                while let Some(placed) = layered.next()? {
                    batch.push(placed);
                    if batch.len() == BATCH && to.send(Ok(std::mem::take(&mut batch))).is_err() {
                        return Ok(());
                    }
                }
                // If the receiver is gone, no more blocks are needed.
                let _ = to.send(Ok(batch));
                Ok(())
            };
            if let Err(why) = read() {
                let _ = to.send(Err(why));
            }
        });
        KnownBlocks { batches, batch: Vec::new().into_iter(), next: None }
    }

    /// Returns where `block` is, if that is known. Blocks must be asked for in ascending order.
    ///
    /// # Errors
    /// Fails if the store does, or if the layers are damaged.
    pub fn take_block(&mut self, block: u64) -> Result<Option<Placed>> {
        while let Some(next) = self.peek()? {
            if next.block > block {
                return Ok(None);
            }
            self.next = None;
            if next.block == block {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    /// Returns the next block that was not asked for yet, without taking it.
    ///
    /// # Errors
    /// As [`KnownBlocks::take_block`].
    pub fn peek(&mut self) -> Result<Option<Placed>> {
        while self.next.is_none() {
            self.next = self.batch.next();
            if self.next.is_none() {
                match self.batches.recv() {
                    Ok(batch) => self.batch = batch?.into_iter(),
                    Err(_) => return Ok(None),
                }
            }
        }
        Ok(self.next)
    }
}
