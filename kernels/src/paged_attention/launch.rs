//! Two kernels: attention over splits of 512 absolute positions, and the reduction over a row's splits in order.
//!
//! A cube serves a few query rows (query heads of one key/value head, times tokens of one sequence) and one split, so
//! that a decode step over a long context still fills the device. Splits and tiles start at absolute positions: a row's
//! result does not depend on what else is in the batch.

use std::sync::Arc;

use burn::backend::{TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::kernel::{paged_attention_combine_kernel, paged_attention_split_kernel};
use super::{PagedAttentionOps, PagedSequence, reference};
use crate::cube::flash::Tile;
use crate::cube::{BLOCK, Numbers, arg, block, contiguous, contiguous_as, element_type, empty, grid, sizes};

/// Positions per split; a multiple of every tile.
const SPLIT: usize = 512;

/// Numbers that the partial results of one launch may take (32 MiB).
const PARTIAL_ELEMENTS: usize = 8 << 20;

/// Numbers per task in the list that goes to the device.
pub(super) const TASK_FIELDS: usize = 4;

impl PagedAttentionOps for CubeBackend {
    fn paged_attention(
        q: FloatTensor<Self>,
        k_pool: FloatTensor<Self>,
        v_pool: FloatTensor<Self>,
        sequences: Arc<Vec<PagedSequence>>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let [_, query_heads, width] = sizes(&q);
        let [_, _, kv_heads, _] = sizes(&k_pool);
        match Tile::choose(query_heads / kv_heads, width, 2) {
            Some(tile) => attend(q, k_pool, v_pool, &sequences, scale as f32, tile),
            None => attend_reference(q, k_pool, v_pool, &sequences, scale),
        }
    }
}

fn attend_reference(
    q: CubeTensor,
    k_pool: CubeTensor,
    v_pool: CubeTensor,
    sequences: &[PagedSequence],
    scale: f64,
) -> CubeTensor {
    let [k_pool, v_pool] = [k_pool, v_pool].map(Tensor::from_primitive::<CubeBackend>);
    let y = reference::paged_attention(Tensor::from_primitive::<CubeBackend>(q), k_pool, v_pool, sequences, scale);
    match y.try_into_primitive::<CubeBackend>() {
        Ok(y) => y,
        Err(error) => unreachable!("an operation on device tensors gave a tensor elsewhere: {error:?}"),
    }
}

/// First query row, tokens, where the block table starts, and positions that the first token sees.
type Task = [u32; TASK_FIELDS];

/// Cuts sequences into tasks; rows of no sequence become tasks that see nothing. Also the block tables, one after the
/// other.
fn tasks(sequences: &[PagedSequence], rows: usize, tokens_per_task: usize) -> (Vec<Task>, Vec<u32>) {
    let (mut tasks, mut tables) = (Vec::new(), Vec::new());
    let mut served = vec![false; rows];
    for sequence in sequences {
        let before = sequence.context_length - sequence.num_queries;
        for first in (0..sequence.num_queries).step_by(tokens_per_task) {
            let tokens = tokens_per_task.min(sequence.num_queries - first);
            let visible = before + first + 1;
            tasks.push([sequence.query_start + first, tokens, tables.len(), visible].map(|number| number as u32));
        }
        served[sequence.query_start..sequence.query_start + sequence.num_queries].fill(true);
        tables.extend_from_slice(&sequence.block_table);
    }
    let unserved = (0u32..).zip(served).filter(|&(_, served)| !served);
    tasks.extend(unserved.map(|(row, _)| [row, 1, 0, 0]));
    (tasks, tables)
}

fn attend(
    q: CubeTensor,
    k_pool: CubeTensor,
    v_pool: CubeTensor,
    sequences: &[PagedSequence],
    scale: f32,
    tile: Tile,
) -> CubeTensor {
    let (q, k_pool) = (contiguous(q), contiguous(k_pool));
    let v_pool = contiguous_as(v_pool, k_pool.dtype);
    let [rows, query_heads, width] = sizes(&q);
    let [_, page_size, kv_heads, _] = sizes(&k_pool);
    let client = q.client.clone();
    let y = empty(&q, q.shape(), q.dtype);
    let (tasks, tables) = tasks(sequences, rows, tile.tokens);
    let longest = sequences.iter().map(|sequence| sequence.context_length).max().unwrap_or(0);
    let splits = longest.div_ceil(SPLIT).max(1);
    let tables = Numbers::new(&client, &tables);
    let head_blocks = query_heads / tile.heads;
    let task_elements = head_blocks * splits * tile.rows() * width;
    let tasks_at_once = (PARTIAL_ELEMENTS / task_elements.max(1)).max(1);
    for tasks in tasks.chunks(tasks_at_once) {
        let cubes = tasks.len() * head_blocks;
        let list = Numbers::new(&client, tasks.as_flattened());
        let partial = empty(&q, [cubes * splits, tile.rows(), width], DType::F32);
        let softmax = empty(&q, [cubes * splits, 2, tile.rows()], DType::F32);
        // SAFETY: the public function checks rows, pages and contexts; tasks name rows and table entries that exist;
        // cubes past the tasks do nothing.
        unsafe {
            paged_attention_split_kernel::launch_unchecked(
                &client,
                grid(&client, cubes * splits),
                block(),
                arg(&q),
                arg(&k_pool),
                arg(&v_pool),
                list.arg(),
                tables.arg(),
                arg(&partial),
                arg(&softmax),
                cubes * splits,
                splits,
                query_heads,
                kv_heads,
                page_size,
                scale,
                SPLIT,
                tile,
                BLOCK,
                [element_type(q.dtype), element_type(k_pool.dtype)],
            );
            paged_attention_combine_kernel::launch_unchecked(
                &client,
                grid(&client, cubes),
                block(),
                arg(&partial),
                arg(&softmax),
                list.arg(),
                arg(&y),
                cubes,
                splits,
                query_heads,
                tile,
                BLOCK,
                element_type(q.dtype),
            );
        }
    }
    y
}
