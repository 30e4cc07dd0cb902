//! Nemotron-H: embedding, blocks, final norm, head. `forward(tokens, state) -> (hidden, state)` is its one operation.
//!
//! Token ids -> embedding (no scaling, no positions) -> blocks -> RMSNorm `norm_f` -> head. Prefill, decode, forked
//! continuations, chunks and training segments are all calls of [`NemotronH::forward`] with different states; the generation
//! engine runs the same arithmetic over its pools.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::adapter::LoraSettings;
use crate::checkpoint::{EMBEDDINGS, FINAL_NORM, HEAD};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layers::{Block, Residual, RmsNorm};
use crate::parallel::{ForwardContext, LayerShard};
use crate::parameters::{
    Adapter, Dtypes, Initialization, Matrix, TensorOutline, Visitor, WeightBuilder, WeightSource, WeightStorage,
};
use crate::state::HybridState;

/// A Nemotron-H causal language model.
#[derive(Clone, Debug)]
pub struct NemotronH {
    config: ModelConfig,
    shard: LayerShard,
    dtypes: Dtypes,
    mapped_bytes: usize,
    embeddings: Matrix,
    pub(crate) blocks: Vec<Block>,
    final_norm: RmsNorm,
    head: Option<Matrix>,
    /// Of a model of which only adapters are trained.
    adapter: Option<LoraSettings>,
}

impl NemotronH {
    /// Builds the model on `device` from `source`; each matrix is taken into storage before the next is read.
    ///
    /// # Errors
    /// Whatever the source reports: a missing or wrongly shaped tensor, an unreadable file.
    pub fn build(
        config: &ModelConfig,
        source: &mut dyn WeightSource,
        device: &Device,
        dtypes: Dtypes,
    ) -> Result<Self, ModelError> {
        Self::assemble(config, &mut WeightBuilder::new(source, device, dtypes))
    }

    /// The tensors of a fresh model in the order in which they are asked for, and how each is drawn; none of them is made.
    pub(crate) fn outline(config: &ModelConfig) -> Result<Vec<TensorOutline>, ModelError> {
        let host = Device::flex();
        let mut weights = WeightBuilder::of_outline(&host);
        Self::assemble(config, &mut weights)?;
        Ok(weights.into_outline())
    }

    /// Asks `weights` for every tensor and puts them together.
    fn assemble(config: &ModelConfig, weights: &mut WeightBuilder<'_>) -> Result<Self, ModelError> {
        let shard = LayerShard::whole(config);
        let dtypes = weights.dtypes();
        let normal = Initialization::Normal(config.initializer_range);
        let table = [config.vocab_size, config.hidden_size];
        let embeddings = weights.table(EMBEDDINGS, table, normal)?;
        let blocks = (0..config.layers.len())
            .map(|index| Block::build(index, config, &shard, weights))
            .collect::<Result<_, _>>()?;
        let final_norm = RmsNorm::build(FINAL_NORM, config.hidden_size, config.layer_norm_epsilon, weights)?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(weights.table(HEAD, table, Initialization::fan_in(config.hidden_size))?),
        };
        let mapped_bytes = weights.mapped_bytes();
        Ok(Self {
            config: config.clone(),
            shard,
            dtypes,
            mapped_bytes,
            embeddings,
            blocks,
            final_norm,
            head,
            adapter: None,
        })
    }

    /// The configuration the model was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Bytes of the weights that on a host lay in the checkpoint's mapped file when they were loaded: the system gives their
    /// memory to others when that is needed, and reads them again. A weight that is changed leaves the file.
    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    /// Local layer sizes.
    pub fn shard(&self) -> &LayerShard {
        &self.shard
    }

    /// The blocks, first to last.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.embeddings.device()
    }

    /// The types it is kept and computed in.
    pub fn dtypes(&self) -> Dtypes {
        self.dtypes
    }

    /// To be asked before training.
    ///
    /// # Errors
    /// [`ModelError::NotTrainable`] for matrices in eight bits, unless adapters are trained in their place, and for an
    /// embedding and a head in eight bits.
    pub fn check_trainable(&self) -> Result<(), ModelError> {
        let of_own = if self.adapter.is_none() { self.dtypes.matrices } else { WeightStorage::Full };
        match [of_own, self.dtypes.tables].contains(&WeightStorage::Int8) {
            false => Ok(()),
            true => Err(ModelError::NotTrainable),
        }
    }

    /// The adapter whose factors are all that training changes, if the model has one.
    pub fn adapter(&self) -> Option<LoraSettings> {
        self.adapter
    }

    /// The same model without an adapter. It shares storage with this one.
    #[must_use]
    pub fn without_adapter(&self) -> Self {
        let mut model = self.clone();
        model.set_adapters(None, &mut |_| None);
        model
    }

    /// Gives every linear map the adapter that `adapter_of` has for its path.
    pub(crate) fn set_adapters(
        &mut self,
        settings: Option<LoraSettings>,
        adapter_of: &mut dyn FnMut(&str) -> Option<Adapter>,
    ) {
        self.adapter = settings;
        for (index, block) in self.blocks.iter_mut().enumerate() {
            block.set_adapters(&Self::block_path(index), settings.is_some(), adapter_of);
        }
    }

    /// Visits what training changes, in a fixed order: the factors of the adapter of a model that has one, under the paths of
    /// the maps that they belong to, else every parameter.
    pub fn visit_trained_mut(&mut self, visitor: &mut Visitor<'_>) {
        if self.adapter.is_none() {
            return self.visit_mut(visitor);
        }
        for (index, block) in self.blocks.iter_mut().enumerate() {
            block.visit_trained_mut(&Self::block_path(index), visitor);
        }
    }

    /// The state before the first token.
    pub fn empty_state(&self) -> HybridState {
        HybridState::empty(&self.config, &self.shard, &self.device(), self.dtypes.states)
    }

    /// Runs a batch of token runs from `state`; returns the residual stream after the last block and the new state.
    ///
    /// # Shapes
    /// - tokens: `[batch, tokens]`, right-padded to `context.lengths` if given
    /// - state: batch 1 (shared by all rows) or `batch`
    /// - result: `[batch, tokens, hidden]`, before the final norm
    pub fn forward(
        &self,
        tokens: Tensor<2, Int>,
        state: HybridState,
        context: ForwardContext<'_>,
    ) -> (Tensor<3>, HybridState) {
        let lengths = next_lengths(&state.lengths, tokens.dims(), context.lengths);
        let batch = tokens.dims()[0];
        let mut stream = Residual::new(self.embed(tokens));
        let mut layers = Vec::with_capacity(self.blocks.len());
        for (block, layer_state) in self.blocks.iter().zip(state.layers) {
            let (next, own) = block.forward_stream(stream, layer_state.clone(), context);
            stream = next;
            layers.push(layer_state.followed_by(own, batch));
        }
        (stream.into_sum(), HybridState { layers, lengths })
    }

    /// [`Self::forward`] for runs that nothing follows: no state comes out.
    pub fn forward_last(&self, tokens: Tensor<2, Int>, state: HybridState, lengths: Option<&[usize]>) -> Tensor<3> {
        let mut stream = Residual::new(self.embed(tokens));
        for (block, layer_state) in self.blocks.iter().zip(state.layers) {
            stream = block.forward_stream(stream, layer_state, ForwardContext { lengths }).0;
        }
        stream.into_sum()
    }

    /// Embedding rows of `[batch, tokens]` ids: `[batch, tokens, hidden]`.
    pub fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [batch, length] = tokens.dims();
        let rows = self.embeddings.select(tokens.reshape([batch * length]), self.dtypes.activations);
        rows.reshape([batch, length, self.config.hidden_size])
    }

    /// Final norm of the residual stream, `[batch, tokens, hidden]`.
    pub fn normalize(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.final_norm.forward(hidden)
    }

    /// Logits `[batch, tokens, vocab]` of normed hidden values.
    pub fn logits(&self, normed: Tensor<3>) -> Tensor<3> {
        self.head_matrix().linear(normed, None)
    }

    /// The head's weight `[vocab, hidden]`: its own, or the embedding when tied. A wide copy of one in eight bits.
    pub fn head_weight(&self) -> Tensor<2> {
        self.head_matrix().tensor()
    }

    /// Checkpoint name of the matrix that the head multiplies with.
    pub fn head_name(&self) -> &'static str {
        if self.head.is_some() { HEAD } else { EMBEDDINGS }
    }

    /// Checkpoint name of block `index`, before the names of its parameters.
    pub fn block_path(index: usize) -> String {
        format!("backbone.layers.{index}")
    }

    /// The norm before the head.
    pub fn final_norm(&self) -> &RmsNorm {
        &self.final_norm
    }

    fn head_matrix(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embeddings)
    }

    /// Visits every parameter of the model itself under its checkpoint name, in a fixed order; matrices in eight bits are none,
    /// nor is an adapter.
    pub fn visit_mut(&mut self, visitor: &mut Visitor<'_>) {
        self.embeddings.visit_mut(EMBEDDINGS, visitor);
        for (index, block) in self.blocks.iter_mut().enumerate() {
            block.visit_mut(&Self::block_path(index), visitor);
        }
        self.final_norm.visit_mut(FINAL_NORM, visitor);
        if let Some(head) = &mut self.head {
            head.visit_mut(HEAD, visitor);
        }
    }

    /// A copy whose trained parameters are leaves of a fresh autodiff graph. It shares storage with this model: drop it
    /// before an in-place update.
    pub fn tracked(&self) -> Self {
        let mut model = self.clone();
        model.visit_trained_mut(&mut |_, mut parameter| parameter.require_grad());
        model
    }

    /// Token ids of rows of equal length as a tensor `[rows, tokens]`.
    pub fn token_tensor(&self, rows: &[&[u32]], length: usize, padding: u32) -> Tensor<2, Int> {
        let mut ids = Vec::with_capacity(rows.len() * length);
        for row in rows {
            ids.extend(row.iter().map(|&id| i64::from(id)));
            ids.extend(std::iter::repeat_n(i64::from(padding), length - row.len()));
        }
        Tensor::from_data(TensorData::new(ids, [rows.len(), length]), &self.device())
    }
}

/// Tokens seen by each row after a run.
fn next_lengths(before: &[usize], [batch, tokens]: [usize; 2], valid: Option<&[usize]>) -> Vec<usize> {
    match valid {
        None => before.iter().map(|length| length + tokens).collect(),
        Some(valid) => {
            debug_assert_eq!(valid.len(), batch);
            let before_row = |row: usize| before[if before.len() == 1 { 0 } else { row }];
            (0..batch).map(|row| before_row(row) + valid[row]).collect()
        }
    }
}
