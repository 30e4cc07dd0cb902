//! A run of tokens in chunks: a tree without branches.
//!
//! Chunks go through the model one after the other, each from the state that the one before left. Of a chunk that is done only
//! the recurrent states before it are kept, and of all chunks together one set of keys and values: what a chunk attends to is
//! the beginning of it. Backward takes the chunks last to first; each but the last runs forward once more.

use burn::tensor::Tensor;
use nemo_model::{LayerState, NemotronH};

use super::cell::{BlockStates, Cells, PaddedRows, StateGradients, run};
use super::sink::GradientSink;
use crate::policy::api::TokenId;

/// The rows as chunks of at most `chunk_tokens` tokens. Only a single row is cut.
pub(super) fn cut(rows: &[&[TokenId]], chunk_tokens: usize) -> Vec<PaddedRows> {
    match rows {
        [row] if row.len() > chunk_tokens => {
            row.chunks(chunk_tokens.max(1)).map(|row| PaddedRows::new(&[row])).collect()
        }
        rows => vec![PaddedRows::new(rows)],
    }
}

/// Gradients of one state from two sides.
pub(super) fn add(left: StateGradients, right: StateGradients) -> StateGradients {
    left.into_iter()
        .zip(right)
        .map(|pair| match pair {
            (Some(left), Some(right)) => Some(left + right),
            (left, right) => left.or(right),
        })
        .collect()
}

/// A chunk that went forward.
#[derive(Debug)]
struct Chunk {
    rows: PaddedRows,
    /// The recurrent states before it; keys and values are the first `num_keys` of the chain's.
    before: BlockStates,
    num_keys: usize,
    differentiates_state: bool,
    cells: Option<Cells>,
}

/// Chunks that went forward, and the state behind them.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    model: &'a NemotronH,
    differentiates_state: bool,
    chunks: Vec<Chunk>,
    state: BlockStates,
}

impl<'a> Chain<'a> {
    /// A chain that starts from `incoming`, whose gradient it gives if that is asked for.
    pub fn new(model: &'a NemotronH, incoming: &[LayerState], differentiates_state: bool) -> Self {
        Self { model, differentiates_state, chunks: Vec::new(), state: incoming.to_vec() }
    }

    /// Keys that the next chunk attends to beside its own.
    pub fn num_keys(&self) -> usize {
        self.state.iter().map(LayerState::num_keys).max().unwrap_or(0)
    }

    /// The state behind the chunks so far.
    pub fn state(&self) -> &[LayerState] {
        &self.state
    }

    /// Runs the next chunk; the residual stream behind its last block. With `num_kept` the chunk's cells stay, with as many
    /// graphs. The state behind the last chunk of a leaf is of no use and not gathered.
    pub fn run(&mut self, rows: PaddedRows, num_kept: Option<usize>, is_last: bool) -> Tensor<3> {
        let differentiates_state = self.differentiates_state || !self.chunks.is_empty();
        let num_keys = self.num_keys();
        let incoming = self.state.clone();
        let before = incoming.iter().map(without_keys).collect();
        let (cells, hidden, own) = match num_kept {
            Some(num_kept) => {
                let (cells, hidden, own) =
                    Cells::forward(self.model, rows.clone(), incoming, differentiates_state, num_kept, is_last);
                (Some(cells), hidden, own)
            }
            None => {
                let (hidden, own) = run(self.model, &rows, &incoming, is_last);
                (None, hidden, own)
            }
        };
        if !is_last {
            let state = std::mem::take(&mut self.state).into_iter().zip(own);
            self.state = state.map(|(state, own)| state.followed_by(own, rows.num_rows)).collect();
        }
        self.chunks.push(Chunk { rows, before, num_keys, differentiates_state, cells });
        hidden
    }

    /// The last chunk that has not gone back, ready for it. One whose cells did not stay runs forward once more, with as many
    /// graphs kept as `num_kept` says for its rows and the keys before it.
    pub fn unfold(&mut self, num_kept: impl FnOnce(&PaddedRows, usize) -> usize) -> Option<Unfolded<'a>> {
        let Chunk { rows, before, num_keys, differentiates_state, cells } = self.chunks.pop()?;
        let (cells, hidden) = match cells {
            Some(cells) => (cells, None),
            None => {
                let keys = self.state.iter().map(|state| state.clone().split_at(num_keys).0);
                let incoming = before.into_iter().zip(keys).map(|(before, keys)| with_keys(before, keys)).collect();
                let num_kept = num_kept(&rows, num_keys);
                let (cells, hidden, _) =
                    Cells::forward(self.model, rows, incoming, differentiates_state, num_kept, true);
                (cells, Some(hidden))
            }
        };
        Some(Unfolded { model: self.model, cells, hidden })
    }
}

/// A chunk that is about to go back.
pub(super) struct Unfolded<'a> {
    model: &'a NemotronH,
    cells: Cells,
    /// The residual stream behind the last block, if the chunk ran once more.
    pub hidden: Option<Tensor<3>>,
}

impl Unfolded<'_> {
    /// The gradient of the state before the chunk, from those of the residual stream and of the state behind it.
    pub fn backward(
        self,
        d_hidden: Option<Tensor<3>>,
        d_state: StateGradients,
        sink: &mut GradientSink,
    ) -> StateGradients {
        self.cells.backward(self.model, d_hidden, d_state, sink)
    }
}

/// A recurrent state; nothing of an attention layer.
fn without_keys(state: &LayerState) -> LayerState {
    match state {
        LayerState::Attention { .. } => LayerState::Attention { keys_values: None },
        state => state.clone(),
    }
}

fn with_keys(before: LayerState, keys: Option<LayerState>) -> LayerState {
    match (before, keys) {
        (LayerState::Attention { .. }, Some(keys)) => keys,
        (before, _) => before,
    }
}
