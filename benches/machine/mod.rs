//! What this machine can do at most, and the stopwatch both benches use.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use rayon::prelude::*;

/// Seconds of the fastest of `repeats` runs, after one that does not count.
pub fn best_seconds(repeats: usize, mut run: impl FnMut()) -> f64 {
    run();
    let timed = |run: &mut dyn FnMut()| {
        let began = Instant::now();
        run();
        began.elapsed().as_secs_f64()
    };
    (0..repeats).map(|_| timed(&mut run)).fold(f64::INFINITY, f64::min)
}

/// Bytes read plus bytes written per second by a large copy on all threads.
pub fn copy_bytes_per_second() -> f64 {
    const NUM_BYTES: usize = 256 << 20;
    const CHUNK: usize = 1 << 20;
    let from = vec![1u8; NUM_BYTES];
    let mut to = vec![0u8; NUM_BYTES];
    let seconds = best_seconds(5, || {
        to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
    });
    assert_eq!(to[NUM_BYTES - 1], 1);
    2.0 * NUM_BYTES as f64 / seconds
}

/// Bytes read per second by summing a large array on all threads: the limit of what reads much and writes little.
pub fn read_bytes_per_second() -> f64 {
    const NUM_WORDS: usize = 64 << 20;
    const CHUNK: usize = 1 << 16;
    let words = vec![1u64; NUM_WORDS];
    let seconds = best_seconds(5, || {
        let sum: u64 = words.par_chunks(CHUNK).map(|words| words.iter().sum::<u64>()).sum();
        assert_eq!(std::hint::black_box(sum), NUM_WORDS as u64);
    });
    (NUM_WORDS * size_of::<u64>()) as f64 / seconds
}

/// Floating-point operations per second of a large square matrix product (Burn's).
pub fn matmul_flops_per_second(device: &Device) -> f64 {
    const N: usize = 1536;
    let a = Tensor::<2>::random([N, N], Distribution::Default, device);
    let b = Tensor::<2>::random([N, N], Distribution::Default, device);
    let seconds = best_seconds(5, || {
        std::hint::black_box(a.clone().matmul(b.clone()).into_data());
    });
    2.0 * (N * N * N) as f64 / seconds
}
