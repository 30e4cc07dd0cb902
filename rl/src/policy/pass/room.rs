//! How many graphs of a first pass are kept: as many as there is room for.

use nemo_model::NemotronH;

use super::cell::PaddedRows;
use crate::plan::{CellSizes, Run, Shard};

/// Graphs that are kept of one run: those of its last blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub num_blocks: usize,
    pub bytes: usize,
}

/// Bytes for graphs, as a walk over the tree takes and gives them back. What a graph takes is the plan's to say.
#[derive(Debug)]
pub(super) struct Room {
    shard: Shard,
    /// Bytes of an activation.
    activation: usize,
    free: usize,
    /// What the largest leaf batch takes. Leaves come and go, so the room that serves one serves all; graphs of an inner
    /// segment stay as long as all below it takes, and get what leaves do not need.
    of_leaves: usize,
}

impl Room {
    /// Room of `bytes`, for leaf batches of these sizes.
    pub fn new(model: &NemotronH, bytes: usize, leaf_batches: impl Iterator<Item = Run>) -> Self {
        let (shard, activation) = (Shard::whole(model.config()), model.dtypes().activations.size());
        let mut room = Self { shard, activation, free: bytes, of_leaves: 0 };
        room.of_leaves = leaf_batches.map(|run| room.cells().kept(run, usize::MAX).1).max().unwrap_or(0);
        room
    }

    /// What is kept of a run that goes back at once.
    pub fn fit(&self, rows: &PaddedRows, num_keys: usize) -> Kept {
        self.fit_in(self.free, rows, num_keys)
    }

    /// What is kept of a run that leaves follow.
    pub fn above_leaves(&self, rows: &PaddedRows, num_keys: usize) -> Kept {
        self.fit_in(self.free.saturating_sub(self.of_leaves), rows, num_keys)
    }

    /// Takes room; the bytes to [`Self::release`].
    pub fn hold(&mut self, kept: Kept) -> usize {
        self.free -= kept.bytes;
        kept.bytes
    }

    /// Gives back what was taken.
    pub fn release(&mut self, bytes: usize) {
        self.free += bytes;
    }

    fn fit_in(&self, limit: usize, rows: &PaddedRows, num_keys: usize) -> Kept {
        let run = Run { rows: rows.num_rows, tokens: rows.len(), num_keys };
        let (num_blocks, bytes) = self.cells().kept(run, limit);
        Kept { num_blocks, bytes }
    }

    fn cells(&self) -> CellSizes<'_> {
        // Threads have a part in the gradient alone.
        CellSizes { shard: &self.shard, activation: self.activation, threads: 0 }
    }
}
