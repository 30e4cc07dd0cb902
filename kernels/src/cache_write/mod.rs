//! Writes the keys and values of new tokens into the paged pools of one attention layer.
//!
//! A pool is a fixed set of pages; which page holds which tokens of which sequence is the caller's business. A slot is
//! a token's place in the flattened pool, `page * page_size + offset`.

mod cpu;
#[cfg(feature = "cube")]
mod launch;
pub mod reference;

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use crate::error::{assert_shape, assert_size};

/// Backends that can run [`cache_write`]. Never differentiated, so there is no autodiff implementation.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait CacheWriteOps: Backend {
    /// See [`cache_write`](super::cache_write()).
    fn cache_write(
        k_pool: FloatTensor<Self>,
        v_pool: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        slots: Vec<u32>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Copies row `i` of `k` and `v` to slot `slots[i]` of the pools; of two rows with one slot the later stays.
///
/// The pools are changed in place when the given handles are the only ones, copied otherwise.
///
/// # Shapes
/// - `k_pool`, `v_pool`: `[pages, page_size, kv_heads, head_dim]`
/// - `k`, `v`: `[rows, kv_heads, head_dim]`
/// - result: the two pools
///
/// # Panics
/// When shapes disagree, a slot is outside the pools, or a tensor is tracked by autodiff.
pub fn cache_write(
    k_pool: Tensor<4>,
    v_pool: Tensor<4>,
    k: Tensor<3>,
    v: Tensor<3>,
    slots: Vec<u32>,
) -> (Tensor<4>, Tensor<4>) {
    const NAME: &str = "cache_write";
    let [pages, page_size, heads, width] = k_pool.dims();
    assert_shape(NAME, "v_pool", &v_pool.dims(), &k_pool.dims());
    assert_shape(NAME, "k", &k.dims(), &[slots.len(), heads, width]);
    assert_shape(NAME, "v", &v.dims(), &k.dims());
    for &slot in &slots {
        let slot = slot as usize;
        assert_size(NAME, "slots", slot, slot < pages * page_size, "it must be a slot of the pool");
    }
    let (k_pool, v_pool) = <Dispatch as CacheWriteOps>::cache_write(
        k_pool.into_dispatch(),
        v_pool.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        slots,
    );
    (Tensor::from_dispatch(k_pool), Tensor::from_dispatch(v_pool))
}
