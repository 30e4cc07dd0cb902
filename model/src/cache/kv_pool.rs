//! Pages of keys and values for every attention layer. A token's place is `page * page_size + offset`.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use nemo_kernels::WriteCheck;

use super::growth::{grow, grown};

/// Keys and values of all attention layers, `[pages, page_size, kv_heads, head_dim]` each.
///
/// The pool owns its tensors alone, which is what lets writes happen in place: never clone one across a write. It starts
/// with few pages and grows as more are in use.
#[derive(Debug)]
pub struct KvPool {
    layers: Vec<(Tensor<4>, Tensor<4>)>,
    page_size: usize,
    pages: usize,
}

impl KvPool {
    /// A pool of one page, `[page_size, kv_heads, head_dim]`, for each of `num_layers` attention layers.
    pub fn new(num_layers: usize, page: [usize; 3], device: &Device, dtype: DType) -> Self {
        let [page_size, kv_heads, head_dim] = page;
        let empty = || Tensor::zeros([1, page_size, kv_heads, head_dim], (device, dtype));
        Self { layers: (0..num_layers).map(|_| (empty(), empty())).collect(), page_size, pages: 1 }
    }

    /// Makes room for `used` pages, and for some more so that the next pages need no copy, up to `most`.
    pub fn grow(&mut self, used: usize, most: usize) {
        if let Some(pages) = grown(self.pages, used, most) {
            self.pages = pages;
            for (keys, values) in &mut self.layers {
                keys.inplace(|pool| grow(pool, pages));
                values.inplace(|pool| grow(pool, pages));
            }
        }
    }

    /// Tokens per page.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// Writes one row of keys and values per place.
    ///
    /// # Shapes
    /// - keys, values: `[rows, kv_heads, head_dim]`
    pub fn write(&mut self, layer: usize, keys: Tensor<3>, values: Tensor<3>, places: Vec<u32>) {
        let (key_pool, value_pool) = &mut self.layers[layer];
        let (new_keys, new_values) =
            nemo_kernels::cache_write(key_pool.extract(), value_pool.extract(), keys, values, places);
        *key_pool = new_keys;
        *value_pool = new_values;
    }

    /// Handles of one layer's pools, to be dropped before the next write.
    pub fn layer(&self, layer: usize) -> (Tensor<4>, Tensor<4>) {
        self.layers[layer].clone()
    }

    /// Adds everything to a check.
    pub fn add_to(&self, check: &mut WriteCheck) {
        for (keys, values) in &self.layers {
            check.add(keys);
            check.add(values);
        }
    }

    /// Copies the rows at `from` to `to` in every layer.
    pub fn copy(&mut self, from: &[u32], to: &[u32]) {
        for layer in 0..self.layers.len() {
            let (keys, values) = self.layer(layer);
            let indices: Vec<i64> = from.iter().map(|&place| i64::from(place)).collect();
            let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [from.len()]), &keys.device());
            let rows = |pool: Tensor<4>| {
                let [pages, page_size, heads, dim] = pool.dims();
                pool.reshape([pages * page_size, heads, dim]).select(0, indices.clone())
            };
            let (keys, values) = (rows(keys), rows(values));
            self.write(layer, keys, values, to.to_vec());
        }
    }
}
