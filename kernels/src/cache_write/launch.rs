//! One unit per copied element, in place. Of rows with one slot only the last is copied.

use burn::backend::tensor::FloatTensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::CacheWriteOps;
use crate::cube::{Numbers, arg, block, contiguous_as, element_type, grid_of_units, sizes, writable};

impl CacheWriteOps for CubeBackend {
    fn cache_write(
        k_pool: FloatTensor<Self>,
        v_pool: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        slots: Vec<u32>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (rows, slots) = last_writers(&slots);
        if rows.is_empty() {
            return (k_pool, v_pool);
        }
        let (rows, slots) = (Numbers::new(&k.client, &rows), Numbers::new(&k.client, &slots));
        (write(k_pool, k, &rows, &slots), write(v_pool, v, &rows, &slots))
    }
}

/// Rows that no later row overwrites, and their slots.
fn last_writers(slots: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut written = std::collections::HashSet::new();
    let mut writers: Vec<(u32, u32)> =
        (0..slots.len()).rev().filter(|&row| written.insert(slots[row])).map(|row| (row as u32, slots[row])).collect();
    writers.reverse();
    writers.into_iter().unzip()
}

fn write(pool: CubeTensor, values: CubeTensor, rows: &Numbers, slots: &Numbers) -> CubeTensor {
    let pool = writable(pool);
    let values = contiguous_as(values, pool.dtype);
    let [_, heads, width] = sizes(&values);
    let elements = rows.len() * heads * width;
    if elements > 0 {
        // SAFETY: rows and slots exist (the public function checks), and units past the elements do nothing.
        unsafe {
            cache_write_kernel::launch_unchecked(
                &values.client,
                grid_of_units(&values.client, elements),
                block(),
                arg(&values),
                rows.arg(),
                slots.arg(),
                arg(&pool),
                elements,
                heads * width,
                element_type(pool.dtype),
            );
        }
    }
    pool
}

#[cube(launch_unchecked)]
fn cache_write_kernel<F: Float>(
    values: &[F],
    rows: &[u32],
    slots: &[u32],
    pool: &mut [F],
    elements: usize,
    size: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < elements {
        let index = ABSOLUTE_POS / size;
        let offset = ABSOLUTE_POS % size;
        pool[slots[index] as usize * size + offset] = values[rows[index] as usize * size + offset];
    }
}
