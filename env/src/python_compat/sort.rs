//! Order of rows with equal keys under pandas' default descending sort.
//!
//! That sort is numpy's quicksort, which is not stable: the rows are reversed, sorted ascending, and
//! reversed again, and rows with equal keys end up where the partitioning left them. The scheme is
//! introsort (D. R. Musser, "Introspective sorting and selection algorithms", 1997): median of three,
//! pivot parked next to the right end, short runs by insertion.

/// Runs of at most this many elements plus one are sorted by insertion.
const SHORT_RUN: usize = 16;

/// Positions of `keys` in descending order, ties as the reference leaves them.
pub(crate) fn descending_order<K: Ord>(keys: &[K]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..keys.len()).rev().collect();
    // Nothing to decide, and the usual case: rows in ascending order without ties.
    if keys.windows(2).all(|pair| pair[0] < pair[1]) {
        return order;
    }
    if let Some(last) = order.len().checked_sub(1) {
        // Beyond this depth the reference changes to a heap sort.
        let depth = 2 * (usize::BITS - order.len().leading_zeros()) as usize;
        quicksort(&mut order, 0, last, keys, depth);
    }
    order.reverse();
    order
}

fn quicksort<K: Ord>(order: &mut [usize], left: usize, right: usize, keys: &[K], depth: usize) {
    if right - left <= SHORT_RUN {
        for i in left + 1..=right {
            let mut j = i;
            while j > left && keys[order[j]] < keys[order[j - 1]] {
                order.swap(j, j - 1);
                j -= 1;
            }
        }
        return;
    }
    if depth == 0 {
        order[left..=right].sort_by(|&a, &b| keys[a].cmp(&keys[b]));
        return;
    }
    let middle = left + (right - left) / 2;
    for (low, high) in [(left, middle), (middle, right), (left, middle)] {
        if keys[order[high]] < keys[order[low]] {
            order.swap(low, high);
        }
    }
    let pivot = order[middle];
    order.swap(middle, right - 1);
    let (mut i, mut j) = (left, right - 1);
    loop {
        i += 1;
        while keys[order[i]] < keys[pivot] {
            i += 1;
        }
        j -= 1;
        while keys[pivot] < keys[order[j]] {
            j -= 1;
        }
        if i >= j {
            break;
        }
        order.swap(i, j);
    }
    order.swap(i, right - 1);
    if i > left {
        quicksort(order, left, i - 1, keys, depth - 1);
    }
    if i < right {
        quicksort(order, i + 1, right, keys, depth - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::descending_order;

    #[test]
    fn sorts_descending() {
        let keys: Vec<u32> = (0..500).map(|i| (i * 7919) % 1009).collect();
        let order = descending_order(&keys);
        assert!(order.windows(2).all(|pair| keys[pair[0]] >= keys[pair[1]]));
        let mut seen = order.clone();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..500));
        assert!(descending_order::<u32>(&[]).is_empty());
    }

    #[test]
    fn few_ties_keep_their_order_and_a_long_table_reverses_them() {
        assert_eq!(descending_order(&[1, 1, 1]), [0, 1, 2]);
        let mut keys: Vec<u32> = (0..500).collect();
        keys.extend([1000, 1000, 1000]);
        assert_eq!(descending_order(&keys)[..3], [502, 501, 500]);
    }
}
