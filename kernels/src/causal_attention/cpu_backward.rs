//! Attention's gradient on the host, with weights recomputed block by block.
//!
//! With weights `w_ij = exp(scale q_i . k_j - lse_i)` and `g` the cotangent of `y`:
//! `dv_j = sum_i w_ij g_i`, `ds_ij = scale w_ij (g_i . v_j - g_i . y_i)`, `dq_i = sum_j ds_ij k_j`,
//! `dk_j = sum_i ds_ij q_i` (Dao et al. 2022, arXiv:2205.14135). One task serves one query head of
//! one row; what the query heads of a key head, and the rows that share a prefix, give its keys is
//! then added in a fixed order. Keys are taken in spans, so that the parts of all query heads take
//! a constant amount of memory.

use std::ops::Range;

use super::cpu::{Layer, forward, pack_rows, score_rows, transpose_block};
use super::{AttentionSaved, AttentionTensors, CausalAttentionGradient};
use crate::cpu::{DisjointMut, Floats, from_vec, parallel};
use crate::paged_attention::cpu_block::{BLOCK, weighted_values};
use crate::simd::{Kernel, LANES, Lanes, run};
use burn::backend::{Flex, tensor::FloatTensor};

/// Query tokens whose scores are held at a time.
const QUERY_TILE: usize = 32;

/// Elements that the key and value gradients per query head may take at a time (16 MiB); at least a block of keys of one row.
const PARTIAL_ELEMENTS: usize = 4 << 20;

impl CausalAttentionGradient for Flex {
    fn causal_attention_forward(
        tensors: AttentionTensors<Self>,
        prefix_lengths: &[usize],
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        forward(tensors, prefix_lengths, scale)
    }

    fn causal_attention_backward(saved: AttentionSaved<Self>, cotangent: FloatTensor<Self>) -> [FloatTensor<Self>; 5] {
        let layer = Layer::new(saved.tensors, &saved.prefix_lengths, saved.scale);
        let Layer { batch, tokens, query_heads, key_heads, width, .. } = layer;
        let (y, log_sum_exp) = (Floats::new(saved.y), Floats::new(saved.log_sum_exp));
        let cotangent = Floats::new(cotangent);
        let mut q = vec![0.0; layer.q.len()];
        let mut k = vec![0.0; layer.k.len()];
        let mut v = vec![0.0; layer.v.len()];
        let mut prefix_k = vec![0.0; layer.prefix_k.len()];
        let mut prefix_v = vec![0.0; layer.prefix_v.len()];

        let positions = layer.prefix_lengths.iter().max().map_or(0, |longest| longest + tokens);
        let of_position = 2 * query_heads * width;
        let span = (PARTIAL_ELEMENTS / of_position.max(1) / BLOCK).clamp(1, positions.div_ceil(BLOCK).max(1)) * BLOCK;
        let rows_at_once = (PARTIAL_ELEMENTS / (span * of_position).max(1)).clamp(1, batch.max(1));
        let mut partial = vec![0.0; rows_at_once * span * of_position];
        for first_row in (0..batch).step_by(rows_at_once) {
            let rows = first_row..batch.min(first_row + rows_at_once);
            for start in (0..positions).step_by(span) {
                let span = start..positions.min(start + span);
                let (q_out, partial_out) = (DisjointMut::new(&mut q), DisjointMut::new(&mut partial));
                parallel(rows.len() * query_heads, |task| {
                    let (row, head) = (first_row + task / query_heads, task % query_heads);
                    // SAFETY: every task has its own row and head.
                    let gradients = unsafe { partial_out.slice(task * 2 * span.len() * width, 2 * span.len() * width) };
                    let (k_gradient, v_gradient) = gradients.split_at_mut(span.len() * width);
                    let (y, log_sum_exp, cotangent) = (&y, &log_sum_exp, &cotangent);
                    let (layer, span, q) = (&layer, span.clone(), q_out);
                    run(Reverse { layer, row, head, span, y, log_sum_exp, cotangent, q, k_gradient, v_gradient });
                });

                let own = [DisjointMut::new(&mut k), DisjointMut::new(&mut v)];
                let prefix = [DisjointMut::new(&mut prefix_k), DisjointMut::new(&mut prefix_v)];
                parallel(span.len().div_ceil(BLOCK) * key_heads, |task| {
                    let (block, key_head) = (start + task / key_heads * BLOCK, task % key_heads);
                    let positions = block..span.end.min(block + BLOCK);
                    for row in rows.clone() {
                        add_heads(
                            &layer,
                            [row, row - first_row],
                            key_head,
                            positions.clone(),
                            &span,
                            &partial,
                            own,
                            prefix,
                        );
                    }
                });
            }
        }
        [
            from_vec(q, [batch, tokens, query_heads, width]),
            from_vec(k, [batch, tokens, key_heads, width]),
            from_vec(v, [batch, tokens, key_heads, width]),
            from_vec(prefix_k, [layer.prefix_batch, layer.prefix_tokens, key_heads, width]),
            from_vec(prefix_v, [layer.prefix_batch, layer.prefix_tokens, key_heads, width]),
        ]
    }
}

/// Adds what the query heads of row `row`, the `index`-th of those in `partial`, give some positions of their key head, first
/// to last.
///
/// A slot of the prefix has the same position in every row, and other keys belong to one row: no two positions meet in one
/// element.
#[allow(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
fn add_heads(
    layer: &Layer,
    [row, index]: [usize; 2],
    key_head: usize,
    positions: Range<usize>,
    span: &Range<usize>,
    partial: &[f32],
    own: [DisjointMut; 2],
    prefix: [DisjointMut; 2],
) {
    let width = layer.width;
    let end = layer.prefix_lengths[row] + layer.tokens;
    for position in positions.start..positions.end.min(end) {
        let (place, in_prefix) = layer.key_place(row, position, key_head);
        let targets = if in_prefix { prefix } else { own };
        for (kind, target) in targets.into_iter().enumerate() {
            // SAFETY: this task owns the position of this key head.
            let total = unsafe { target.slice(place, width) };
            for head in key_head * layer.per_key()..(key_head + 1) * layer.per_key() {
                let gradients = (index * layer.query_heads + head) * 2 + kind;
                let from = (gradients * span.len() + position - span.start) * width;
                for (total, part) in total.iter_mut().zip(&partial[from..from + width]) {
                    *total += part;
                }
            }
        }
    }
}

struct Reverse<'a> {
    layer: &'a Layer<'a>,
    row: usize,
    head: usize,
    /// Positions of the keys that are taken; those before them are in `q` already.
    span: Range<usize>,
    /// `[B, T, Hq, P]`
    y: &'a [f32],
    /// `[B, Hq, T]`
    log_sum_exp: &'a [f32],
    /// `[B, T, Hq, P]`
    cotangent: &'a [f32],
    /// `[B, T, Hq, P]`
    q: DisjointMut<'a>,
    /// `[span, P]`, overwritten.
    k_gradient: &'a mut [f32],
    /// `[span, P]`, overwritten.
    v_gradient: &'a mut [f32],
}

impl Kernel for Reverse<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { layer, row, head, .. } = self;
        let (tokens, width, padded) = (layer.tokens, layer.width, layer.padded());
        let key_head = head / layer.per_key();
        let start = layer.prefix_lengths[row];
        let log_sum_exp = &self.log_sum_exp[(row * layer.query_heads + head) * tokens..][..tokens];
        let place = |token: usize| layer.query_place(row, token, head);
        let rows_of = |values: &'_ [f32]| {
            let mut packed = vec![0.0; tokens * padded];
            for (token, to) in packed.chunks_exact_mut(padded).enumerate() {
                to[..width].copy_from_slice(&values[place(token)..][..width]);
            }
            packed
        };
        let queries = rows_of(&layer.q);
        let cotangents = rows_of(self.cotangent);
        let outputs = rows_of(self.y);
        let mut projections = vec![0.0; tokens];
        for (token, projection) in projections.iter_mut().enumerate() {
            let mut sum = L::splat(0.0);
            for at in (token * padded..(token + 1) * padded).step_by(LANES) {
                // SAFETY: both hold `tokens * padded` values.
                sum = unsafe { L::load(cotangents.as_ptr().add(at)).mul_add(L::load(outputs.as_ptr().add(at)), sum) };
            }
            *projection = sum.sum();
        }

        let mut keys = vec![0.0; BLOCK * padded];
        let mut values = vec![0.0; BLOCK * padded];
        let mut keys_transposed = vec![0.0; BLOCK * padded];
        let mut values_transposed = vec![0.0; BLOCK * padded];
        let mut weights = vec![0.0; QUERY_TILE * BLOCK];
        let mut slopes = vec![0.0; QUERY_TILE * BLOCK];
        let mut q_sums = vec![0.0; tokens * padded];
        for (token, sums) in q_sums.chunks_exact_mut(padded).enumerate() {
            // SAFETY: this task owns the query head's rows.
            sums[..width].copy_from_slice(unsafe { self.q.slice(place(token), width) });
        }
        let mut k_sums = vec![0.0; BLOCK * padded];
        let mut v_sums = vec![0.0; BLOCK * padded];
        let offsets: [usize; BLOCK] = std::array::from_fn(|index| index * padded);

        let end = self.span.end.min(start + tokens);
        for block in (self.span.start..end).step_by(BLOCK) {
            let filled = BLOCK.min(end - block);
            let source = |position| layer.key_value(row, block + position, key_head);
            pack_rows((0..filled).map(|position| source(position)[0]), padded, &mut keys);
            pack_rows((0..filled).map(|position| source(position)[1]), padded, &mut values);
            transpose_block::<L>(&keys, padded, &mut keys_transposed);
            transpose_block::<L>(&values, padded, &mut values_transposed);
            k_sums.fill(0.0);
            v_sums.fill(0.0);
            let mut first = block.saturating_sub(start);
            while first < tokens {
                let count = QUERY_TILE.min(tokens - first);
                // SAFETY: all buffers have the sizes above.
                unsafe {
                    let (q, g) = (queries.as_ptr(), cotangents.as_ptr());
                    let query = |index: usize| q.add((first + index) * padded);
                    let cotangent = |index: usize| g.add((first + index) * padded);
                    let (w, s) = (weights.as_mut_ptr(), slopes.as_mut_ptr());
                    score_rows::<L>(query, count, keys_transposed.as_ptr(), width, w, layer.scale);
                    score_rows::<L>(cotangent, count, values_transposed.as_ptr(), width, s, 1.0);
                    for index in 0..count {
                        let token = first + index;
                        let seen = filled.min(start + token + 1 - block);
                        let here = index * BLOCK..(index + 1) * BLOCK;
                        weights_and_slopes::<L>(
                            &mut weights[here.clone()],
                            &mut slopes[here],
                            seen,
                            log_sum_exp[token],
                            projections[token],
                            layer.scale,
                        );
                    }
                    let (w, s) = (weights.as_ptr(), slopes.as_ptr());
                    let mut index = 0;
                    while index < count {
                        let to = q_sums.as_mut_ptr().add((first + index) * padded);
                        let (slopes, keys) = (s.add(index * BLOCK), keys.as_ptr());
                        if index + 4 <= count {
                            weighted_values::<L, 4>(slopes, &offsets[..filled], keys, padded, to, padded);
                            index += 4;
                        } else {
                            weighted_values::<L, 1>(slopes, &offsets[..filled], keys, padded, to, padded);
                            index += 1;
                        }
                    }
                    gather::<L>(w, count, g.add(first * padded), padded, v_sums.as_mut_ptr());
                    gather::<L>(s, count, q.add(first * padded), padded, k_sums.as_mut_ptr());
                }
                first += count;
            }
            for position in 0..filled {
                let from = position * padded..position * padded + width;
                let to = (block + position - self.span.start) * width..(block + position + 1 - self.span.start) * width;
                self.k_gradient[to.clone()].copy_from_slice(&k_sums[from.clone()]);
                self.v_gradient[to].copy_from_slice(&v_sums[from]);
            }
        }
        for token in 0..tokens {
            // SAFETY: this task owns the query head's rows.
            let to = unsafe { self.q.slice(place(token), width) };
            to.copy_from_slice(&q_sums[token * padded..][..width]);
        }
    }
}

/// Turns scores into weights and `g . v` into score gradients; zero behind the `seen` positions.
#[inline(always)]
fn weights_and_slopes<L: Lanes>(
    weights: &mut [f32],
    slopes: &mut [f32],
    seen: usize,
    log_sum_exp: f32,
    projection: f32,
    scale: f32,
) {
    weights[seen..].fill(f32::NEG_INFINITY);
    slopes[seen..].fill(0.0);
    for (weights, slopes) in weights.chunks_exact_mut(LANES).zip(slopes.chunks_exact_mut(LANES)) {
        // SAFETY: both chunks have sixteen values.
        unsafe {
            let weight = L::load(weights.as_ptr()).sub(L::splat(log_sum_exp)).exp();
            let slope = L::load(slopes.as_ptr()).sub(L::splat(projection));
            weight.store(weights.as_mut_ptr());
            weight.mul(slope).mul(L::splat(scale)).store(slopes.as_mut_ptr());
        }
    }
}

/// `sums[j] += sum_i weights[i, j] vectors[i]` for the `BLOCK` positions `j`, in order of `i`.
///
/// # Safety
/// `weights` must hold `[count, BLOCK]`, `vectors` `[count, padded]`, `sums` `[BLOCK, padded]`.
#[inline(always)]
unsafe fn gather<L: Lanes>(weights: *const f32, count: usize, vectors: *const f32, padded: usize, sums: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        for position in (0..BLOCK).step_by(4) {
            let (weights, sums) = (weights.add(position), sums.add(position * padded));
            let mut at = 0;
            while at < padded {
                let (vectors, sums) = (vectors.add(at), sums.add(at));
                if at + 4 * LANES <= padded && L::WIDE {
                    gather_columns::<L, 4>(weights, count, vectors, padded, sums);
                    at += 4 * LANES;
                } else if at + 2 * LANES <= padded {
                    gather_columns::<L, 2>(weights, count, vectors, padded, sums);
                    at += 2 * LANES;
                } else {
                    gather_columns::<L, 1>(weights, count, vectors, padded, sums);
                    at += LANES;
                }
            }
        }
    }
}

/// Four positions and `VECTORS` vectors of [`gather`].
#[inline(always)]
unsafe fn gather_columns<L: Lanes, const VECTORS: usize>(
    weights: *const f32,
    count: usize,
    vectors: *const f32,
    padded: usize,
    sums: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [[L::splat(0.0); VECTORS]; 4];
        for (j, acc) in acc.iter_mut().enumerate() {
            for (v, acc) in acc.iter_mut().enumerate() {
                *acc = L::load(sums.add(j * padded + v * LANES));
            }
        }
        for i in 0..count {
            let mut vector = [L::splat(0.0); VECTORS];
            for (v, vector) in vector.iter_mut().enumerate() {
                *vector = L::load(vectors.add(i * padded + v * LANES));
            }
            for (j, acc) in acc.iter_mut().enumerate() {
                let weight = L::splat(*weights.add(i * BLOCK + j));
                for (acc, vector) in acc.iter_mut().zip(vector) {
                    *acc = weight.mul_add(vector, *acc);
                }
            }
        }
        for (j, acc) in acc.into_iter().enumerate() {
            for (v, acc) in acc.into_iter().enumerate() {
                acc.store(sums.add(j * padded + v * LANES));
            }
        }
    }
}
