//! Who holds which page and slot: forks share, writers get their own.

use super::engine::EngineOptions;
use super::sequence::Run;
use crate::cache::{BlockAllocator, BlockId, SsmPool};

/// Who holds which page and slot.
#[derive(Debug)]
pub(super) struct Memory {
    pub pages: BlockAllocator,
    pub slots: BlockAllocator,
    pub page_size: usize,
    /// Runs that had to give up their place to others.
    pub num_preempted: u64,
}

/// What an engine's caches hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Pages of keys and values that sequences and cached prefixes hold.
    pub pages: usize,
    /// State slots that they hold.
    pub slots: usize,
    /// Times that a sequence was dropped from the caches to make room, to be recomputed later.
    pub num_preempted: u64,
}

/// Rows of pages to copy before a pass: places in the pool.
#[derive(Default)]
pub(super) struct PageCopies {
    pub from: Vec<u32>,
    pub to: Vec<u32>,
}

impl Memory {
    /// The memory of an engine of which nobody holds anything.
    pub fn new(options: &EngineOptions) -> Self {
        let mut slots = BlockAllocator::new(options.num_slots);
        // The empty state is held for ever and never written.
        let empty = slots.allocate();
        debug_assert_eq!(empty, Some(BlockId(SsmPool::EMPTY)));
        // A token's place in the pool is a `u32`.
        let num_pages = options.num_pages.min(u32::MAX as usize / options.page_size.max(1));
        Self { pages: BlockAllocator::new(num_pages), slots, page_size: options.page_size, num_preempted: 0 }
    }

    /// What is held now; the slot of the empty state does not count.
    pub fn in_use(&self) -> MemoryUse {
        MemoryUse { pages: self.pages.num_held(), slots: self.slots.num_held() - 1, num_preempted: self.num_preempted }
    }

    /// A run that starts where `parent` stands and shares all it holds.
    pub fn fork(&mut self, parent: &Run) -> Run {
        debug_assert!(parent.pending().is_empty());
        for &page in &parent.pages {
            self.pages.share(page);
        }
        if let Some(slot) = parent.slot {
            self.slots.share(slot);
        }
        parent.clone()
    }

    /// Makes room for `tokens` more tokens of `run`: pages of its own to write to, and the slot for the state after
    /// them. `None` when something is short; the run then holds no more than before, or two waiting runs could keep
    /// from each other what either needs.
    pub fn reserve(&mut self, run: &mut Run, tokens: usize, copies: &mut PageCopies) -> Option<BlockId> {
        let held = run.pages.len();
        let slot = self.reserve_pages(run, tokens, copies).and_then(|()| match run.slot {
            Some(slot) if !self.slots.is_shared(slot) => Some(slot),
            _ => self.slots.allocate(),
        });
        if slot.is_none() {
            for page in run.pages.drain(held..) {
                self.pages.release(page);
            }
        }
        slot
    }

    fn reserve_pages(&mut self, run: &mut Run, tokens: usize, copies: &mut PageCopies) -> Option<()> {
        let size = self.page_size;
        let (last, filled) = (run.computed / size, run.computed % size);
        // A page that others read from beyond our filled part is copied before we write to it.
        if filled > 0 && self.pages.is_shared(run.pages[last]) {
            let page = self.pages.allocate()?;
            let place = |page: BlockId, offset: usize| page.0 * size as u32 + offset as u32;
            copies.from.extend((0..filled).map(|offset| place(run.pages[last], offset)));
            copies.to.extend((0..filled).map(|offset| place(page, offset)));
            self.pages.release(std::mem::replace(&mut run.pages[last], page));
        }
        while run.pages.len() * size < run.computed + tokens {
            run.pages.push(self.pages.allocate()?);
        }
        Some(())
    }

    /// Frees all that a run holds; its tokens stay and will be recomputed.
    pub fn preempt(&mut self, run: &mut Run) {
        run.pages.iter().for_each(|&page| self.pages.release(page));
        run.slot.iter().for_each(|&slot| self.slots.release(slot));
        run.forget();
    }

    /// Frees all that a run holds and forgets it.
    pub fn release(&mut self, mut run: Run) {
        self.preempt(&mut run);
    }
}
