//! Forward and backward over a batch's token tree: every shared segment once, in both directions.
//!
//! A segment's children start from its outgoing state. Their gradients with respect to that state are summed, and
//! the segment is run again and differentiated against the sum; so the gradient is exactly that of the separate
//! sequences. Only the states of the current path are alive. Leaves of one parent run together as one padded batch.

use std::collections::BTreeMap;

use burn::tensor::{Gradients, Int, Tensor, TensorData};
use nemo_model::parallel::ForwardContext;
use nemo_model::{HybridState, NemotronH};

use super::api::TokenId;
use crate::token_tree::{SegmentId, TokenTree};

/// Gradients by parameter name, flat `[n]`.
pub(super) type ParameterGradients = BTreeMap<String, Tensor<1>>;

/// What a leaf batch's loss is computed from: one row per trained token.
pub(super) struct TrainedRows {
    /// Normed hidden values of the positions before the trained tokens, `[rows, hidden]`, tracked.
    pub hidden: Tensor<2>,
    /// The head's weight `[vocab, hidden]`, tracked.
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
    max_batch_tokens: usize,
    gradients: ParameterGradients,
}

impl<'a, S: AsRef<[TokenId]>> TreePass<'a, S> {
    /// A pass of `model` over `tree`. Padded leaf batches hold at most `max_batch_tokens` tokens.
    pub fn new(
        model: &'a NemotronH,
        tree: &'a TokenTree,
        sequences: &'a [S],
        masks: &'a [Vec<bool>],
        max_batch_tokens: usize,
    ) -> Self {
        let tracked = model.tracked();
        Self { model, tracked, tree, sequences, masks, max_batch_tokens, gradients: BTreeMap::new() }
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
                (Some(sum), Some(gradient)) => Some(sum.add(gradient)),
                (sum, gradient) => sum.or(gradient),
            };
        };
        let (leaves, inner): (Vec<_>, Vec<_>) =
            children.iter().copied().partition(|&id| self.tree.segments()[id].children.is_empty());
        for batch in self.leaf_batches(leaves) {
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

    /// Sibling leaves as one right-padded batch.
    fn run_leaves(
        &mut self,
        leaves: &[SegmentId],
        incoming: &HybridState,
        wants_gradient: bool,
        loss: &mut dyn FnMut(TrainedRows) -> Tensor<1>,
    ) -> Option<HybridState> {
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
        let start = self.tracked_state(incoming, wants_gradient);
        let ids = self.tracked.token_tensor(&rows, length, 0);
        let ragged = lengths.iter().any(|&valid| valid < length);
        let context = ForwardContext { lengths: ragged.then_some(lengths.as_slice()) };
        let (hidden, _) = self.tracked.forward(ids, start.clone(), context);
        let [batch, _, width] = hidden.dims();
        let device = hidden.device();
        let to_tensor = |ids: Vec<i64>| {
            let count = ids.len();
            Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &device)
        };
        let count = positions.len();
        let hidden = hidden.reshape([batch * length, width]).select(0, to_tensor(positions));
        let hidden = self.tracked.normalize(hidden.reshape([1, count, width])).reshape([count, width]);
        let value =
            loss(TrainedRows { hidden, head: self.tracked.head_weight(), targets: to_tensor(targets), places });
        let mut gradients = value.backward();
        let gradient = wants_gradient.then(|| start.take_gradients(&mut gradients));
        self.accumulate(gradients);
        gradient
    }

    /// Leaves by falling length, cut into batches whose padded size stays within the budget.
    fn leaf_batches(&self, mut leaves: Vec<SegmentId>) -> Vec<Vec<SegmentId>> {
        let length = |id: SegmentId| self.tree.segments()[id].len();
        leaves.sort_by_key(|&id| (std::cmp::Reverse(length(id)), id));
        let mut batches: Vec<Vec<SegmentId>> = Vec::new();
        for id in leaves {
            match batches.last_mut() {
                Some(batch) if (batch.len() + 1) * length(batch[0]) <= self.max_batch_tokens => batch.push(id),
                _ => batches.push(vec![id]),
            }
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
