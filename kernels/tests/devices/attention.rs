//! Attention of training and of generation.

use std::sync::Arc;

use burn::tensor::Tensor;
use nemo_kernels::{PagedSequence, causal_attention, paged_attention};

use crate::check::*;
use crate::harness::*;

type Attention =
    fn(Tensor<4>, Tensor<4>, Tensor<4>, Option<(Tensor<4>, Tensor<4>)>, Option<&[usize]>, f64) -> Tensor<4>;

#[test]
fn causal_attention_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("causal_attention", device);
    // batch, tokens, query heads, key heads, head width, prefix batch, prefix tokens
    for (sizes, lengths) in [
        ([1, 1, 1, 1, 1, 1, 0], None),
        ([2, 3, 2, 1, 4, 1, 2], None),
        ([2, 4, 2, 2, 5, 2, 3], Some(&[3, 0][..])),
        ([2, 33, 4, 2, 16, 1, 0], None),
        ([2, 31, 4, 1, 32, 1, 40], None),
        ([3, 9, 6, 2, 24, 3, 65], Some(&[65, 32, 1])),
        ([1, 65, 2, 2, 64, 1, 31], None),
        ([2, 1, 10, 2, 48, 2, 127], None),
        ([1, 12, 5, 1, 128, 1, 10], None),
    ] {
        let [batch, tokens, query_heads, key_heads, width, prefix_batch, prefix] = sizes;
        let mut noise = Noise::new(6);
        let mut sharp = |len: usize| noise.vector(len).iter().map(|v| 2.0 * v).collect::<Vec<_>>();
        let inputs = [
            sharp(batch * tokens * query_heads * width),
            sharp(batch * tokens * key_heads * width),
            sharp(batch * tokens * key_heads * width),
            sharp((prefix_batch * prefix * key_heads * width).max(1)),
            sharp((prefix_batch * prefix * key_heads * width).max(1)),
        ];
        let run = |flat: &[Tensor<1>], attention: Attention| {
            let before = [prefix_batch, prefix, key_heads, width];
            let prefix = (prefix > 0).then(|| (swapped(&flat[3], before), flat[4].clone().reshape(before)));
            let y = attention(
                swapped(&flat[0], [batch, tokens, query_heads, width]),
                flat[1].clone().reshape([batch, tokens, key_heads, width]),
                swapped(&flat[2], [batch, tokens, key_heads, width]),
                prefix,
                lengths,
                1.0 / (width as f64).sqrt(),
            );
            vec![y.flatten(0, 3)]
        };
        let reference = nemo_kernels::causal_attention::reference::causal_attention;
        let name = format!("{sizes:?} prefix lengths {lengths:?}");
        report.with_gradients(&name, &inputs, &[], &|flat| run(flat, causal_attention), &|flat| run(flat, reference));
    }
    report.finish(1e-6, 3e-6);
}

/// Sequences over pages in a scrambled order; `contexts` and `queries` have one entry each per sequence.
pub fn sequences(contexts: &[usize], queries: &[usize], page_size: usize) -> (Vec<PagedSequence>, usize) {
    let mut next = 0u32;
    let mut query_start = 0;
    let total: u32 = contexts.iter().map(|context| context.div_ceil(page_size) as u32).sum();
    let sequences = contexts
        .iter()
        .zip(queries)
        .map(|(&context_length, &num_queries)| {
            let block_table = (0..context_length.div_ceil(page_size))
                .map(|_| {
                    next += 1;
                    (next * 7) % (total + 1 + u32::from((total + 1).is_multiple_of(7)))
                })
                .collect();
            let sequence = PagedSequence { block_table, query_start, num_queries, context_length };
            query_start += num_queries;
            sequence
        })
        .collect();
    (sequences, total as usize + 2)
}

#[test]
fn paged_attention_is_its_reference() {
    let Some(device) = test_device() else { return };
    let mut report = Report::new("paged_attention", device);
    // Contexts, new tokens of each sequence, then page size, query heads, key heads, head width.
    let cases: [(&[usize], &[usize], [usize; 4]); 7] = [
        (&[1], &[1], [8, 1, 1, 1]),
        (&[7, 8, 9], &[1, 1, 1], [8, 2, 1, 16]),
        (&[31, 32, 33], &[1, 3, 33], [16, 4, 2, 32]),
        (&[100, 513, 512], &[1, 2, 1], [16, 10, 2, 24]),
        (&[1100, 5], &[1, 5], [64, 5, 1, 128]),
        (&[65, 130], &[20, 1], [32, 8, 8, 64]),
        (&[40], &[12], [8, 40, 1, 80]),
    ];
    for (contexts, queries, [page_size, query_heads, kv_heads, width]) in cases {
        let (sequences, pages) = sequences(contexts, queries, page_size);
        // One row that belongs to no sequence.
        let rows = queries.iter().sum::<usize>() + 1;
        let mut noise = Noise::new(13);
        let pool = pages * page_size * kv_heads * width;
        let inputs = [noise.vector(rows * query_heads * width), noise.vector(pool), noise.vector(pool)];
        let parts = |flat: &[Tensor<1>]| {
            let shape = [pages, page_size, kv_heads, width];
            let q = swapped(&flat[0], [rows, query_heads, width]) * 2.0;
            (q, flat[1].clone().reshape(shape), flat[2].clone().reshape(shape))
        };
        let scale = 1.0 / (width as f64).sqrt();
        report.values(
            &format!("{contexts:?} new {queries:?} {:?}", [page_size, query_heads, kv_heads, width]),
            &inputs,
            &|flat| {
                let (q, k, v) = parts(flat);
                vec![paged_attention(q, k, v, Arc::new(sequences.clone()), scale).flatten(0, 2)]
            },
            &|flat| {
                let (q, k, v) = parts(flat);
                let reference = nemo_kernels::paged_attention::reference::paged_attention;
                vec![reference(q, k, v, &sequences, scale).flatten(0, 2)]
            },
        );
    }
    report.finish(1e-6, 0.0);
}
