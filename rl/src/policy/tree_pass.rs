//! Forward and backward over a batch's token tree: every shared segment once, in both directions.
//!
//! A segment's children start from its outgoing state. Their gradients with respect to that state are summed, and
//! the segment is run again and differentiated against the sum; so the gradient is exactly that of the separate
//! sequences. Only the states of the current path are alive. Leaves of one parent run together as one padded batch.
//!
//! A sequence that cannot move the weights (its advantage is zero, as in a group that all solved or none did) is run
//! forward only, for its log-probs; a segment with no other sequences below it is not differentiated at all.

use std::collections::BTreeMap;

use burn::tensor::{Gradients, Int, Tensor, TensorData};
use nemo_model::parallel::ForwardContext;
use nemo_model::{HybridState, NemotronH};

use super::api::TokenId;
use crate::token_tree::{SegmentId, TokenTree};

/// What a batch costs beside its tokens, in tokens: mostly the gradients of the weights, which are as large for one row.
const BATCH_COST: usize = 48;

/// Gradients by parameter name, flat `[n]`.
pub(super) type ParameterGradients = BTreeMap<String, Tensor<1>>;

/// What a leaf batch's loss is computed from: one row per trained token. Tensors are tracked where the batch is
/// differentiated.
pub(super) struct TrainedRows {
    /// Normed hidden values of the positions before the trained tokens, `[rows, hidden]`.
    pub hidden: Tensor<2>,
    /// The head's weight `[vocab, hidden]`.
    pub head: Tensor<2>,
    /// The trained tokens `[rows]`.
    pub targets: Tensor<1, Int>,
    /// For every row its sequence and the index of its token in it. Rows of one sequence are neighbours, in order.
    pub places: Vec<(usize, usize)>,
}

/// One pass over a tree.
pub(super) struct TreePass<'a, S> {
    model: &'a NemotronH,
    tracked: NemotronH,
    tree: &'a TokenTree,
    sequences: &'a [S],
    /// Entry t of a sequence's mask: token t is trained.
    masks: &'a [Vec<bool>],
    /// Which sequences' losses have a gradient.
    graded: &'a [bool],
    max_batch_tokens: usize,
    gradients: ParameterGradients,
}

impl<'a, S: AsRef<[TokenId]>> TreePass<'a, S> {
    /// A pass of `model` over `tree`. Padded leaf batches hold at most `max_batch_tokens` tokens. The losses of
    /// sequences that are not `graded` must not depend on the weights to first order: their gradient is taken for zero.
    pub fn new(
        model: &'a NemotronH,
        tree: &'a TokenTree,
        sequences: &'a [S],
        masks: &'a [Vec<bool>],
        graded: &'a [bool],
        max_batch_tokens: usize,
    ) -> Self {
        let tracked = model.tracked();
        Self { model, tracked, tree, sequences, masks, graded, max_batch_tokens, gradients: BTreeMap::new() }
    }

    /// Runs every leaf batch through `loss` and back; returns the parameters' gradients of the summed losses.
    pub fn run(mut self, loss: &mut dyn FnMut(TrainedRows) -> Tensor<1>) -> ParameterGradients {
        let roots: Vec<SegmentId> = self.tree.roots().collect();
        self.descend(&roots, &self.model.empty_state(), false, loss);
        self.gradients
    }

    /// Handles the segments `children`, which all start from `incoming`; returns the gradient with respect to it if
    /// `wants_gradient`.
    fn descend(
        &mut self,
        children: &[SegmentId],
        incoming: &HybridState,
        wants_gradient: bool,
        loss: &mut dyn FnMut(TrainedRows) -> Tensor<1>,
    ) -> Option<HybridState> {
        let mut cotangent: Option<HybridState> = None;
        let mut add = |gradient: Option<HybridState>| {
            cotangent = match (cotangent.take(), gradient) {
                (Some(sum), Some(gradient)) => Some(sum + gradient),
                (sum, gradient) => sum.or(gradient),
            };
        };
        let (leaves, inner): (Vec<_>, Vec<_>) =
            children.iter().copied().partition(|&id| self.tree.segments()[id].children.is_empty());
        let (graded, ungraded): (Vec<_>, Vec<_>) =
            leaves.into_iter().partition(|&id| self.graded[self.tree.segments()[id].sequence]);
        for batch in self.leaf_batches(ungraded) {
            if let Some(rows) = self.leaf_rows(self.model, &batch, incoming.clone()) {
                loss(rows);
            }
        }
        for batch in self.leaf_batches(graded) {
            add(self.run_leaves(&batch, incoming, wants_gradient, loss));
        }
        for id in inner {
            add(self.run_inner(id, incoming, wants_gradient, loss));
        }
        cotangent
    }

    /// An inner segment: forward, its subtree, then once more to carry the subtree's gradient through.
    fn run_inner(
        &mut self,
        id: SegmentId,
        incoming: &HybridState,
        wants_gradient: bool,
        loss: &mut dyn FnMut(TrainedRows) -> Tensor<1>,
    ) -> Option<HybridState> {
        let tokens = self.tree.tokens(id, self.sequences);
        let ids = self.model.token_tensor(&[tokens], tokens.len(), 0);
        let (_, outgoing) = self.model.forward(ids, incoming.clone(), ForwardContext::default());
        let children = self.tree.segments()[id].children.clone();
        let cotangent = self.descend(&children, &outgoing, true, loss)?;

        let start = self.tracked_state(incoming, wants_gradient);
        let ids = self.tracked.token_tensor(&[tokens], tokens.len(), 0);
        let (_, outgoing) = self.tracked.forward(ids, start.clone(), ForwardContext::default());
        let mut gradients = outgoing.dot(cotangent).backward();
        let gradient = wants_gradient.then(|| start.take_gradients(&mut gradients));
        self.accumulate(gradients);
        gradient
    }

    /// Sibling leaves, forward and backward.
    fn run_leaves(
        &mut self,
        leaves: &[SegmentId],
        incoming: &HybridState,
        wants_gradient: bool,
        loss: &mut dyn FnMut(TrainedRows) -> Tensor<1>,
    ) -> Option<HybridState> {
        let start = self.tracked_state(incoming, wants_gradient);
        let rows = self.leaf_rows(&self.tracked, leaves, start.clone())?;
        let mut gradients = loss(rows).backward();
        let gradient = wants_gradient.then(|| start.take_gradients(&mut gradients));
        self.accumulate(gradients);
        gradient
    }

    /// Sibling leaves through `model` as one right-padded batch; `None` if none of their tokens is trained.
    fn leaf_rows(&self, model: &NemotronH, leaves: &[SegmentId], start: HybridState) -> Option<TrainedRows> {
        let rows: Vec<&[TokenId]> = leaves.iter().map(|&id| self.tree.tokens(id, self.sequences)).collect();
        let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
        let length = lengths.iter().copied().max().unwrap_or(0);
        let (mut positions, mut targets, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (row, &id) in leaves.iter().enumerate() {
            let segment = &self.tree.segments()[id];
            let sequence = segment.sequence;
            let tokens = self.sequences[sequence].as_ref();
            // Token t is predicted at t - 1, which lies in this leaf: shared parts end before it.
            let start = segment.range.start;
            for t in (start + 1..segment.range.end).filter(|&t| self.masks[sequence][t]) {
                positions.push((row * length + t - 1 - start) as i64);
                targets.push(i64::from(tokens[t]));
                places.push((sequence, t));
            }
        }
        if places.is_empty() {
            return None;
        }
        let ids = model.token_tensor(&rows, length, 0);
        let ragged = lengths.iter().any(|&valid| valid < length);
        let hidden = model.forward_last(ids, start, ragged.then_some(lengths.as_slice()));
        let [batch, _, width] = hidden.dims();
        let device = hidden.device();
        let to_tensor = |ids: Vec<i64>| {
            let count = ids.len();
            Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &device)
        };
        let count = positions.len();
        let hidden = hidden.reshape([batch * length, width]).select(0, to_tensor(positions));
        let hidden = model.normalize(hidden.reshape([1, count, width])).reshape([count, width]);
        Some(TrainedRows { hidden, head: model.head_weight(), targets: to_tensor(targets), places })
    }

    /// Leaves by falling length, cut into batches within the budget so that least is computed on padding.
    fn leaf_batches(&self, mut leaves: Vec<SegmentId>) -> Vec<Vec<SegmentId>> {
        let length = |id: SegmentId| self.tree.segments()[id].len();
        leaves.sort_by_key(|&id| (std::cmp::Reverse(length(id)), id));
        let lengths: Vec<usize> = leaves.iter().map(|&id| length(id)).collect();
        let mut rest = leaves.as_slice();
        let mut batches = Vec::new();
        for size in batch_sizes(&lengths, self.max_batch_tokens) {
            let (batch, others) = rest.split_at(size);
            batches.push(batch.to_vec());
            rest = others;
        }
        batches
    }

    fn tracked_state(&self, state: &HybridState, wants_gradient: bool) -> HybridState {
        if wants_gradient { state.clone().require_grad() } else { self.tracked.empty_state() }
    }

    /// Adds the parameters' gradients of one backward pass to the sums.
    fn accumulate(&mut self, mut gradients: Gradients) {
        let sums = &mut self.gradients;
        self.tracked.visit_mut(&mut |name, parameter| {
            let Some(gradient) = parameter.take_gradient(&mut gradients) else { return };
            match sums.get_mut(name) {
                Some(sum) => sum.inplace(|sum| sum + gradient),
                None => {
                    sums.insert(name.to_owned(), gradient);
                }
            }
        });
    }
}

/// How many of the rows, whose `lengths` fall, go into each batch: the cut with the fewest padded tokens, where every batch
/// counts as [`BATCH_COST`] tokens more. A batch of several rows has at most `max_tokens`.
fn batch_sizes(lengths: &[usize], max_tokens: usize) -> Vec<usize> {
    // Of the cheapest cut of the rows from `first` on: its cost, and the end of its first batch.
    let mut best = vec![(0, lengths.len()); lengths.len() + 1];
    for first in (0..lengths.len()).rev() {
        let alone = (lengths[first] + BATCH_COST + best[first + 1].0, first + 1);
        let most = (max_tokens / lengths[first].max(1)).min(lengths.len() - first);
        let longer = (2..=most).map(|rows| (rows * lengths[first] + BATCH_COST + best[first + rows].0, first + rows));
        // Of equal cuts the one with fewer batches.
        best[first] = longer.fold(alone, |cheapest, cut| if cut.0 <= cheapest.0 { cut } else { cheapest });
    }
    let mut sizes = Vec::new();
    let mut first = 0;
    while first < lengths.len() {
        sizes.push(best[first].1 - first);
        first = best[first].1;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use nemo_model::config::ModelConfig;

    use super::*;

    const CONFIG: &str = r#"{
        "model_type": "nemotron_h", "hybrid_override_pattern": "M*-M*E", "num_hidden_layers": 6, "vocab_size": 61,
        "hidden_size": 32, "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2,
        "conv_kernel": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1,
        "moe_shared_expert_intermediate_size": 24, "n_group": 1, "topk_group": 1, "norm_topk_prob": true,
        "routed_scaling_factor": 1.0, "layer_norm_epsilon": 1e-5, "initializer_range": 0.2,
        "tie_word_embeddings": false, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0, "max_position_embeddings": 512
    }"#;

    /// Two prompts behind a common start, three samples each, of different lengths.
    fn sequences() -> (Vec<Vec<TokenId>>, Vec<Vec<bool>>) {
        let mut sequences = Vec::new();
        let mut masks = Vec::new();
        for prompt in 0..2_u32 {
            for sample in 0..3_u32 {
                let mut tokens: Vec<TokenId> = (0..30).map(|i| (i * 7 + 3) % 61).collect();
                tokens.extend((0..20 + prompt * 5).map(|i| (i * 5 + prompt * 17 + 1) % 61));
                let prompt_length = tokens.len();
                tokens.extend((0..6 + sample * 9).map(|i| (i * (sample + 2) + prompt * 3) % 61));
                // Two trained turns with a tool result between them.
                let mask = (0..tokens.len()).map(|t| t >= prompt_length && (t - prompt_length) % 7 < 5).collect();
                sequences.push(tokens);
                masks.push(mask);
            }
        }
        (sequences, masks)
    }

    fn gradients(
        min_shared: usize,
        max_batch_tokens: usize,
        graded: [bool; 6],
    ) -> (f64, usize, BTreeMap<String, Vec<f64>>) {
        let config = ModelConfig::from_json_text(CONFIG, std::path::Path::new("config.json")).expect("a config");
        let model = nemo_model::random(&config, 9, &Device::flex(), DType::F32).expect("a model");
        let (sequences, masks) = sequences();
        let shareable: Vec<usize> =
            masks.iter().map(|mask| mask.iter().position(|&m| m).expect("a trained token") - 1).collect();
        let tree = TokenTree::build_within(&sequences, &shareable, min_shared);
        let mut total = 0.0;
        let pass = TreePass::new(&model, &tree, &sequences, &masks, &graded, max_batch_tokens);
        let gradients = pass.run(&mut |rows| {
            let output = nemo_kernels::linear_log_prob(rows.hidden, rows.head, rows.targets, 1.0);
            // Each sequence has a weight of its own, as an advantage is; sequences 1, 3, 4 and 5 have none.
            let weight = |sequence: usize| [1.3, 0.0, -0.8, 0.0, 0.0, 0.0][sequence];
            let weights: Vec<f32> = rows.places.iter().map(|&(sequence, _)| weight(sequence)).collect();
            let weights = Tensor::<1>::from_floats(weights.as_slice(), &output.log_prob.device());
            let loss = (output.log_prob * weights).sum();
            total += loss.to_data().iter::<f64>().sum::<f64>();
            loss
        });
        let gradients = gradients.into_iter().map(|(name, g)| (name, g.into_data().iter::<f64>().collect())).collect();
        (total, tree.segments().len(), gradients)
    }

    /// The tree, its leaves in any batches, gives the loss and every gradient of the separate sequences.
    #[test]
    fn tree_equals_flat_sequences() {
        let (flat_loss, flat_segments, flat) = gradients(usize::MAX, 1, [true; 6]);
        assert_eq!(flat_segments, 6);
        let all = [true; 6];
        let weighted = [true, false, true, false, false, false];
        for (max_batch_tokens, min_shared, graded) in
            [(100_000, 8, all), (64, 8, all), (1, 8, all), (100_000, 24, all), (100_000, 8, weighted), (1, 8, weighted)]
        {
            let (loss, segments, tree) = gradients(min_shared, max_batch_tokens, graded);
            assert!(segments > flat_segments, "nothing is shared");
            assert!((loss - flat_loss).abs() <= 1e-4 * flat_loss.abs(), "{loss} against {flat_loss}");
            assert_eq!(tree.keys().collect::<Vec<_>>(), flat.keys().collect::<Vec<_>>());
            for (name, expected) in &flat {
                let norm = expected.iter().map(|e| e * e).sum::<f64>().sqrt();
                let error = tree[name].iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                assert!(error <= 1e-4 * norm, "{name}: relative L2 {:e}", error / norm);
            }
        }
    }

    /// No cut of the rows into batches is cheaper, and all keep to the budget.
    #[test]
    fn batches_pad_least() {
        let cost = |lengths: &[usize], sizes: &[usize]| {
            let (mut first, mut total) = (0, 0);
            for &size in sizes {
                total += lengths[first] * size + BATCH_COST;
                first += size;
            }
            assert_eq!(first, lengths.len());
            total
        };
        let allowed = |lengths: &[usize], sizes: &[usize], limit: usize| {
            let mut first = 0;
            sizes.iter().all(|&size| {
                first += size;
                size == 1 || lengths[first - size] * size <= limit
            })
        };
        for (lengths, limit) in [
            (vec![], 100),
            (vec![700, 650, 90, 80, 80, 75, 20, 1], 2048),
            (vec![700, 650, 90, 80, 80, 75, 20, 1], 160),
            (vec![120, 119, 118, 117, 116, 115, 114, 113, 112], 100_000),
            (vec![400, 300, 200, 100, 50, 25, 12, 6, 3], 900),
            (vec![5000, 10, 0], 64),
        ] {
            let chosen = batch_sizes(&lengths, limit);
            assert!(allowed(&lengths, &chosen, limit), "{lengths:?} {chosen:?}");
            // Every way to cut: bit i set ends a batch behind row i.
            for cuts in 0..1_usize << lengths.len().saturating_sub(1) {
                let mut sizes = Vec::new();
                let mut size = 0;
                for row in 0..lengths.len() {
                    size += 1;
                    if row + 1 == lengths.len() || cuts >> row & 1 == 1 {
                        sizes.push(std::mem::take(&mut size));
                    }
                }
                if allowed(&lengths, &sizes, limit) {
                    assert!(cost(&lengths, &chosen) <= cost(&lengths, &sizes), "{lengths:?} {chosen:?} {sizes:?}");
                }
            }
        }
        assert_eq!(batch_sizes(&[120, 119, 118, 117], 100_000), [4]);
    }
}
