//! `A B^T`: every element is a dot product of two contiguous rows, in sixteen lanes.

use super::Span;
use crate::simd::{Kernel, LANES, Lanes};

/// Rows up to which the product waits for memory: every row of B is read from there for a few multiplications.
const FEW_ROWS: usize = 16;

pub(super) struct Dot<'a> {
    pub a: &'a [f32],
    pub a_stride: usize,
    pub b: &'a [f32],
    pub b_stride: usize,
    pub rows: Span,
    pub columns: Span,
    pub k: usize,
    /// Element (0, 0) of the whole result.
    pub out: *mut f32,
    pub out_stride: usize,
}

impl Kernel for Dot<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        if self.rows.is_empty() || self.columns.is_empty() {
            return;
        }
        assert!(self.a.len() >= (self.rows.end - 1) * self.a_stride + self.k, "linear: left operand");
        assert!(self.b.len() >= (self.columns.end - 1) * self.b_stride + self.k, "linear: right operand");
        // Few columns stay in the first cache while all rows of the task pass by.
        let mut column = self.columns.start;
        while column < self.columns.end {
            let width = 16.min(self.columns.end - column);
            let mut row = self.rows.start;
            while row < self.rows.end {
                let left = self.rows.end - row;
                // SAFETY: rows and columns are inside the operands by the assertions above, and the result's
                // rectangle belongs to this task.
                unsafe {
                    if left >= 4 {
                        let mut part = 0;
                        while part < width {
                            self.tile::<L, 4, 4>(row, column + part, 4.min(width - part));
                            part += 4;
                        }
                        row += 4;
                    } else if left >= 2 {
                        let mut part = 0;
                        while part < width {
                            self.tile::<L, 2, 8>(row, column + part, 8.min(width - part));
                            part += 8;
                        }
                        row += 2;
                    } else {
                        self.tile::<L, 1, 16>(row, column, width);
                        row += 1;
                    }
                }
            }
            column += 16;
        }
    }
}

impl Dot<'_> {
    /// `ROWS * COLUMNS = 16` elements, of which the first `count` columns are wanted.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const ROWS: usize, const COLUMNS: usize>(&self, row: usize, column: usize, count: usize) {
        // SAFETY: indices beyond `count` repeat the last column.
        unsafe {
            let a: [*const f32; ROWS] = std::array::from_fn(|r| self.a.as_ptr().add((row + r) * self.a_stride));
            let b: [*const f32; COLUMNS] =
                std::array::from_fn(|c| self.b.as_ptr().add((column + c.min(count - 1)) * self.b_stride));
            let mut sums = [[L::splat(0.0); COLUMNS]; ROWS];
            if L::WIDE {
                let (ahead, k) = (COLUMNS * self.b_stride, self.k);
                if self.rows.len() <= FEW_ROWS {
                    accumulate::<L, ROWS, COLUMNS, true>(&a, &b, k, ahead, &mut sums);
                } else {
                    accumulate::<L, ROWS, COLUMNS, false>(&a, &b, k, ahead, &mut sums);
                }
            } else {
                // Two by two (or one by four) sums fit the registers.
                let (rows, columns) = if ROWS == 1 { (1, 4) } else { (2, 2) };
                for r in (0..ROWS).step_by(rows) {
                    for c in (0..COLUMNS).step_by(columns) {
                        if ROWS == 1 {
                            let b: [*const f32; 4] = std::array::from_fn(|i| b[c + i]);
                            let mut part = [[L::splat(0.0); 4]; 1];
                            accumulate::<L, 1, 4, false>(&[a[r]], &b, self.k, 0, &mut part);
                            sums[r][c..c + 4].copy_from_slice(&part[0]);
                        } else {
                            let mut part = [[L::splat(0.0); 2]; 2];
                            accumulate::<L, 2, 2, false>(&[a[r], a[r + 1]], &[b[c], b[c + 1]], self.k, 0, &mut part);
                            for (i, part) in part.iter().enumerate() {
                                sums[r + i][c..c + 2].copy_from_slice(part);
                            }
                        }
                    }
                }
            }
            // `sum_each` permutes: element (r, c), the (COLUMNS r + c)th, comes from this place.
            let ordered: [L; LANES] = std::array::from_fn(|place| {
                let element = 4 * (place % 4) + place / 4;
                sums[element / COLUMNS][element % COLUMNS]
            });
            let elements = L::sum_each(ordered).to_array();
            for r in 0..ROWS {
                let to = self.out.add((row + r) * self.out_stride + column);
                let from = elements.as_ptr().add(r * COLUMNS);
                if count == COLUMNS {
                    std::ptr::copy_nonoverlapping(from, to, COLUMNS);
                } else {
                    std::ptr::copy_nonoverlapping(from, to, count);
                }
            }
        }
    }
}

/// Lane sums of every row of `a` with every row of `b`; with `PREFETCH`, the elements `ahead` of those of `b` are asked for.
#[inline(always)]
unsafe fn accumulate<L: Lanes, const ROWS: usize, const COLUMNS: usize, const PREFETCH: bool>(
    a: &[*const f32; ROWS],
    b: &[*const f32; COLUMNS],
    k: usize,
    ahead: usize,
    sums: &mut [[L; COLUMNS]; ROWS],
) {
    let mut acc = *sums;
    let mut at = 0;
    // SAFETY: the rows hold `k` values.
    unsafe {
        while at + LANES <= k {
            if PREFETCH {
                for b in b {
                    L::prefetch(b.wrapping_add(at + ahead));
                }
            }
            step(&mut acc, |r| L::load(a[r].add(at)), |c| L::load(b[c].add(at)));
            at += LANES;
        }
        if at < k {
            let rest = k - at;
            step(&mut acc, |r| L::load_first(a[r].add(at), rest), |c| L::load_first(b[c].add(at), rest));
        }
    }
    *sums = acc;
}

/// The shorter side stays in registers while the longer passes by.
#[inline(always)]
fn step<L: Lanes, const ROWS: usize, const COLUMNS: usize>(
    acc: &mut [[L; COLUMNS]; ROWS],
    a: impl Fn(usize) -> L,
    b: impl Fn(usize) -> L,
) {
    let mut left = [L::splat(0.0); ROWS];
    for (r, left) in left.iter_mut().enumerate() {
        *left = a(r);
    }
    for c in 0..COLUMNS {
        let right = b(c);
        for (left, acc) in left.iter().zip(acc.iter_mut()) {
            acc[c] = left.mul_add(right, acc[c]);
        }
    }
}
