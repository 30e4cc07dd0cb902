//! The forward pass over the engine's pools: the layers' arithmetic, with states in slots and keys in pages.
//!
//! Each layer reads and writes its part of the pools by itself (`forward_paged` in `layers`). What all of them need to know
//! about the rows is worked out once, in a [`PagedBatch`]. Rows of different lengths are padded on the right.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use nemo_kernels::PagedSequence;

use crate::NemotronH;
use crate::cache::{KvPool, SsmPool};
use crate::generate::TokenId;
use crate::layers::{Block, Mixer, Residual};
use crate::parallel::ForwardContext;

/// New tokens of one sequence and where its caches are.
#[derive(Clone, Debug)]
pub struct PagedRow<'a> {
    /// The new tokens, at least one.
    pub tokens: &'a [TokenId],
    /// Tokens of the sequence including the new ones.
    pub context_length: usize,
    /// Its pages, enough for `context_length` tokens.
    pub pages: Vec<u32>,
    /// Slot of the state before the new tokens.
    pub source_slot: u32,
    /// Slot for the state after them; no other row uses it.
    pub destination_slot: u32,
}

/// The rows of one pass with everything the layers derive from them once.
pub(crate) struct PagedBatch {
    /// Valid new tokens per row.
    lengths: Vec<usize>,
    /// Padded length.
    tokens: usize,
    pub sources: Vec<u32>,
    pub destinations: Vec<u32>,
    /// What each row's queries attend to.
    pub sequences: Arc<Vec<PagedSequence>>,
    /// Place in the KV pool of every new token, row by row without padding.
    pub places: Vec<u32>,
    /// Index of every new token in the padded batch; `None` when nothing is padded.
    valid: Option<Tensor<1, Int>>,
    /// For every padded position the index of a new token (its own where there is one).
    spread: Option<Tensor<1, Int>>,
}

impl NemotronH {
    /// Runs the rows' new tokens through the model; returns the normed hidden values at each row's last token.
    ///
    /// # Shapes
    /// - result: `[rows, hidden]`
    pub fn forward_paged(&self, rows: &[PagedRow<'_>], kv: &mut KvPool, ssm: &mut SsmPool) -> Tensor<2> {
        let batch = self.paged_batch(rows, kv.page_size());
        let tokens: Vec<&[TokenId]> = rows.iter().map(|row| row.tokens).collect();
        let mut stream = Residual::new(self.embed(self.token_tensor(&tokens, batch.tokens, 0)));
        let (mut mamba_layer, mut attention_layer) = (0, 0);
        for Block { norm, mixer, .. } in &self.blocks {
            let (hidden, normed) = stream.normalize(norm);
            let context = ForwardContext { lengths: batch.valid.is_some().then_some(&batch.lengths) };
            let mixed = match mixer {
                Mixer::Mamba2(mixer) => {
                    mamba_layer += 1;
                    mixer.forward_paged(normed, mamba_layer - 1, &batch, ssm, context)
                }
                Mixer::Attention(mixer) => {
                    attention_layer += 1;
                    mixer.forward_paged(normed, attention_layer - 1, &batch, kv, context)
                }
                Mixer::Mlp(mixer) => mixer.forward(normed, context),
                Mixer::Moe(mixer) => mixer.forward(normed, context),
            };
            stream = Residual::after_block(hidden, mixed);
        }
        let hidden = stream.into_sum();
        let [count, length, width] = hidden.dims();
        let last: Vec<i64> =
            batch.lengths.iter().enumerate().map(|(row, valid)| (row * length + valid - 1) as i64).collect();
        let last = Tensor::<1, Int>::from_data(TensorData::new(last, [count]), &self.device());
        let hidden = hidden.reshape([count * length, width]).select(0, last);
        self.normalize(hidden.reshape([count, 1, width])).reshape([count, width])
    }

    fn paged_batch(&self, rows: &[PagedRow<'_>], page_size: usize) -> PagedBatch {
        let lengths: Vec<usize> = rows.iter().map(|row| row.tokens.len()).collect();
        let tokens = lengths.iter().copied().max().unwrap_or(0);
        let mut places = Vec::new();
        for row in rows {
            let start = row.context_length - row.tokens.len();
            places
                .extend((start..row.context_length).map(|position| {
                    row.pages[position / page_size] * page_size as u32 + (position % page_size) as u32
                }));
        }
        let mut query_start = 0;
        let sequences = rows.iter().map(|row| {
            let sequence = PagedSequence {
                block_table: row.pages.clone(),
                query_start,
                num_queries: row.tokens.len(),
                context_length: row.context_length,
            };
            query_start += row.tokens.len();
            sequence
        });
        let sequences = sequences.collect();
        let padded = lengths.iter().any(|&length| length < tokens);
        let to_tensor = |indices: Vec<i64>| {
            let count = indices.len();
            Tensor::<1, Int>::from_data(TensorData::new(indices, [count]), &self.device())
        };
        let (mut valid, mut spread) = (Vec::new(), Vec::new());
        for (row, &length) in lengths.iter().enumerate() {
            let first = valid.len() as i64;
            valid.extend((0..length).map(|t| (row * tokens + t) as i64));
            spread.extend((0..tokens).map(|t| first + t.min(length - 1) as i64));
        }
        PagedBatch {
            sequences: Arc::new(sequences),
            sources: rows.iter().map(|row| row.source_slot).collect(),
            destinations: rows.iter().map(|row| row.destination_slot).collect(),
            valid: padded.then(|| to_tensor(valid)),
            spread: padded.then(|| to_tensor(spread)),
            lengths,
            tokens,
            places,
        }
    }
}

impl PagedBatch {
    /// Drops padding: `[batch, tokens, heads, dim]` to `[new tokens, heads, dim]`.
    pub fn pack(&self, x: Tensor<4>) -> Tensor<3> {
        let [batch, tokens, heads, dim] = x.dims();
        let flat = x.reshape([batch * tokens, heads, dim]);
        match &self.valid {
            Some(valid) => flat.select(0, valid.clone()),
            None => flat,
        }
    }

    /// Puts padding back: `[new tokens, heads, dim]` to `[batch, tokens, heads, dim]`.
    pub fn unpack(&self, x: Tensor<3>) -> Tensor<4> {
        let [_, heads, dim] = x.dims();
        let flat = match &self.spread {
            Some(spread) => x.select(0, spread.clone()),
            None => x,
        };
        flat.reshape([self.lengths.len(), self.tokens, heads, dim])
    }
}
