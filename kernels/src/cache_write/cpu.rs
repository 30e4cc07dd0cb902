//! Host implementation: one copy per row, in place.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::{CacheWriteOps, reference};
use crate::flex_slices::{Rows, is_f32, lower, whole};

impl CacheWriteOps for Flex {
    fn cache_write(
        k_pool: FlexTensor,
        v_pool: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        slots: Vec<u32>,
    ) -> (FlexTensor, FlexTensor) {
        if is_f32(&k_pool) && is_f32(&v_pool) && is_f32(&k) && is_f32(&v) {
            return (write(k_pool, k, &slots), write(v_pool, v, &slots));
        }
        let (k_pool, v_pool) = reference::cache_write(
            Tensor::from_primitive::<Flex>(k_pool),
            Tensor::from_primitive::<Flex>(v_pool),
            Tensor::from_primitive::<Flex>(k),
            Tensor::from_primitive::<Flex>(v),
            &slots,
        );
        (lower(k_pool), lower(v_pool))
    }
}

fn write(pool: FlexTensor, values: FlexTensor, slots: &[u32]) -> FlexTensor {
    let mut pool = whole(pool);
    let shape = pool.layout().shape().clone();
    let (heads, width) = (shape[2], shape[3]);
    let size = heads * width;
    let values = Rows::new(values);
    let elements: &mut [f32] = pool.storage_mut();
    for (row, &slot) in slots.iter().enumerate() {
        let to = slot as usize * size;
        for head in 0..heads {
            let at = to + head * width;
            elements[at..at + width].copy_from_slice(values.row(row * heads + head));
        }
    }
    pool
}
