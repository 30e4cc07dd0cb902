//! Dense attention, one sequence after the other, over gathered keys and values.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Int, Tensor, TensorData};

use super::PagedSequence;

/// See [`paged_attention`](super::paged_attention()).
pub fn paged_attention(
    q: Tensor<3>,
    k_pool: Tensor<4>,
    v_pool: Tensor<4>,
    sequences: &[PagedSequence],
    scale: f64,
) -> Tensor<3> {
    let device = q.device();
    let [_, query_heads, width] = q.dims();
    let [pages, page_size, kv_heads, _] = k_pool.dims();
    let k_pool = k_pool.reshape([pages * page_size, kv_heads, width]);
    let v_pool = v_pool.reshape([pages * page_size, kv_heads, width]);
    let mut y = q.zeros_like();
    for sequence in sequences.iter().filter(|sequence| sequence.num_queries > 0) {
        let (context, queries) = (sequence.context_length, sequence.num_queries);
        let slots: Vec<i64> = (0..context)
            .map(|at| i64::from(sequence.block_table[at / page_size]) * page_size as i64 + (at % page_size) as i64)
            .collect();
        let slots = Tensor::<1, Int>::from_data(TensorData::new(slots, [context]), &device);
        // [S, Hk, P] to [Hq, S, P]
        let gather = |pool: &Tensor<3>| {
            pool.clone()
                .select(0, slots.clone())
                .swap_dims(0, 1)
                .unsqueeze_dim::<4>(1)
                .expand([kv_heads, query_heads / kv_heads, context, width])
                .reshape([query_heads, context, width])
        };
        let rows = sequence.query_start..sequence.query_start + queries;
        let q = q.clone().narrow(0, sequence.query_start, queries).swap_dims(0, 1);
        let scores = q.matmul(gather(&k_pool).swap_dims(1, 2)) * scale;
        // Query t stands at position context - queries + t.
        let future = Tensor::<2, Bool>::tril_mask([queries, context], (context - queries) as i64, &device);
        let scores =
            scores.mask_fill(future.unsqueeze::<3>().expand([query_heads, queries, context]), f64::NEG_INFINITY);
        let attended = softmax(scores, 2).matmul(gather(&v_pool)).swap_dims(0, 1);
        y = y.slice_assign([rows], attended);
    }
    y
}
