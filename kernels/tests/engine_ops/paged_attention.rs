use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use nemo_kernels::paged_attention::reference;
use nemo_kernels::{PagedSequence, causal_attention, paged_attention};

use crate::harness::{Inputs, assert_close, bits, fastest_ns, with_threads};

struct Case {
    q: Tensor<3>,
    k_pool: Tensor<4>,
    v_pool: Tensor<4>,
    sequences: Arc<Vec<PagedSequence>>,
    scale: f64,
}

/// Sequences of (new tokens, context length) over pages in scattered order.
fn case(seed: u64, page_size: usize, heads: [usize; 2], width: usize, lengths: &[(usize, usize)]) -> Case {
    let mut random = Inputs(seed);
    let pages: usize = lengths.iter().map(|(_, context)| context.div_ceil(page_size)).sum::<usize>() + 3;
    let mut free: Vec<u32> = (0..pages as u32).collect();
    let mut rows = 0;
    let sequences = lengths
        .iter()
        .map(|&(num_queries, context_length)| {
            let block_table = (0..context_length.div_ceil(page_size))
                .map(|i| free.swap_remove((i * 5 + rows) % free.len()))
                .collect();
            let query_start = rows;
            rows += num_queries;
            PagedSequence { block_table, query_start, num_queries, context_length }
        })
        .collect();
    let [query_heads, kv_heads] = heads;
    Case {
        q: random.tensor([rows, query_heads, width]) * 2.0,
        k_pool: random.tensor([pages, page_size, kv_heads, width]) * 2.0,
        v_pool: random.tensor([pages, page_size, kv_heads, width]),
        sequences: Arc::new(sequences),
        scale: 1.0 / (width as f64).sqrt(),
    }
}

impl Case {
    fn run(&self) -> Tensor<3> {
        paged_attention(self.q.clone(), self.k_pool.clone(), self.v_pool.clone(), self.sequences.clone(), self.scale)
    }
    fn reference(&self) -> Tensor<3> {
        reference::paged_attention(
            self.q.clone(),
            self.k_pool.clone(),
            self.v_pool.clone(),
            &self.sequences,
            self.scale,
        )
    }
}

#[test]
fn host_equals_dense_attention() {
    let lengths = [(1, 1), (1, 64), (1, 65), (5, 5), (3, 130), (40, 200), (0, 10), (1, 300), (17, 64)];
    for (page_size, heads, width) in
        [(16, [4, 2], 32), (5, [3, 1], 33), (64, [2, 2], 64), (1, [8, 1], 16), (16, [4, 1], 7), (16, [6, 2], 48)]
    {
        let case = case(width as u64, page_size, heads, width, &lengths);
        assert_close(&case.run(), &case.reference(), 1e-5);
    }
}

#[test]
fn f64_takes_the_reference() {
    let mut case = case(3, 4, [4, 2], 8, &[(1, 7), (3, 9)]);
    let single = case.run();
    case.q = case.q.cast(DType::F64);
    case.k_pool = case.k_pool.cast(DType::F64);
    case.v_pool = case.v_pool.cast(DType::F64);
    let double = case.run();
    assert_eq!(double.dtype(), DType::F64);
    assert_close(&single, &double, 1e-5);
}

#[test]
fn rows_of_no_sequence_are_zero() {
    let mut case = case(4, 4, [2, 1], 8, &[(2, 7), (3, 9)]);
    let sequences = vec![case.sequences[1].clone()];
    case.sequences = Arc::new(sequences);
    assert!(bits(&case.run().narrow(0, 0, 2)).iter().all(|&bits| bits == 0));
}

#[test]
fn bits_depend_neither_on_threads_nor_on_batch_chunks_or_pages() {
    let whole = case(9, 16, [4, 2], 32, &[(150, 150), (1, 90)]);
    let together = whole.run();
    for threads in [1, 3] {
        assert_eq!(bits(&with_threads(threads, || whole.run())), bits(&together));
    }
    // The same sequence fed in chunks, down to one token at a time.
    let table = whole.sequences[0].block_table.clone();
    let mut done = 0;
    for chunk in [1, 1, 7, 54, 1, 30, 2, 33, 21] {
        let part = Case {
            q: whole.q.clone().narrow(0, done, chunk),
            k_pool: whole.k_pool.clone(),
            v_pool: whole.v_pool.clone(),
            sequences: Arc::new(vec![PagedSequence {
                block_table: table.clone(),
                query_start: 0,
                num_queries: chunk,
                context_length: done + chunk,
            }]),
            scale: whole.scale,
        };
        assert_eq!(bits(&part.run()), bits(&together.clone().narrow(0, done, chunk)), "{done}");
        done += chunk;
    }
    assert_eq!(done, 150);
    // The same bytes seen as smaller pages.
    let mut small = case(9, 16, [4, 2], 32, &[(150, 150), (1, 90)]);
    let [pages, ..] = small.k_pool.dims();
    small.k_pool = small.k_pool.reshape([pages * 4, 4, 2, 32]);
    small.v_pool = small.v_pool.reshape([pages * 4, 4, 2, 32]);
    let sequences = small.sequences.iter().map(|sequence| PagedSequence {
        block_table: sequence.block_table.iter().flat_map(|page| (0..4).map(move |i| page * 4 + i)).collect(),
        ..sequence.clone()
    });
    small.sequences = Arc::new(sequences.collect());
    assert_eq!(bits(&small.run()), bits(&together));
}

/// Samples of one prompt are read together as far as they share pages, whatever the company.
#[test]
fn sequences_on_shared_pages_have_their_own_bits() {
    for (page_size, heads, width) in [(8, [4, 2], 24), (48, [2, 2], 32), (64, [6, 1], 16)] {
        let lengths = [(1, 333), (1, 200), (1, 333), (1, 130), (1, 7), (3, 150), (1, 64), (1, 65)];
        let mut case = case(31, page_size, heads, width, &lengths);
        let table = case.sequences[0].block_table.clone();
        let mut sequences = (*case.sequences).clone();
        // How many positions each has in common with the first.
        for (sequence, positions) in sequences.iter_mut().zip([0, 160, 80, 333, 7, 90, 64, 64]) {
            let own = &mut sequence.block_table;
            let pages = (positions / page_size).min(own.len());
            own[..pages].copy_from_slice(&table[..pages]);
        }
        case.sequences = Arc::new(sequences.clone());
        let together = case.run();
        assert_close(&together, &case.reference(), 1e-5);
        for sequence in sequences {
            let (start, count) = (sequence.query_start, sequence.num_queries);
            case.sequences = Arc::new(vec![sequence]);
            let alone = case.run().narrow(0, start, count);
            assert_eq!(bits(&alone), bits(&together.clone().narrow(0, start, count)), "page size {page_size}");
        }
    }
}

/// What training computes is what decoding computed.
#[test]
fn agrees_with_the_sequence_operation() {
    for (tokens, heads, width) in [(150, [4, 2], 32), (70, [3, 1], 33), (5, [2, 2], 64)] {
        let case = case(11, 16, heads, width, &[(tokens, tokens)]);
        let gather = |pool: &Tensor<4>| {
            let pages = case.sequences[0].block_table.iter();
            let pages = pages.map(|&page| pool.clone().narrow(0, page as usize, 1)).collect();
            let all: Tensor<4> = Tensor::cat(pages, 0);
            let [pages, size, heads, width] = all.dims();
            all.reshape([1, pages * size, heads, width]).narrow(1, 0, tokens)
        };
        let (k, v) = (gather(&case.k_pool), gather(&case.v_pool));
        let q = case.q.clone().unsqueeze_dim(0);
        let dense = causal_attention(q, k, v, None, None, case.scale).squeeze_dim::<3>(0);
        let paged = case.run();
        assert_close(&paged, &dense, 1e-5);
        assert_eq!(bits(&paged), bits(&dense), "attention of {tokens} tokens");
    }
}

#[test]
#[should_panic(expected = "it must cover the new tokens and fit the block table")]
fn a_context_beyond_the_block_table_is_refused() {
    let case = case(5, 4, [2, 1], 8, &[(1, 8)]);
    let mut sequence = case.sequences[0].clone();
    sequence.context_length = 9;
    paged_attention(case.q, case.k_pool, case.v_pool, Arc::new(vec![sequence]), 1.0);
}

#[test]
#[ignore = "measures"]
fn time_per_row() {
    for (rows, heads, width, context) in [(64, [4, 1], 32, 800), (64, [4, 2], 64, 800), (1, [4, 1], 32, 800)] {
        let mut case = case(1, 16, heads, width, &vec![(1, context); rows]);
        let apart = fastest_ns(|| drop(case.run())) / rows as f64;
        let table = case.sequences[0].block_table.clone();
        let shared =
            case.sequences.iter().map(|sequence| PagedSequence { block_table: table.clone(), ..sequence.clone() });
        case.sequences = Arc::new(shared.collect());
        let shared = fastest_ns(|| drop(case.run())) / rows as f64;
        println!(
            "paged_attention rows {rows} heads {heads:?} P {width} context {context}: {apart:.0} ns per row, \
             on the same pages {shared:.0}"
        );
    }
    let case = case(1, 16, [4, 1], 32, &[(1024, 1024)]);
    let ns = fastest_ns(|| drop(case.run())) / 1024.0;
    println!("paged_attention prefill of 1024, heads [4, 1], P 32: {ns:.0} ns per token");
}
