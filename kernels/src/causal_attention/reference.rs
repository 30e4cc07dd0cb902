//! Plain tensor operations with the whole score matrix.

use crate::precision::{accumulation_dtype, cast_to};
use burn::tensor::{Bool, Int, Tensor, TensorData, activation::softmax};

/// See [`causal_attention`](super::causal_attention()).
pub fn causal_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    prefix: Option<(Tensor<4>, Tensor<4>)>,
    prefix_lengths: Option<&[usize]>,
    scale: f64,
) -> Tensor<4> {
    let [batch, tokens, query_heads, head_dim] = q.dims();
    let [_, _, key_heads, _] = k.dims();
    let per_key = query_heads / key_heads;
    let device = q.device();
    let dtype = q.dtype();
    let wide = accumulation_dtype(dtype);

    let (mut k, mut v) = (cast_to(k, wide), cast_to(v, wide));
    let mut masked = Tensor::<2, Bool>::tril_mask([tokens, tokens], 0, &device)
        .reshape([1, tokens, tokens])
        .expand([batch, tokens, tokens]);
    if let Some((prefix_k, prefix_v)) = prefix {
        let [_, prefix_tokens, _, _] = prefix_k.dims();
        let whole = [batch, prefix_tokens, key_heads, head_dim];
        k = Tensor::cat(vec![cast_to(prefix_k, wide).expand(whole), k], 1);
        v = Tensor::cat(vec![cast_to(prefix_v, wide).expand(whole), v], 1);
        let lengths: Vec<i64> = match prefix_lengths {
            Some(lengths) => lengths.iter().map(|&length| length as i64).collect(),
            None => vec![prefix_tokens as i64; batch],
        };
        let shape = [batch, tokens, prefix_tokens];
        let lengths = Tensor::<3, Int>::from_data(TensorData::new(lengths, [batch, 1, 1]), &device);
        let position = Tensor::<1, Int>::arange(0..prefix_tokens as i64, &device).reshape([1, 1, prefix_tokens]);
        let masked_prefix = position.expand(shape).greater_equal(lengths.expand(shape));
        masked = Tensor::cat(vec![masked_prefix, masked], 2);
    }
    let [_, keys, _, _] = k.dims();

    let per_query_head = |t: Tensor<4>| -> Tensor<4> {
        t.swap_dims(1, 2) // [B, Hk, keys, P]
            .unsqueeze_dim::<5>(2)
            .expand([batch, key_heads, per_key, keys, head_dim])
            .reshape([batch, query_heads, keys, head_dim])
    };
    let (k, v) = (per_query_head(k), per_query_head(v));
    let scores = cast_to(q, wide).swap_dims(1, 2).matmul(k.swap_dims(2, 3)) * scale;
    let masked = masked.unsqueeze_dim::<4>(1).expand([batch, query_heads, tokens, keys]);
    let weights = softmax(scores.mask_fill(masked, f64::NEG_INFINITY), 3);
    cast_to(weights.matmul(v).swap_dims(1, 2), dtype)
}
