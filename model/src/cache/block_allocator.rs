//! Reference-counted allocation of equal blocks, used for pages of keys and values and for state slots.
//!
//! Invariant: a block is either free (count 0, on the free list once) or held (count > 0, not on the list).

/// Index of a block in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// Hands out blocks and counts their holders. A block that was held before goes first, so that no more blocks are ever
/// touched than were held at once; a pool needs room for those only.
#[derive(Clone, Debug)]
pub struct BlockAllocator {
    capacity: usize,
    /// Holders of every block that was ever handed out.
    holders: Vec<u32>,
    /// Blocks that were handed out and are held no more.
    free: Vec<BlockId>,
}

impl BlockAllocator {
    /// An allocator of `capacity` free blocks, of which no more are used than a [`BlockId`] can name.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.min(u32::MAX as usize), holders: Vec::new(), free: Vec::new() }
    }

    /// Blocks that can be allocated now.
    pub fn num_free(&self) -> usize {
        self.capacity - self.num_held()
    }

    /// Blocks that somebody holds.
    pub fn num_held(&self) -> usize {
        self.holders.len() - self.free.len()
    }

    /// Blocks that were ever held: every index handed out so far is below it.
    pub fn num_touched(&self) -> usize {
        self.holders.len()
    }

    /// A block with one holder, or nothing when all are held.
    pub fn allocate(&mut self) -> Option<BlockId> {
        if let Some(block) = self.free.pop() {
            self.holders[block.0 as usize] = 1;
            return Some(block);
        }
        let block = BlockId(self.holders.len() as u32);
        (self.holders.len() < self.capacity).then(|| {
            self.holders.push(1);
            block
        })
    }

    /// Adds a holder to a held block.
    pub fn share(&mut self, block: BlockId) {
        let holders = &mut self.holders[block.0 as usize];
        assert!(*holders > 0, "block {block:?} is shared though nobody holds it");
        *holders += 1;
    }

    /// Removes a holder; the last one frees the block.
    pub fn release(&mut self, block: BlockId) {
        let holders = &mut self.holders[block.0 as usize];
        assert!(*holders > 0, "block {block:?} is released though nobody holds it");
        *holders -= 1;
        if *holders == 0 {
            self.free.push(block);
        }
    }

    /// Whether more than one holder would see a write to this block.
    pub fn is_shared(&self, block: BlockId) -> bool {
        self.holders[block.0 as usize] > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A capacity costs nothing until it is used.
    #[test]
    fn any_capacity_is_cheap() {
        let mut allocator = BlockAllocator::new(usize::MAX);
        assert_eq!(allocator.allocate(), Some(BlockId(0)));
        assert_eq!((allocator.num_touched(), allocator.num_free()), (1, u32::MAX as usize - 1));
    }

    /// Every sequence of up to seven operations on up to three blocks keeps free and held apart and loses nothing.
    #[test]
    fn small_histories_keep_the_invariant() {
        for capacity in 1..=3 {
            for history in 0..3_usize.pow(7) {
                let mut allocator = BlockAllocator::new(capacity);
                let mut held: Vec<BlockId> = Vec::new();
                let mut rest = history;
                let mut most_held = 0;
                for _ in 0..7 {
                    match rest % 3 {
                        0 => {
                            let distinct: std::collections::BTreeSet<_> = held.iter().copied().collect();
                            match allocator.allocate() {
                                Some(block) => {
                                    assert!(!distinct.contains(&block), "a held block was handed out");
                                    held.push(block);
                                }
                                None => assert_eq!(distinct.len(), capacity),
                            }
                        }
                        1 => {
                            if let Some(&block) = held.first() {
                                allocator.share(block);
                                held.push(block);
                            }
                        }
                        _ => {
                            if let Some(block) = held.pop() {
                                allocator.release(block);
                            }
                        }
                    }
                    rest /= 3;
                    let distinct: std::collections::BTreeSet<_> = held.iter().copied().collect();
                    assert_eq!(allocator.num_free() + distinct.len(), capacity);
                    assert_eq!(allocator.num_held(), distinct.len());
                    most_held = most_held.max(distinct.len());
                    assert_eq!(allocator.num_touched(), most_held, "a new block while an old one was free");
                    for &block in &distinct {
                        let count = held.iter().filter(|&&b| b == block).count();
                        assert_eq!(allocator.is_shared(block), count > 1);
                    }
                }
            }
        }
    }
}
