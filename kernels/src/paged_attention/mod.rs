//! Causal attention of new tokens over paged keys and values, many sequences at once.
//!
//! `y = softmax(scale q K^T) V` for every query head, over the positions up to and including the query's own. A decode
//! step (one new token) and a prefill chunk (many) are the same call. Query head `h` reads key/value head
//! `h / (query_heads / kv_heads)`.

mod cpu;
pub(crate) mod cpu_block;
#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;

use std::sync::Arc;

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use crate::error::{assert_shape, assert_size};

/// The new tokens of one sequence and where its keys and values are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagedSequence {
    /// Pages in order of position; page `i` holds positions `i * page_size ..`. May be longer than needed.
    pub block_table: Vec<u32>,
    /// Row of the first new token in the queries.
    pub query_start: usize,
    /// New tokens.
    pub num_queries: usize,
    /// Positions in the pools including the new tokens; the new tokens are the last of them.
    pub context_length: usize,
}

/// Backends that can run [`paged_attention`]. Never differentiated, so there is no autodiff implementation.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait PagedAttentionOps: Backend {
    /// See [`paged_attention`](super::paged_attention()).
    fn paged_attention(
        q: FloatTensor<Self>,
        k_pool: FloatTensor<Self>,
        v_pool: FloatTensor<Self>,
        sequences: Arc<Vec<PagedSequence>>,
        scale: f64,
    ) -> FloatTensor<Self>;
}

/// Attends from the rows of `q` to the pools; the new tokens' keys and values must have been written already.
///
/// Rows of `q` that belong to no sequence give zeros.
///
/// # Shapes
/// - `q`: `[rows, query_heads, head_dim]`
/// - `k_pool`, `v_pool`: `[pages, page_size, kv_heads, head_dim]`
/// - result: `[rows, query_heads, head_dim]`
///
/// # Panics
/// When shapes disagree, a sequence names rows or pages that do not exist or shares rows with another, or a tensor is
/// tracked by autodiff.
pub fn paged_attention(
    q: Tensor<3>,
    k_pool: Tensor<4>,
    v_pool: Tensor<4>,
    sequences: Arc<Vec<PagedSequence>>,
    scale: f64,
) -> Tensor<3> {
    const NAME: &str = "paged_attention";
    let [rows, query_heads, width] = q.dims();
    let [pages, page_size, kv_heads, _] = k_pool.dims();
    assert_shape(NAME, "k_pool", &k_pool.dims(), &[pages, page_size, kv_heads, width]);
    assert_shape(NAME, "v_pool", &v_pool.dims(), &k_pool.dims());
    assert_size(
        NAME,
        "query_heads",
        query_heads,
        kv_heads > 0 && query_heads.is_multiple_of(kv_heads),
        "it must be a multiple of the key/value heads",
    );
    let mut taken = vec![false; rows];
    for sequence in sequences.iter() {
        let end = sequence.query_start + sequence.num_queries;
        assert_size(NAME, "query_start + num_queries", end, end <= rows, "it exceeds the rows of q");
        for row in &mut taken[sequence.query_start..end] {
            assert_size(NAME, "query_start", sequence.query_start, !*row, "sequences share a row");
            *row = true;
        }
        let context = sequence.context_length;
        assert_size(
            NAME,
            "context_length",
            context,
            context >= sequence.num_queries && context <= sequence.block_table.len() * page_size,
            "it must cover the new tokens and fit the block table",
        );
        for &page in &sequence.block_table[..context.div_ceil(page_size.max(1))] {
            let page = page as usize;
            assert_size(NAME, "block_table", page, page < pages, "it must be a page of the pool");
        }
    }
    Tensor::from_dispatch(<Dispatch as PagedAttentionOps>::paged_attention(
        q.into_dispatch(),
        k_pool.into_dispatch(),
        v_pool.into_dispatch(),
        sequences,
        scale,
    ))
}
