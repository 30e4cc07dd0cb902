//! Forward and backward over a batch's token tree: every shared segment once, in both directions.
//!
//! A segment's children start from its outgoing state. Their gradients with respect to that state are summed, and the segment
//! is differentiated against the sum; so the gradient is exactly that of the separate sequences. The tree is walked depth
//! first: only the states of the current path are alive. Leaves of one parent run together as one padded batch.
//!
//! A segment is differentiated cell by cell ([`cell`]), a long one in chunks, last to first ([`chain`]): no graph is larger
//! than one block over one chunk, unless there is room to keep the graphs of the first pass.
//!
//! A sequence that cannot move the weights (its advantage is zero, as in a group that all solved or none did) is run
//! forward only, for its log-probs; a segment with no other sequences below it is not differentiated at all.

mod batches;
mod cell;
mod chain;
mod head;
mod room;
mod sink;
#[cfg(test)]
mod tests;

use burn::tensor::Tensor;
use nemo_model::{LayerState, NemotronH};

use self::batches::batch_sizes;
use self::cell::{PaddedRows, StateGradients};
use self::chain::Chain;
use self::head::{Head, ScoreGradients, Scores, Targets};
use self::room::Room;
use self::sink::GradientSink;
use super::api::TokenId;
use crate::plan::Run;
use crate::token_tree::{SegmentId, TokenTree};

pub(super) use self::sink::ParameterGradients;

/// What a leaf batch's loss is computed from: one row per trained token, in the order of `places`. Tensors are tracked where
/// the batch is differentiated.
pub(super) struct TrainedRows {
    /// Log-probabilities of the trained tokens `[rows]`.
    pub log_prob: Tensor<1>,
    /// Entropies of the distributions they are from `[rows]`, without gradient.
    pub entropy: Tensor<1>,
    /// If asked for: the mean over the vocabulary of log p, less the token's own log p, `[rows]`.
    pub spread: Option<Tensor<1>>,
    /// For every row its sequence and the index of its token in it. Rows of one sequence are neighbours, in order.
    pub places: Vec<(usize, usize)>,
}

/// How a pass goes about its work. Nothing here changes a log-probability; sizes of batches and chunks change the order in
/// which gradients are summed.
#[derive(Clone, Copy, Debug)]
pub struct PassOptions {
    /// Most tokens of a padded leaf batch of several rows.
    pub max_batch_tokens: usize,
    /// Most tokens of a segment that go through the model at once.
    pub chunk_tokens: usize,
    /// Bytes that graphs of first passes may take; cells that find no room there run twice.
    pub kept_bytes: usize,
}

/// What the loss gets of the head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scoring {
    /// Temperature of the distributions that tokens are scored under.
    pub temperature: f64,
    /// Whether [`TrainedRows::spread`] is asked for.
    pub spread: bool,
}

/// One pass over a tree.
pub(super) struct TreePass<'a, S> {
    model: &'a NemotronH,
    tree: &'a TokenTree,
    sequences: &'a [S],
    /// Entry t of a sequence's mask: token t is trained.
    masks: &'a [Vec<bool>],
    /// Which segments have a sequence below them whose loss has a gradient.
    graded: Vec<bool>,
    options: PassOptions,
    head: Head<'a>,
    room: Room,
    sink: GradientSink,
}

type Loss<'l> = dyn FnMut(TrainedRows) -> Tensor<1> + 'l;

impl<'a, S: AsRef<[TokenId]>> TreePass<'a, S> {
    /// A pass of `model` over `tree`. The losses of sequences that are not `graded` must not depend on the weights to first
    /// order: their gradient is taken for zero.
    pub fn new(
        model: &'a NemotronH,
        tree: &'a TokenTree,
        sequences: &'a [S],
        masks: &'a [Vec<bool>],
        graded: &[bool],
        options: PassOptions,
        scoring: Scoring,
    ) -> Self {
        let mut graded_segments = vec![false; tree.segments().len()];
        for sequence in (0..sequences.len()).filter(|&s| graded[s] && masks[s].contains(&true)) {
            for id in tree.path(sequence) {
                graded_segments[id] = true;
            }
        }
        let inner = tree.segments().iter().filter(|segment| !segment.children.is_empty());
        let siblings = inner.map(|segment| segment.children.clone()).chain([tree.roots().collect()]);
        let graded_leaves = siblings.map(|children| {
            let is_graded_leaf = |id: &SegmentId| graded_segments[*id] && tree.segments()[*id].children.is_empty();
            children.into_iter().filter(is_graded_leaf).collect::<Vec<_>>()
        });
        let batches = graded_leaves.flat_map(|leaves| leaf_batches(tree, leaves, options));
        let batch_runs = batches.map(|batch| {
            let longest = batch.iter().map(|&id| tree.segments()[id].len()).max().unwrap_or(0);
            let tokens = batch.len() * longest.min(options.chunk_tokens);
            Run { rows: batch.len(), tokens, num_keys: tree.segments()[batch[0]].range.start }
        });
        let room = Room::new(model, options.kept_bytes, batch_runs);
        let head = Head::new(model, scoring);
        let sink = GradientSink::default();
        Self { model, tree, sequences, masks, graded: graded_segments, options, head, room, sink }
    }

    /// Runs every leaf batch through `loss` and back; returns the parameters' gradients of the summed losses.
    pub fn run(mut self, loss: &mut Loss<'_>) -> ParameterGradients {
        let roots: Vec<SegmentId> = self.tree.roots().collect();
        self.descend(&roots, &self.model.empty_state().layers, false, loss);
        self.sink.into_sums()
    }

    /// Handles the segments `children`, which all start from `incoming`; returns the gradient with respect to it if that is
    /// asked for and there is one.
    fn descend(
        &mut self,
        children: &[SegmentId],
        incoming: &[LayerState],
        differentiates_state: bool,
        loss: &mut Loss<'_>,
    ) -> Option<StateGradients> {
        let mut sum: Option<StateGradients> = None;
        let mut add = |gradients: Option<StateGradients>| {
            sum = match (sum.take(), gradients) {
                (Some(sum), Some(gradients)) => Some(chain::add(sum, gradients)),
                (sum, gradients) => sum.or(gradients),
            };
        };
        let (leaves, inner): (Vec<_>, Vec<_>) =
            children.iter().copied().partition(|&id| self.tree.segments()[id].children.is_empty());
        let (graded, ungraded): (Vec<_>, Vec<_>) = leaves.into_iter().partition(|&id| self.graded[id]);
        for batch in self.leaf_batches(ungraded) {
            self.score_leaves(&batch, incoming, loss);
        }
        for batch in self.leaf_batches(graded) {
            add(self.run_leaves(&batch, incoming, differentiates_state, loss));
        }
        for id in inner {
            add(self.run_inner(id, incoming, differentiates_state, loss));
        }
        sum
    }

    /// An inner segment: forward, its subtree, then the subtree's gradient back through it.
    fn run_inner(
        &mut self,
        id: SegmentId,
        incoming: &[LayerState],
        differentiates_state: bool,
        loss: &mut Loss<'_>,
    ) -> Option<StateGradients> {
        let (tree, graded) = (self.tree, self.graded[id]);
        let chunks = chain::cut(&[tree.tokens(id, self.sequences)], self.options.chunk_tokens);
        let last = chunks.len() - 1;
        let mut chain = Chain::new(self.model, incoming, differentiates_state);
        let mut held = 0;
        for (index, rows) in chunks.into_iter().enumerate() {
            let num_kept = (graded && index == last).then(|| {
                let kept = self.room.above_leaves(&rows, chain.num_keys());
                held = self.room.hold(kept);
                kept.num_blocks
            });
            chain.run(rows, num_kept, false);
        }
        let outgoing = chain.state().to_vec();
        let d_state = self.descend(&tree.segments()[id].children, &outgoing, graded, loss);
        drop(outgoing);
        let mut d_state = d_state?;
        while let Some(chunk) = chain.unfold(|rows, num_keys| self.room.fit(rows, num_keys).num_blocks) {
            d_state = chunk.backward(None, d_state, &mut self.sink);
            self.room.release(std::mem::take(&mut held));
        }
        Some(d_state)
    }

    /// Sibling leaves, forward only.
    fn score_leaves(&self, leaves: &[SegmentId], incoming: &[LayerState], loss: &mut Loss<'_>) {
        let Leaves { chunks, places, .. } = self.leaves(leaves);
        if places.is_empty() {
            return;
        }
        let last = chunks.len() - 1;
        let mut chain = Chain::new(self.model, incoming, false);
        let mut scores = Vec::new();
        for (index, (rows, targets)) in chunks.into_iter().enumerate() {
            let hidden = chain.run(rows, None, index == last);
            scores.extend(targets.map(|targets| self.head.score_plain(hidden, &targets)));
        }
        loss(trained_rows(scores, places).0);
    }

    /// Sibling leaves, forward and backward.
    fn run_leaves(
        &mut self,
        leaves: &[SegmentId],
        incoming: &[LayerState],
        differentiates_state: bool,
        loss: &mut Loss<'_>,
    ) -> Option<StateGradients> {
        let Leaves { chunks, places } = self.leaves(leaves);
        let last = chunks.len() - 1;
        let mut chain = Chain::new(self.model, incoming, differentiates_state);
        let (mut scores, mut all_targets, mut normed) = (Vec::new(), Vec::new(), None);
        for (index, (rows, targets)) in chunks.into_iter().enumerate() {
            let is_last = index == last;
            let num_kept = is_last.then(|| self.room.fit(&rows, chain.num_keys()).num_blocks);
            let hidden = chain.run(rows, num_kept, is_last);
            if let Some(targets) = &targets {
                if is_last {
                    let rows = self.head.normed(hidden, targets);
                    scores.push(self.head.score(&rows, targets));
                    normed = Some(rows);
                } else {
                    scores.push(self.head.score_plain(hidden, targets));
                }
            }
            all_targets.push(targets);
        }
        let mut log_sum_exps: Vec<_> = scores.iter().map(|scores| scores.log_sum_exp.clone()).collect();
        let (rows, leaf) = trained_rows(scores, places);
        let rows = TrainedRows { log_prob: leaf.log_prob.clone(), spread: leaf.spread.clone(), ..rows };
        let mut gradients = loss(rows).backward();
        let of_leaf = |leaf: &Tensor<1>, gradients: &mut _| {
            leaf.grad_remove(gradients).unwrap_or_else(|| leaf.clone().without_autodiff().zeros_like())
        };
        let d_log_prob = of_leaf(&leaf.log_prob, &mut gradients);
        let d_spread = leaf.spread.map(|spread| of_leaf(&spread, &mut gradients));
        drop(gradients);

        let mut d_state: StateGradients = vec![None; incoming.len()];
        let mut end = d_log_prob.dims()[0];
        while let Some(mut chunk) = chain.unfold(|rows, num_keys| self.room.fit(rows, num_keys).num_blocks) {
            let mut d_hidden = None;
            if let (Some(targets), Some(log_sum_exp)) = (all_targets.pop().flatten(), log_sum_exps.last()) {
                let count = targets.len();
                let part = |gradient: &Tensor<1>| gradient.clone().narrow(0, end - count, count);
                let gradients = ScoreGradients { log_prob: part(&d_log_prob), spread: d_spread.as_ref().map(part) };
                let rows = normed.take().or_else(|| Some(self.head.normed(chunk.hidden.take()?, &targets)));
                d_hidden = rows.and_then(|rows| {
                    self.head.backward(rows, &targets, log_sum_exp.clone(), gradients, &mut self.sink)
                });
                log_sum_exps.pop();
                end -= count;
            }
            d_state = chunk.backward(d_hidden, d_state, &mut self.sink);
        }
        differentiates_state.then_some(d_state)
    }

    /// Sibling leaves as one batch, in chunks, with their trained tokens.
    fn leaves(&self, leaves: &[SegmentId]) -> Leaves {
        let rows: Vec<&[TokenId]> = leaves.iter().map(|&id| self.tree.tokens(id, self.sequences)).collect();
        let chunks = chain::cut(&rows, self.options.chunk_tokens);
        let mut all_places = Vec::new();
        let mut first = 0;
        let chunks = chunks
            .into_iter()
            .map(|chunk| {
                let (mut positions, mut tokens) = (Vec::new(), Vec::new());
                for (row, &id) in leaves.iter().enumerate() {
                    let segment = &self.tree.segments()[id];
                    let sequence = segment.sequence;
                    // Token t is predicted at t - 1, which lies in this leaf: shared parts end before it.
                    let start = segment.range.start + first;
                    let end = segment.range.end.min(start + chunk.length + 1);
                    for t in (start + 1..end).filter(|&t| self.masks[sequence][t]) {
                        positions.push((row * chunk.length + t - 1 - start) as i64);
                        tokens.push(i64::from(self.sequences[sequence].as_ref()[t]));
                        all_places.push((sequence, t));
                    }
                }
                first += chunk.length;
                let targets = (!tokens.is_empty()).then(|| Targets::new(self.model, positions, tokens));
                (chunk, targets)
            })
            .collect();
        Leaves { chunks, places: all_places }
    }

    /// Leaves by falling length, cut into batches within the budget so that least is computed on padding.
    fn leaf_batches(&self, leaves: Vec<SegmentId>) -> Vec<Vec<SegmentId>> {
        leaf_batches(self.tree, leaves, self.options)
    }
}

/// Sibling leaves as one batch.
struct Leaves {
    /// Each with the trained tokens that it predicts, if there are any.
    chunks: Vec<(PaddedRows, Option<Targets>)>,
    /// As [`TrainedRows::places`], chunk by chunk.
    places: Vec<(usize, usize)>,
}

/// Leaves of a graph in which a loss is computed.
struct ScoreLeaves {
    log_prob: Tensor<1>,
    spread: Option<Tensor<1>>,
}

/// The scores of all chunks, plain, and their tracked counterparts.
fn trained_rows(scores: Vec<Scores>, places: Vec<(usize, usize)>) -> (TrainedRows, ScoreLeaves) {
    let spread: Option<Vec<_>> = scores.iter().map(|scores| scores.spread.clone()).collect();
    let (log_prob, entropy): (Vec<_>, Vec<_>) =
        scores.into_iter().map(|scores| (scores.output.log_prob, scores.output.entropy)).unzip();
    let rows = TrainedRows { log_prob: join(log_prob), entropy: join(entropy), spread: spread.map(join), places };
    let leaf = |tensor: &Tensor<1>| tensor.clone().autodiff().require_grad();
    let leaves = ScoreLeaves { log_prob: leaf(&rows.log_prob), spread: rows.spread.as_ref().map(leaf) };
    (rows, leaves)
}

fn join(mut parts: Vec<Tensor<1>>) -> Tensor<1> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) }
}

/// Leaves by falling length, cut into batches of at most `max_batch_tokens` so that least is computed on padding. One that is
/// longer than a chunk stays alone.
fn leaf_batches(tree: &TokenTree, mut leaves: Vec<SegmentId>, options: PassOptions) -> Vec<Vec<SegmentId>> {
    let length = |id: SegmentId| tree.segments()[id].len();
    leaves.sort_by_key(|&id| (std::cmp::Reverse(length(id)), id));
    let lengths: Vec<usize> = leaves.iter().map(|&id| length(id)).collect();
    let num_long = lengths.iter().take_while(|&&length| length > options.chunk_tokens).count();
    let sizes = std::iter::repeat_n(1, num_long).chain(batch_sizes(&lengths[num_long..], options.max_batch_tokens));
    let mut rest = leaves.as_slice();
    let mut batches = Vec::new();
    for size in sizes {
        let (batch, others) = rest.split_at(size);
        batches.push(batch.to_vec());
        rest = others;
    }
    batches
}
