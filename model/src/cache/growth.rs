//! How a pool gets room for more blocks: by a copy into a longer tensor, since kernels bind a pool as one tensor.

use burn::tensor::Tensor;

/// How many blocks a pool of `present` should have once `used` of at most `most` are in use; `None` when it has enough.
///
/// Half as many again: all copies together then cost a few writes of each block, and little stays empty.
pub(super) fn grown(present: usize, used: usize, most: usize) -> Option<usize> {
    (used > present).then(|| used.max(present.saturating_add(present / 2).min(most)))
}

/// The pool `[blocks, ..]` in a tensor of more blocks, the new ones zero.
pub(super) fn grow<const D: usize>(pool: Tensor<D>, blocks: usize) -> Tensor<D> {
    let old = pool.dims();
    let mut longer = old;
    longer[0] = blocks;
    let place = old.map(|size| 0..size);
    Tensor::zeros(longer, (&pool.device(), pool.dtype())).slice_assign(place, pool)
}

#[cfg(test)]
mod tests {
    use super::grown;

    #[test]
    fn growth_is_amortised_and_bounded() {
        assert_eq!(grown(8, 8, 100), None);
        assert_eq!(grown(8, 9, 100), Some(12));
        assert_eq!(grown(8, 9, 10), Some(10));
        assert_eq!(grown(8, 40, 100), Some(40));
        let (mut present, mut copies) = (1, 0);
        for used in 1..=100_000 {
            if let Some(blocks) = grown(present, used, 100_000) {
                copies += present;
                present = blocks;
            }
        }
        assert!(present == 100_000 && copies <= 3 * present, "{copies} blocks copied for {present}");
    }
}
