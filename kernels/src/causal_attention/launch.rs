//! Launches of attention and its gradient.

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::kernel::{SizesLaunch, attention_kernel};
use super::kernel_backward::{
    attention_clear_padding_kernel, attention_key_gradient_kernel, attention_overlap_kernel,
    attention_query_gradient_kernel,
};
use super::{AttentionSaved, AttentionTensors, CausalAttentionGradient, CausalAttentionOps};
use crate::cube::flash::Tile;
use crate::cube::sum::{Parts, sum_parts};
use crate::cube::{
    BLOCK, Numbers, SHARED_BYTES, arg, block, cast_to, contiguous, contiguous_as, element_type, empty, grid,
    grid_of_units, optional, sizes,
};

/// The arguments in row-major order; keys and values in one dtype.
struct Attention {
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    prefix_k: CubeTensor,
    prefix_v: CubeTensor,
    prefix_lengths: Numbers,
    scale: f32,
    batch: usize,
    tokens: usize,
    query_heads: usize,
    key_heads: usize,
    width: usize,
    prefix_batch: usize,
    prefix_tokens: usize,
}

impl Attention {
    fn new(tensors: AttentionTensors<CubeBackend>, prefix_lengths: &[usize], scale: f64) -> Self {
        let [batch, tokens, query_heads, width] = sizes(&tensors.q);
        let [_, _, key_heads, _] = sizes(&tensors.k);
        let [prefix_batch, prefix_tokens, ..] = sizes::<4>(&tensors.prefix_k);
        let k = contiguous(tensors.k);
        let prefix = |tensor| optional((prefix_tokens > 0).then_some(tensor), &k, k.dtype);
        let (prefix_k, prefix_v) = (prefix(tensors.prefix_k), prefix(tensors.prefix_v));
        Self {
            prefix_lengths: Numbers::from_sizes(&k.client, prefix_lengths),
            q: contiguous(tensors.q),
            v: contiguous_as(tensors.v, k.dtype),
            k,
            prefix_k,
            prefix_v,
            scale: scale as f32,
            batch,
            tokens,
            query_heads,
            key_heads,
            width,
            prefix_batch,
            prefix_tokens,
        }
    }

    fn sizes(&self) -> SizesLaunch {
        SizesLaunch::new(
            self.tokens,
            self.query_heads,
            self.key_heads,
            self.prefix_batch,
            self.prefix_tokens,
            self.scale,
        )
    }

    fn heads_per_key(&self) -> usize {
        self.query_heads / self.key_heads
    }
}

/// The widest head whose gradient fits a cube; [`supports`] keeps wider ones away.
pub(super) fn supports(heads_per_key: usize, width: usize) -> bool {
    Tile::choose(heads_per_key, width, 2).is_some()
        && Tile::choose(heads_per_key, width, 3).is_some()
        && key_tile(heads_per_key, width).is_some()
}

/// The tile of the keys' gradient, which stages keys and values and sums both.
fn key_tile(heads_per_key: usize, width: usize) -> Option<Tile> {
    for side in [16, 8, 4, 2, 1] {
        let heads = (1..=side).rev().find(|heads| heads_per_key.is_multiple_of(*heads)).unwrap_or(1);
        let tile = Tile { heads, tokens: (side / heads).max(1), keys: side, width };
        let numbers = 2 * tile.rows() * width
            + 2 * tile.keys * (tile.stride() + width)
            + 2 * tile.rows() * tile.keys
            + 3 * tile.rows();
        if numbers * size_of::<f32>() <= SHARED_BYTES {
            return Some(tile);
        }
    }
    None
}

impl CausalAttentionOps for CubeBackend {
    fn causal_attention(tensors: AttentionTensors<Self>, prefix_lengths: Vec<usize>, scale: f64) -> FloatTensor<Self> {
        Self::causal_attention_forward(tensors, &prefix_lengths, scale).0
    }
}

impl CausalAttentionGradient for CubeBackend {
    fn causal_attention_forward(
        tensors: AttentionTensors<Self>,
        prefix_lengths: &[usize],
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let attention = Attention::new(tensors, prefix_lengths, scale);
        let Attention { batch, tokens, query_heads, width, .. } = attention;
        let q = &attention.q;
        let y = empty(q, q.shape(), q.dtype);
        let log_sum_exp = empty(q, [batch, query_heads, tokens], DType::F32);
        let Some(tile) = Tile::choose(attention.heads_per_key(), width, 2) else {
            unreachable!("causal_attention: head width {width} is beyond the kernels");
        };
        let token_blocks = tokens.div_ceil(tile.tokens);
        let cubes = batch * query_heads / tile.heads * token_blocks;
        if cubes > 0 {
            // SAFETY: the public function checks the shapes; tokens, keys and cubes past the ends are neither read nor
            // written.
            unsafe {
                attention_kernel::launch_unchecked(
                    &q.client,
                    grid(&q.client, cubes),
                    block(),
                    arg(q),
                    arg(&attention.k),
                    arg(&attention.v),
                    arg(&attention.prefix_k),
                    arg(&attention.prefix_v),
                    attention.prefix_lengths.arg(),
                    arg(&y),
                    arg(&log_sum_exp),
                    cubes,
                    token_blocks,
                    attention.sizes(),
                    tile,
                    BLOCK,
                    [q.dtype, attention.k.dtype].map(element_type),
                );
            }
        }
        (y, log_sum_exp)
    }

    fn causal_attention_backward(saved: AttentionSaved<Self>, cotangent: FloatTensor<Self>) -> [FloatTensor<Self>; 5] {
        let AttentionTensors { q, k, v, prefix_k, prefix_v } = &saved.tensors;
        let dtypes = [q, k, v, prefix_k, prefix_v].map(|tensor| tensor.dtype);
        let attention = Attention::new(saved.tensors, &saved.prefix_lengths, saved.scale);
        let Attention { batch, tokens, query_heads, key_heads, width, prefix_batch, prefix_tokens, .. } = attention;
        let q = &attention.q;
        let client = &q.client;
        let (y, cotangent) = (contiguous_as(saved.y, q.dtype), contiguous_as(cotangent, q.dtype));
        let heads_per_key = attention.heads_per_key();
        let (Some(query_tile), Some(key_tile)) =
            (Tile::choose(heads_per_key, width, 3), key_tile(heads_per_key, width))
        else {
            unreachable!("causal_attention: head width {width} is beyond the kernels");
        };

        let overlap = empty(q, [batch, tokens, query_heads], DType::F32);
        let q_gradient = empty(q, q.shape(), q.dtype);
        let gradient = |tokens: usize| empty(q, [batch, tokens, key_heads, width], DType::F32);
        let (k_gradient, v_gradient) = (gradient(tokens), gradient(tokens));
        let (prefix_k_gradient, prefix_v_gradient) = (gradient(prefix_tokens), gradient(prefix_tokens));
        let token_blocks = tokens.div_ceil(query_tile.tokens);
        let query_cubes = batch * query_heads / query_tile.heads * token_blocks;
        let key_tiles = (prefix_tokens + tokens).div_ceil(key_tile.keys);
        let key_cubes = batch * key_heads * key_tiles;
        let prefix_elements = batch * prefix_tokens * key_heads * width;
        let kinds = [q.dtype, attention.k.dtype].map(element_type);
        if query_cubes > 0 {
            // SAFETY: the public function checks the shapes; tokens, keys, units and cubes past the ends are neither
            // read nor written.
            unsafe {
                attention_overlap_kernel::launch_unchecked(
                    client,
                    grid_of_units(client, batch * tokens * query_heads),
                    block(),
                    arg(&y),
                    arg(&cotangent),
                    arg(&overlap),
                    batch * tokens * query_heads,
                    width,
                    element_type(q.dtype),
                );
                attention_query_gradient_kernel::launch_unchecked(
                    client,
                    grid(client, query_cubes),
                    block(),
                    arg(q),
                    arg(&attention.k),
                    arg(&attention.v),
                    arg(&attention.prefix_k),
                    arg(&attention.prefix_v),
                    attention.prefix_lengths.arg(),
                    arg(&saved.log_sum_exp),
                    arg(&overlap),
                    arg(&cotangent),
                    arg(&q_gradient),
                    query_cubes,
                    token_blocks,
                    attention.sizes(),
                    query_tile,
                    BLOCK,
                    kinds,
                );
                attention_key_gradient_kernel::launch_unchecked(
                    client,
                    grid(client, key_cubes),
                    block(),
                    arg(q),
                    arg(&attention.k),
                    arg(&attention.v),
                    arg(&attention.prefix_k),
                    arg(&attention.prefix_v),
                    attention.prefix_lengths.arg(),
                    arg(&saved.log_sum_exp),
                    arg(&overlap),
                    arg(&cotangent),
                    arg(&k_gradient),
                    arg(&v_gradient),
                    arg(&prefix_k_gradient),
                    arg(&prefix_v_gradient),
                    key_cubes,
                    key_tiles,
                    attention.sizes(),
                    key_tile,
                    BLOCK,
                    kinds,
                );
                if prefix_elements > 0 {
                    attention_clear_padding_kernel::launch_unchecked(
                        client,
                        grid_of_units(client, prefix_elements),
                        block(),
                        arg(&prefix_k_gradient),
                        arg(&prefix_v_gradient),
                        attention.prefix_lengths.arg(),
                        prefix_elements,
                        prefix_tokens,
                        key_heads * width,
                    );
                }
            }
        }
        // A prefix that several rows share gets the gradients of all of them.
        let shared = |gradient: CubeTensor, dtype| {
            if prefix_batch == batch || prefix_tokens == 0 {
                let shape = [prefix_batch, prefix_tokens, key_heads, width];
                return if prefix_tokens == 0 { empty(q, shape, dtype) } else { cast_to(gradient, dtype) };
            }
            let size = prefix_tokens * key_heads * width;
            let parts = Parts { count: batch, stride: size, offset: 0 };
            sum_parts(&gradient, parts, [1, prefix_tokens, key_heads, width], dtype)
        };
        [
            cast_to(q_gradient, dtypes[0]),
            cast_to(k_gradient, dtypes[1]),
            cast_to(v_gradient, dtypes[2]),
            shared(prefix_k_gradient, dtypes[3]),
            shared(prefix_v_gradient, dtypes[4]),
        ]
    }
}
