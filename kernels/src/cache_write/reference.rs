//! One assignment per row.

use burn::tensor::{Tensor, s};

/// See [`cache_write`](super::cache_write()).
pub fn cache_write(
    k_pool: Tensor<4>,
    v_pool: Tensor<4>,
    k: Tensor<3>,
    v: Tensor<3>,
    slots: &[u32],
) -> (Tensor<4>, Tensor<4>) {
    (write(k_pool, k, slots), write(v_pool, v, slots))
}

fn write(pool: Tensor<4>, values: Tensor<3>, slots: &[u32]) -> Tensor<4> {
    let shape = pool.dims();
    let [pages, page_size, heads, width] = shape;
    let mut flat = pool.reshape([pages * page_size, heads, width]);
    for (row, &slot) in slots.iter().enumerate() {
        let slot = slot as usize;
        flat = flat.slice_assign(s![slot..slot + 1], values.clone().narrow(0, row, 1));
    }
    flat.reshape(shape)
}
