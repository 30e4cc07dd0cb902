//! Causal grouped-query attention of a segment over itself and a prefix.
//!
//! Query `t` of a row attends to all valid prefix keys and to the segment's keys `0..=t`:
//! `y_t = softmax(scale * q_t K^T) V` (Vaswani et al. 2017, arXiv:1706.03762; query head `h` uses
//! key head `h / (Hq / Hk)`, Ainslie et al. 2023, arXiv:2305.13245). The softmax is formed in f32
//! (f64 stays f64). There is no position encoding here.

pub mod reference;

use crate::error::{assert_broadcast_batch, assert_lengths, assert_shape, assert_size};
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
    reference::causal_attention(q, k, v, prefix, prefix_lengths, scale)
}
