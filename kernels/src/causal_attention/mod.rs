//! Causal grouped-query attention of a segment over itself and a prefix.
//!
//! Query `t` of a row attends to all valid prefix keys and to the segment's keys `0..=t`:
//! `y_t = softmax(scale * q_t K^T) V` (Vaswani et al. 2017, arXiv:1706.03762; query head `h` uses
//! key head `h / (Hq / Hk)`, Ainslie et al. 2023, arXiv:2305.13245). The softmax is formed in f32
//! (f64 stays f64). There is no position encoding here.

mod autodiff;
mod cpu;
mod cpu_backward;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
mod kernel_backward;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;

use crate::dispatch::has_kernel;
use crate::error::{assert_broadcast_batch, assert_lengths, assert_shape, assert_size};
use burn::backend::{Backend, Dispatch, ExtensionType, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

/// Attends every query to the prefix and, causally, to its own segment.
///
/// # Shapes
/// - `q`: `[batch, tokens, query heads, head dim]`
/// - `k`, `v`: `[batch, tokens, key heads, head dim]`; key heads divide query heads
/// - `prefix`: keys and values before the segment, `[1 or batch, prefix tokens, key heads, head
///   dim]`; a batch of 1 is broadcast and its gradient summed; zero prefix tokens equal `None`
/// - `prefix_lengths`: valid prefix tokens of each row (right padding), only with a prefix that has
///   the batch of `q`; all when absent
/// - result: `[batch, tokens, query heads, head dim]`, dtype of `q`
///
/// Padding at the end of a row needs no length here: no valid query sees a later key.
///
/// # Panics
/// When shapes disagree.
pub fn causal_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    prefix: Option<(Tensor<4>, Tensor<4>)>,
    prefix_lengths: Option<&[usize]>,
    scale: f64,
) -> Tensor<4> {
    const NAME: &str = "causal_attention";
    let [batch, tokens, query_heads, head_dim] = q.dims();
    let [_, _, key_heads, _] = k.dims();
    let own = [batch, tokens, key_heads, head_dim];
    assert_shape(NAME, "k", &k.dims(), &own);
    assert_shape(NAME, "v", &v.dims(), &own);
    assert_size(
        NAME,
        "key heads",
        key_heads,
        key_heads > 0 && query_heads.is_multiple_of(key_heads),
        "they must divide the query heads",
    );
    if let Some((prefix_k, prefix_v)) = &prefix {
        let [prefix_batch, prefix_tokens, _, _] = prefix_k.dims();
        let expected = [prefix_batch, prefix_tokens, key_heads, head_dim];
        assert_shape(NAME, "prefix keys", &prefix_k.dims(), &expected);
        assert_shape(NAME, "prefix values", &prefix_v.dims(), &expected);
        assert_broadcast_batch(NAME, "prefix", prefix_batch, batch);
        if prefix_lengths.is_some() {
            assert_shape(NAME, "prefix batch", &[prefix_batch], &[batch]);
        }
        assert_lengths(NAME, "prefix_lengths", prefix_lengths, batch, prefix_tokens);
    }
    let prefix = prefix.filter(|(prefix_k, _)| prefix_k.dims()[1] > 0);
    let prefix_fast = |(prefix_k, prefix_v): &(Tensor<4>, Tensor<4>)| has_kernel(prefix_k) && has_kernel(prefix_v);
    let own_fast = has_kernel(&q) && has_kernel(&k) && has_kernel(&v);
    if own_fast && prefix.as_ref().is_none_or(prefix_fast) && fits(&q, key_heads) {
        let (prefix_k, prefix_v) = prefix.unwrap_or_else(|| {
            let nothing = Tensor::zeros([1, 0, key_heads, head_dim], &q.device());
            (nothing.clone(), nothing)
        });
        let prefix_lengths = match prefix_lengths {
            Some(lengths) if prefix_k.dims()[1] > 0 => lengths.to_vec(),
            _ => vec![prefix_k.dims()[1]; batch],
        };
        let tensors = AttentionTensors {
            q: q.into_dispatch(),
            k: k.into_dispatch(),
            v: v.into_dispatch(),
            prefix_k: prefix_k.into_dispatch(),
            prefix_v: prefix_v.into_dispatch(),
        };
        return Tensor::from_dispatch(Dispatch::causal_attention(tensors, prefix_lengths, scale));
    }
    reference::causal_attention(q, k, v, prefix, prefix_lengths, scale)
}

/// Whether the kernels' tiles hold heads of this width: on the host always.
#[cfg(feature = "cube")]
fn fits(q: &Tensor<4>, key_heads: usize) -> bool {
    let [_, _, query_heads, width] = q.dims();
    !crate::dispatch::is_on_cube(q) || launch::supports(query_heads / key_heads, width)
}

/// Whether the kernels' tiles hold heads of this width: on the host always.
#[cfg(not(feature = "cube"))]
fn fits(_: &Tensor<4>, _: usize) -> bool {
    true
}

/// Tensor arguments of [`causal_attention`](fn@causal_attention) as a backend's own tensors.
#[derive(Clone, Debug, ExtensionType)]
pub struct AttentionTensors<B: Backend> {
    /// `[B, T, Hq, P]`
    pub q: FloatTensor<B>,
    /// `[B, T, Hk, P]`
    pub k: FloatTensor<B>,
    /// `[B, T, Hk, P]`
    pub v: FloatTensor<B>,
    /// `[1 or B, S, Hk, P]`; `S` may be 0.
    pub prefix_k: FloatTensor<B>,
    /// `[1 or B, S, Hk, P]`
    pub prefix_v: FloatTensor<B>,
}

/// The operation on a backend's own tensors.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait CausalAttentionOps: Backend {
    /// See [`causal_attention`](fn@causal_attention); `prefix_lengths` has one entry per row.
    fn causal_attention(
        #[extension_type] tensors: AttentionTensors<Self>,
        prefix_lengths: Vec<usize>,
        scale: f64,
    ) -> FloatTensor<Self>;
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
pub struct AttentionSaved<B: Backend> {
    tensors: AttentionTensors<B>,
    prefix_lengths: Vec<usize>,
    scale: f64,
    /// `[B, T, Hq, P]`
    y: FloatTensor<B>,
    /// `[B, Hq, T]` logarithm of each softmax denominator.
    log_sum_exp: FloatTensor<B>,
}

/// The gradient of [`CausalAttentionOps`].
pub trait CausalAttentionGradient: Backend {
    /// The operation together with its softmax denominators (see [`AttentionSaved`]).
    fn causal_attention_forward(
        tensors: AttentionTensors<Self>,
        prefix_lengths: &[usize],
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of the fields of [`AttentionTensors`] in order.
    fn causal_attention_backward(saved: AttentionSaved<Self>, cotangent: FloatTensor<Self>) -> [FloatTensor<Self>; 5];
}
