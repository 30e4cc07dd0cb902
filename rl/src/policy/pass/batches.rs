//! How sibling leaves are cut into padded batches.

/// What a batch costs beside its tokens, in tokens: mostly the gradients of the weights, which are as large for one row.
const BATCH_COST: usize = 48;

/// How many of the rows, whose `lengths` fall, go into each batch: the cut with the fewest padded tokens, where every batch
/// counts as [`BATCH_COST`] tokens more. A batch of several rows has at most `max_tokens`.
pub(super) fn batch_sizes(lengths: &[usize], max_tokens: usize) -> Vec<usize> {
    // Of the cheapest cut of the rows from `first` on: its cost, and the end of its first batch.
    let mut best = vec![(0, lengths.len()); lengths.len() + 1];
    for first in (0..lengths.len()).rev() {
        let alone = (lengths[first] + BATCH_COST + best[first + 1].0, first + 1);
        let most = (max_tokens / lengths[first].max(1)).min(lengths.len() - first);
        let longer = (2..=most).map(|rows| (rows * lengths[first] + BATCH_COST + best[first + rows].0, first + rows));
        // Of equal cuts the one with fewer batches.
        best[first] = longer.fold(alone, |cheapest, cut| if cut.0 <= cheapest.0 { cut } else { cheapest });
    }
    let mut sizes = Vec::new();
    let mut first = 0;
    while first < lengths.len() {
        sizes.push(best[first].1 - first);
        first = best[first].1;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No cut of the rows into batches is cheaper, and all keep to the budget.
    #[test]
    fn batches_pad_least() {
        let cost = |lengths: &[usize], sizes: &[usize]| {
            let (mut first, mut total) = (0, 0);
            for &size in sizes {
                total += lengths[first] * size + BATCH_COST;
                first += size;
            }
            assert_eq!(first, lengths.len());
            total
        };
        let allowed = |lengths: &[usize], sizes: &[usize], limit: usize| {
            let mut first = 0;
            sizes.iter().all(|&size| {
                first += size;
                size == 1 || lengths[first - size] * size <= limit
            })
        };
        for (lengths, limit) in [
            (vec![], 100),
            (vec![700, 650, 90, 80, 80, 75, 20, 1], 2048),
            (vec![700, 650, 90, 80, 80, 75, 20, 1], 160),
            (vec![120, 119, 118, 117, 116, 115, 114, 113, 112], 100_000),
            (vec![400, 300, 200, 100, 50, 25, 12, 6, 3], 900),
            (vec![5000, 10, 0], 64),
        ] {
            let chosen = batch_sizes(&lengths, limit);
            assert!(allowed(&lengths, &chosen, limit), "{lengths:?} {chosen:?}");
            // Every way to cut: bit i set ends a batch behind row i.
            for cuts in 0..1_usize << lengths.len().saturating_sub(1) {
                let mut sizes = Vec::new();
                let mut size = 0;
                for row in 0..lengths.len() {
                    size += 1;
                    if row + 1 == lengths.len() || cuts >> row & 1 == 1 {
                        sizes.push(std::mem::take(&mut size));
                    }
                }
                if allowed(&lengths, &sizes, limit) {
                    assert!(cost(&lengths, &chosen) <= cost(&lengths, &sizes), "{lengths:?} {chosen:?} {sizes:?}");
                }
            }
        }
        assert_eq!(batch_sizes(&[120, 119, 118, 117], 100_000), [4]);
    }
}
