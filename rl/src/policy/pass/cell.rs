//! A cell: one block over one run of tokens, the unit in which a batch is differentiated.
//!
//! All that is kept of a cell after its forward pass is what goes into it: the residual stream before the block and the
//! block's incoming state. Backward runs the block again, with tracked inputs, and differentiates
//! `dot(output, d_output) + dot(own state, d_own_state)`; so the graph that is alive at any time is one block's, whatever the
//! depth. Where there is room the graph of the first pass is kept, and nothing runs twice. Both give the same bits.

use burn::tensor::Tensor;
use nemo_model::parallel::ForwardContext;
use nemo_model::{Block, LayerState, NemotronH};

use super::sink::GradientSink;
use crate::policy::api::TokenId;

/// Rows of tokens that go through the model together, right-padded.
#[derive(Clone, Debug)]
pub(super) struct PaddedRows {
    /// Row by row.
    pub ids: Vec<TokenId>,
    pub num_rows: usize,
    /// Tokens per row, padding included.
    pub length: usize,
    /// Valid tokens per row; `None` where nothing is padded.
    pub lengths: Option<Vec<usize>>,
}

impl PaddedRows {
    /// Pads with token 0.
    pub fn new(rows: &[&[TokenId]]) -> Self {
        let length = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * length);
        for row in rows {
            ids.extend_from_slice(row);
            ids.extend(std::iter::repeat_n(0, length - row.len()));
        }
        let padded = rows.iter().any(|row| row.len() < length);
        let lengths = padded.then(|| rows.iter().map(|row| row.len()).collect());
        Self { ids, num_rows: rows.len(), length, lengths }
    }

    /// Tokens, padding included.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    fn context(&self) -> ForwardContext<'_> {
        ForwardContext { lengths: self.lengths.as_deref() }
    }

    fn embed(&self, model: &NemotronH) -> Tensor<3> {
        let rows: Vec<&[TokenId]> = self.ids.chunks(self.length.max(1)).collect();
        model.embed(model.token_tensor(&rows, self.length, 0))
    }
}

/// One state per block, or one gradient of it where there is any.
pub(super) type BlockStates = Vec<LayerState>;
pub(super) type StateGradients = Vec<Option<LayerState>>;

/// Runs the rows through all blocks and keeps nothing: the residual stream after the last block, and what each block adds to
/// its state, if anything follows.
pub(super) fn run(
    model: &NemotronH,
    rows: &PaddedRows,
    incoming: &[LayerState],
    is_last: bool,
) -> (Tensor<3>, BlockStates) {
    let mut hidden = rows.embed(model);
    let mut own = Vec::new();
    for (block, state) in model.blocks().iter().zip(incoming) {
        let (output, state) = block.forward(hidden, state.clone(), rows.context());
        hidden = output;
        if !is_last {
            own.push(state);
        }
    }
    (hidden, own)
}

/// The graph of one cell.
#[derive(Debug)]
struct Graph {
    block: Block,
    hidden: Tensor<3>,
    state: LayerState,
    output: Tensor<3>,
    own: LayerState,
}

impl Graph {
    fn new(
        block: &Block,
        hidden: Tensor<3>,
        state: &LayerState,
        differentiates_state: bool,
        context: ForwardContext<'_>,
    ) -> Self {
        let block = block.traced();
        let hidden = hidden.autodiff().require_grad();
        let state = if differentiates_state { state.clone().require_grad() } else { state.clone() };
        let (output, own) = block.forward(hidden.clone(), state.clone(), context);
        Self { block, hidden, state, output, own }
    }
}

/// A cell between its forward and its backward pass.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "handles of tensors: small beside what they point to")]
enum Cell {
    Kept(Box<Graph>),
    /// The residual stream before the block.
    Rerun(Tensor<3>),
}

/// The cells of one run of tokens, first block to last, between forward and backward.
#[derive(Debug)]
pub(super) struct Cells {
    rows: PaddedRows,
    incoming: BlockStates,
    differentiates_state: bool,
    cells: Vec<Cell>,
}

impl Cells {
    /// As [`run`], and the cells. The graphs of the last `num_kept` blocks are kept: backward frees them first, so that the
    /// others find their room. The incoming state has a gradient only if that is asked for.
    pub fn forward(
        model: &NemotronH,
        rows: PaddedRows,
        incoming: BlockStates,
        differentiates_state: bool,
        num_kept: usize,
        is_last: bool,
    ) -> (Self, Tensor<3>, BlockStates) {
        let mut hidden = rows.embed(model);
        let num_rerun = model.blocks().len().saturating_sub(num_kept);
        let (mut cells, mut own) = (Vec::with_capacity(incoming.len()), Vec::new());
        for (index, (block, state)) in model.blocks().iter().zip(&incoming).enumerate() {
            let (output, own_state) = if index < num_rerun {
                let result = block.forward(hidden.clone(), state.clone(), rows.context());
                cells.push(Cell::Rerun(hidden));
                result
            } else {
                let graph = Graph::new(block, hidden, state, differentiates_state, rows.context());
                let result = (graph.output.clone().without_autodiff(), graph.own.clone().without_autodiff());
                cells.push(Cell::Kept(Box::new(graph)));
                result
            };
            hidden = output;
            if !is_last {
                own.push(own_state);
            }
        }
        (Self { rows, incoming, differentiates_state, cells }, hidden, own)
    }

    /// Carries the gradients of the residual stream after the last block and of the state behind the run back to the
    /// parameters, and to the incoming state where that was asked for. The gradient of keys and values before the run joins
    /// what the run adds to it block by block, so that the two never stand side by side for all blocks.
    pub fn backward(
        self,
        model: &NemotronH,
        mut d_hidden: Option<Tensor<3>>,
        d_state: StateGradients,
        sink: &mut GradientSink,
    ) -> StateGradients {
        let mut d_incoming = vec![None; self.cells.len()];
        let cells = self.cells.into_iter().zip(self.incoming).zip(d_state).enumerate();
        for (index, ((cell, state), d_state)) in cells.rev() {
            let (d_before, d_own) = d_state.map_or((None, None), |gradient| gradient.split_at(state.num_keys()));
            d_incoming[index] = d_before;
            if d_hidden.is_none() && d_own.is_none() {
                continue;
            }
            let mut graph = match cell {
                Cell::Kept(graph) => *graph,
                Cell::Rerun(hidden) => {
                    Graph::new(&model.blocks()[index], hidden, &state, self.differentiates_state, self.rows.context())
                }
            };
            let of_output = d_hidden.take().map(|gradient| nemo_kernels::carry(graph.output, gradient));
            let of_own = d_own.and_then(|gradient| graph.own.carry(gradient));
            let root = match (of_output, of_own) {
                (Some(output), Some(own)) => output + own,
                (Some(root), None) | (None, Some(root)) => root,
                (None, None) => continue,
            };
            let mut gradients = root.backward();
            d_hidden = graph.hidden.grad_remove(&mut gradients);
            if self.differentiates_state {
                let gradient = graph.state.take_gradient(&mut gradients);
                d_incoming[index] = Some(match d_incoming[index].take() {
                    Some(before) => gradient + before,
                    None => gradient,
                });
            }
            sink.add_block(index, &mut graph.block, &mut gradients);
        }
        if let Some(d_hidden) = d_hidden
            && model.adapter().is_none()
        {
            let [rows, length, width] = d_hidden.dims();
            sink.add_embeddings(model, &self.rows.ids, d_hidden.reshape([rows * length, width]));
        }
        d_incoming
    }
}
