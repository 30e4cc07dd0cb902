//! The oracle of the cells: one graph over all blocks of a chunk, from Burn's own differentiation, the same partition.
//!
//! It shares no arithmetic of gradients with the cells: states are appended inside the graph, gradients enter by products,
//! weights' gradients are whole tensors.

use burn::tensor::{Gradients, Int, Tensor, TensorData};
use nemo_model::checkpoint::EMBEDDINGS;
use nemo_model::parallel::ForwardContext;
use nemo_model::{HybridState, LayerState, NemotronH, ParameterGradient};

use super::super::{ParameterGradients, PassOptions, chain, leaf_batches};
use crate::policy::api::TokenId;
use crate::token_tree::{SegmentId, TokenTree};

/// The loss of rows, each of a sequence and token, from their log-probabilities.
pub(super) type RowLoss<'l> = dyn FnMut(Tensor<1>, &[(usize, usize)]) -> Tensor<1> + 'l;

pub(super) struct WholeGraph<'a> {
    pub model: &'a NemotronH,
    pub tree: &'a TokenTree,
    pub sequences: &'a [Vec<TokenId>],
    pub masks: &'a [Vec<bool>],
    pub graded: &'a [bool],
    pub options: PassOptions,
    pub temperature: f64,
    pub sums: ParameterGradients,
}

/// The parameters of one graph; a tied head is a leaf of its own.
struct Tracked {
    model: NemotronH,
    head: Tensor<2>,
}

type Cotangent = Option<HybridState>;

impl WholeGraph<'_> {
    pub fn run(&mut self, loss: &mut RowLoss<'_>) {
        let roots: Vec<SegmentId> = self.tree.roots().collect();
        self.descend(&roots, &self.model.empty_state(), false, loss);
    }

    fn descend(
        &mut self,
        children: &[SegmentId],
        start: &HybridState,
        wants: bool,
        loss: &mut RowLoss<'_>,
    ) -> Cotangent {
        let segments = self.tree.segments();
        let (leaves, inner): (Vec<_>, Vec<_>) =
            children.iter().copied().partition(|&id| segments[id].children.is_empty());
        let graded = |id: SegmentId| {
            let sequence = segments[id].sequence;
            self.graded[sequence] && self.masks[sequence].contains(&true)
        };
        let (graded, ungraded): (Vec<_>, Vec<_>) = leaves.into_iter().partition(|&id| graded(id));
        for batch in leaf_batches(self.tree, ungraded, self.options) {
            self.leaves(&batch, start, false, false, loss);
        }
        let mut sum = None;
        for batch in leaf_batches(self.tree, graded, self.options) {
            sum = add(sum, self.leaves(&batch, start, true, wants, loss));
        }
        for id in inner {
            let tokens = self.tree.tokens(id, self.sequences);
            let chunks: Vec<&[TokenId]> = tokens.chunks(self.options.chunk_tokens).collect();
            let mut states = vec![start.clone()];
            for chunk in &chunks {
                let ids = self.model.token_tensor(&[chunk], chunk.len(), 0);
                let state = states[states.len() - 1].clone();
                states.push(self.model.forward(ids, state, ForwardContext::default()).1);
            }
            let outgoing = states.pop().expect("a state");
            let Some(mut cotangent) = self.descend(&self.tree.segments()[id].children.clone(), &outgoing, true, loss)
            else {
                continue;
            };
            let mut gradient = None;
            for (index, chunk) in chunks.iter().enumerate().rev() {
                let tracked = self.tracked();
                let leaf = leaf_state(&states[index], wants || index > 0);
                let ids = self.model.token_tensor(&[chunk], chunk.len(), 0);
                let (_, outgoing) = tracked.model.forward(ids, leaf.clone(), ForwardContext::default());
                let mut gradients = dot(outgoing, cotangent.clone()).backward();
                gradient = (wants || index > 0).then(|| of_state(&leaf, &mut gradients));
                self.accumulate(tracked, gradients);
                if let Some(gradient) = &gradient {
                    cotangent = gradient.clone();
                }
            }
            sum = add(sum, gradient);
        }
        sum
    }

    fn leaves(
        &mut self,
        leaves: &[SegmentId],
        start: &HybridState,
        graded: bool,
        wants: bool,
        loss: &mut RowLoss<'_>,
    ) -> Cotangent {
        let rows: Vec<&[TokenId]> = leaves.iter().map(|&id| self.tree.tokens(id, self.sequences)).collect();
        let chunks = chain::cut(&rows, self.options.chunk_tokens);
        // Per chunk: positions, targets, places.
        let mut trained = Vec::new();
        let mut first = 0;
        for chunk in &chunks {
            let (mut positions, mut targets, mut places) = (Vec::new(), Vec::new(), Vec::new());
            for (row, &id) in leaves.iter().enumerate() {
                let segment = &self.tree.segments()[id];
                for at in 0..chunk.length {
                    let t = segment.range.start + first + at + 1;
                    if t < segment.range.end && self.masks[segment.sequence][t] {
                        positions.push((row * chunk.length + at) as i64);
                        targets.push(i64::from(self.sequences[segment.sequence][t]));
                        places.push((segment.sequence, t));
                    }
                }
            }
            first += chunk.length;
            trained.push((positions, targets, places));
        }
        let all_places: Vec<_> = trained.iter().flat_map(|(.., places)| places.clone()).collect();
        if all_places.is_empty() {
            return None;
        }
        let mut states = vec![start.clone()];
        let mut log_probs = Vec::new();
        for (chunk, (positions, targets, _)) in chunks.iter().zip(&trained) {
            let plain = Tracked { model: self.model.clone(), head: self.model.head_weight() };
            let state = states[states.len() - 1].clone();
            let (log_prob, next) = self.score(&plain, chunk, state, positions, targets);
            log_probs.extend(log_prob);
            states.push(next);
        }
        let log_prob = Tensor::cat(log_probs, 0);
        if !graded {
            loss(log_prob, &all_places);
            return None;
        }
        let leaf = log_prob.autodiff().require_grad();
        let mut gradients = loss(leaf.clone(), &all_places).backward();
        let d_log_prob = leaf.grad_remove(&mut gradients).expect("a gradient");
        let (mut cotangent, mut end) = (None, all_places.len());
        for (index, (chunk, (positions, targets, places))) in chunks.iter().zip(&trained).enumerate().rev() {
            let tracked = self.tracked();
            let wants = wants || index > 0;
            let leaf = leaf_state(&states[index], wants);
            let (log_prob, outgoing) = self.score(&tracked, chunk, leaf.clone(), positions, targets);
            end -= places.len();
            let of_loss = log_prob.map(|log_prob| {
                let part = d_log_prob.clone().narrow(0, end, places.len());
                (log_prob * part.autodiff()).sum()
            });
            let of_state_out = cotangent.take().map(|cotangent| dot(outgoing, cotangent));
            let root = match (of_loss, of_state_out) {
                (Some(loss), Some(state)) => loss + state,
                (Some(root), None) | (None, Some(root)) => root,
                // The last chunk may predict nothing.
                (None, None) => continue,
            };
            let mut gradients = root.backward();
            cotangent = wants.then(|| of_state(&leaf, &mut gradients));
            self.accumulate(tracked, gradients);
        }
        cotangent
    }

    fn score(
        &self,
        tracked: &Tracked,
        chunk: &super::super::cell::PaddedRows,
        state: HybridState,
        positions: &[i64],
        targets: &[i64],
    ) -> (Option<Tensor<1>>, HybridState) {
        let rows: Vec<&[TokenId]> = chunk.ids.chunks(chunk.length).collect();
        let ids = self.model.token_tensor(&rows, chunk.length, 0);
        let (hidden, state) = tracked.model.forward(ids, state, ForwardContext { lengths: chunk.lengths.as_deref() });
        let [batch, length, width] = hidden.dims();
        let indices = |values: &[i64]| {
            Tensor::<1, Int>::from_data(TensorData::new(values.to_vec(), [values.len()]), &self.model.device())
        };
        let log_prob = (!positions.is_empty()).then(|| {
            let hidden = hidden.reshape([batch * length, width]).select(0, indices(positions));
            let hidden = tracked.model.normalize(hidden.reshape([1, positions.len(), width]));
            let hidden = hidden.reshape([positions.len(), width]);
            nemo_kernels::linear_log_prob(hidden, tracked.head.clone(), indices(targets), self.temperature).log_prob
        });
        (log_prob, state)
    }

    fn tracked(&self) -> Tracked {
        let model = self.model.tracked();
        let head = match self.model.head_name() == EMBEDDINGS && self.model.adapter().is_none() {
            true => self.model.head_weight().autodiff().require_grad(),
            false => model.head_weight(),
        };
        Tracked { model, head }
    }

    fn accumulate(&mut self, mut tracked: Tracked, mut gradients: Gradients) {
        let sums = &mut self.sums;
        let mut add = |name: &str, gradient: Tensor<1>| {
            let sum = sums.remove(name);
            sums.insert(name.to_owned(), sum.map_or(gradient.clone(), |sum| sum + gradient));
        };
        if self.model.head_name() == EMBEDDINGS
            && self.model.adapter().is_none()
            && let Some(gradient) = tracked.head.grad_remove(&mut gradients)
        {
            let [rows, width] = gradient.dims();
            add(EMBEDDINGS, gradient.reshape([rows * width]));
        }
        tracked.model.visit_trained_mut(&mut |name, parameter| match parameter.take_gradient(&mut gradients) {
            Some(ParameterGradient::Whole(gradient)) => add(name, gradient),
            Some(ParameterGradient::Factors { .. }) => panic!("{name}: the oracle does not defer"),
            None => {}
        });
    }
}

fn leaf_state(state: &HybridState, wants: bool) -> HybridState {
    if wants { state.clone().require_grad() } else { state.clone() }
}

fn of_state(leaf: &HybridState, gradients: &mut Gradients) -> HybridState {
    let layers = leaf.layers.iter().map(|layer| layer.take_gradient(gradients)).collect();
    HybridState { layers, lengths: leaf.lengths.clone() }
}

fn add(left: Cotangent, right: Cotangent) -> Cotangent {
    match (left, right) {
        (Some(left), Some(right)) => {
            let layers = left.layers.into_iter().zip(right.layers).map(|(left, right)| left + right).collect();
            Some(HybridState { layers, lengths: left.lengths })
        }
        (left, right) => left.or(right),
    }
}

fn dot(state: HybridState, cotangent: HybridState) -> Tensor<1> {
    let mut terms = Vec::new();
    for pair in state.layers.into_iter().zip(cotangent.layers) {
        match pair {
            (LayerState::Mamba2 { window, ssm }, LayerState::Mamba2 { window: w, ssm: s }) => {
                terms.extend([(window * w.autodiff()).sum(), (ssm * s.autodiff()).sum()]);
            }
            (
                LayerState::Attention { keys_values: Some((keys, values)) },
                LayerState::Attention { keys_values: Some((k, v)) },
            ) => terms.extend([(keys * k.autodiff()).sum(), (values * v.autodiff()).sum()]),
            _ => {}
        }
    }
    terms.into_iter().reduce(|sum, term| sum + term).expect("a layer with a state")
}
