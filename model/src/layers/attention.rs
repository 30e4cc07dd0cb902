//! Causal grouped-query attention without any position encoding.

use burn::tensor::Tensor;

use super::{Linear, LinearMaps};
use crate::cache::KvPool;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::paged::PagedBatch;
use crate::parallel::{ForwardContext, LayerShard};
use crate::parameters::{Visitor, WeightBuilder, join};

/// An attention block.
#[derive(Clone, Debug)]
pub struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// Queries `[batch, tokens, query_heads, head_dim]`, keys and values `[batch, tokens, kv_heads, head_dim]`.
struct Projected {
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
}

impl Attention {
    /// Builds the block with its tensors under `path`.
    pub fn build(
        path: &str,
        config: &ModelConfig,
        shard: &LayerShard,
        weights: &mut WeightBuilder<'_>,
    ) -> Result<Self, ModelError> {
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        let query_width = shard.query_heads * config.head_dim;
        let kv_width = shard.kv_heads * config.head_dim;
        Ok(Self {
            q_proj: Linear::build(&join(path, "q_proj"), [query_width, hidden], bias, weights)?,
            k_proj: Linear::build(&join(path, "k_proj"), [kv_width, hidden], bias, weights)?,
            v_proj: Linear::build(&join(path, "v_proj"), [kv_width, hidden], bias, weights)?,
            o_proj: Linear::build(&join(path, "o_proj"), [hidden, query_width], bias, weights)?,
            query_heads: shard.query_heads,
            kv_heads: shard.kv_heads,
            head_dim: config.head_dim,
        })
    }

    /// One pass over a run of tokens behind `prefix`; returns also the run's own keys and values.
    ///
    /// # Shapes
    /// - x: `[batch, tokens, hidden]`, in and out
    /// - prefix: `[1 | batch, prefix, kv_heads, head_dim]` keys and values, all valid
    /// - keys and values: `[batch, tokens, kv_heads, head_dim]`
    pub fn forward(
        &self,
        x: Tensor<3>,
        prefix: Option<(Tensor<4>, Tensor<4>)>,
        context: ForwardContext<'_>,
    ) -> (Tensor<3>, (Tensor<4>, Tensor<4>)) {
        let Projected { queries, keys, values } = self.project(context.enter(x));
        let attended =
            nemo_kernels::causal_attention(queries, keys.clone(), values.clone(), prefix, None, self.scale());
        (context.leave(self.output(attended)), (keys, values))
    }

    /// One pass over the rows of a batch: writes their keys and values to their pages, then attends over each row's pages.
    ///
    /// # Shapes
    /// - x: `[rows, tokens, hidden]`, in and out
    pub(crate) fn forward_paged(
        &self,
        x: Tensor<3>,
        layer: usize,
        batch: &PagedBatch,
        pool: &mut KvPool,
        context: ForwardContext<'_>,
    ) -> Tensor<3> {
        let projected = self.project(context.enter(x));
        pool.write(layer, batch.pack(projected.keys), batch.pack(projected.values), batch.places.clone());
        let (keys, values) = pool.layer(layer);
        let queries = batch.pack(projected.queries);
        let attended = nemo_kernels::paged_attention(queries, keys, values, batch.sequences.clone(), self.scale());
        context.leave(self.output(batch.unpack(attended)))
    }

    /// Softmax scale, `1 / sqrt(head_dim)`.
    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// Query, key and value projections of `[batch, tokens, hidden]`.
    fn project(&self, x: Tensor<3>) -> Projected {
        let [batch, tokens, _] = x.dims();
        let heads = |projected: Tensor<3>, heads| projected.reshape([batch, tokens, heads, self.head_dim]);
        Projected {
            queries: heads(self.q_proj.forward(x.clone()), self.query_heads),
            keys: heads(self.k_proj.forward(x.clone()), self.kv_heads),
            values: heads(self.v_proj.forward(x), self.kv_heads),
        }
    }

    /// Output projection of `[batch, tokens, query_heads, head_dim]`.
    fn output(&self, attended: Tensor<4>) -> Tensor<3> {
        let [batch, tokens, heads, dim] = attended.dims();
        self.o_proj.forward(attended.reshape([batch, tokens, heads * dim]))
    }

    /// Shows the four projections under their paths.
    pub fn linear_maps(&mut self, path: &str, show: &mut LinearMaps<'_>) {
        show(&join(path, "q_proj"), &mut self.q_proj);
        show(&join(path, "k_proj"), &mut self.k_proj);
        show(&join(path, "v_proj"), &mut self.v_proj);
        show(&join(path, "o_proj"), &mut self.o_proj);
    }

    /// Visits the four projections.
    pub fn visit_mut(&mut self, path: &str, visitor: &mut Visitor<'_>) {
        self.q_proj.visit_mut(&join(path, "q_proj"), visitor);
        self.k_proj.visit_mut(&join(path, "k_proj"), visitor);
        self.v_proj.visit_mut(&join(path, "v_proj"), visitor);
        self.o_proj.visit_mut(&join(path, "o_proj"), visitor);
    }
}
