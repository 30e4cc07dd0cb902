//! `C[m, n] = sum_k A[m, k] B[k, n]` with contiguous rows of B: one value of A times sixteen of B, in order of k.

use super::{Span, Weight};
use crate::simd::{Kernel, LANES, Lanes};

/// Summands per pass: the part of B that a pass reads stays in the second cache.
const PASS: usize = 256;
/// Rows from which on it pays to copy that part together first.
const PACKED_ROWS: usize = 48;
/// How many rows of B ahead that copy asks for: they lie too far apart for the machine to foresee.
const AHEAD: usize = 16;

/// Sixteen values that lie in one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

pub(super) struct Outer<'a, W> {
    pub a: &'a [f32],
    /// Of the rows and columns of A, so that it may be transposed.
    pub a_strides: [usize; 2],
    pub b: &'a [W],
    pub b_stride: usize,
    pub rows: Span,
    pub columns: Span,
    pub k: usize,
    /// Element (0, 0) of the whole result.
    pub out: *mut f32,
    pub out_stride: usize,
}

impl<W: Weight> Kernel for Outer<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        if self.rows.is_empty() || self.columns.is_empty() {
            return;
        }
        let last = (self.rows.end - 1) * self.a_strides[0] + (self.k - 1) * self.a_strides[1];
        assert!(self.a.len() > last, "linear: left operand");
        assert!(self.b.len() >= (self.k - 1) * self.b_stride + self.columns.end, "linear: right operand");
        let wide = L::WIDE && self.rows.len() >= PACKED_ROWS && self.columns.len() >= 4 * LANES;
        let mut packed = vec![Line([0.0; LANES]); if wide { PASS.min(self.k) * 4 } else { 0 }];
        for from in (0..self.k).step_by(PASS) {
            let pass = from..self.k.min(from + PASS);
            let mut column = self.columns.start;
            while column < self.columns.end {
                let left = self.columns.end - column;
                // SAFETY: rows, columns and k are inside the operands by the assertions above, and the result's
                // rectangle belongs to this task.
                unsafe {
                    let b = self.b.as_ptr().add(pass.start * self.b_stride + column);
                    if wide && left >= 4 * LANES {
                        let lines = packed.as_mut_ptr().cast::<f32>();
                        for k in 0..pass.len() {
                            for v in 0..4 {
                                L::prefetch(b.wrapping_add((k + AHEAD) * self.b_stride + v * LANES).cast());
                                let right: L = W::load(b.add(k * self.b_stride + v * LANES));
                                right.store(lines.add((4 * k + v) * LANES));
                            }
                        }
                        self.panel::<L, f32, 4>(lines, 4 * LANES, column, LANES, &pass);
                        column += 4 * LANES;
                    } else if L::WIDE && left >= 4 * LANES {
                        self.panel::<L, W, 4>(b, self.b_stride, column, LANES, &pass);
                        column += 4 * LANES;
                    } else if L::WIDE && left >= 2 * LANES {
                        self.panel::<L, W, 2>(b, self.b_stride, column, LANES, &pass);
                        column += 2 * LANES;
                    } else {
                        self.panel::<L, W, 1>(b, self.b_stride, column, LANES.min(left), &pass);
                        column += LANES;
                    }
                }
            }
        }
    }
}

impl<W: Weight> Outer<'_, W> {
    /// All rows of the task for `VECTORS` vectors of columns (`count` lanes of the only one at the edge), which start at
    /// `b` and lie `b_stride` apart.
    #[inline(always)]
    unsafe fn panel<L: Lanes, B: Weight, const VECTORS: usize>(
        &self,
        b: *const B,
        b_stride: usize,
        column: usize,
        count: usize,
        pass: &Span,
    ) {
        let mut row = self.rows.start;
        while row < self.rows.end {
            let left = self.rows.end - row;
            // SAFETY: the caller's.
            unsafe {
                if L::WIDE && left >= 6 {
                    self.tile::<L, B, 6, VECTORS>(b, b_stride, row, column, count, pass);
                    row += 6;
                } else if left >= 4 {
                    self.tile::<L, B, 4, VECTORS>(b, b_stride, row, column, count, pass);
                    row += 4;
                } else if left >= 2 {
                    self.tile::<L, B, 2, VECTORS>(b, b_stride, row, column, count, pass);
                    row += 2;
                } else {
                    self.tile::<L, B, 1, VECTORS>(b, b_stride, row, column, count, pass);
                    row += 1;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<L: Lanes, B: Weight, const ROWS: usize, const VECTORS: usize>(
        &self,
        mut b: *const B,
        b_stride: usize,
        row: usize,
        column: usize,
        count: usize,
        pass: &Span,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let read = |from: *const f32| {
                if count == LANES { L::load(from) } else { L::load_first(from, count) }
            };
            let out = self.out.add(row * self.out_stride + column);
            let mut acc = [[L::splat(0.0); VECTORS]; ROWS];
            if pass.start > 0 {
                for (r, acc) in acc.iter_mut().enumerate() {
                    for (v, acc) in acc.iter_mut().enumerate() {
                        *acc = read(out.add(r * self.out_stride + v * LANES));
                    }
                }
            }
            let [row_stride, k_stride] = self.a_strides;
            let mut a = self.a.as_ptr().add(row * row_stride + pass.start * k_stride);
            for _ in pass.clone() {
                let mut right = [L::splat(0.0); VECTORS];
                for (v, right) in right.iter_mut().enumerate() {
                    let from = b.add(v * LANES);
                    *right = if count == LANES { B::load(from) } else { B::load_first(from, count) };
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let left = L::splat(*a.add(r * row_stride));
                    for (acc, right) in acc.iter_mut().zip(right) {
                        *acc = left.mul_add(right, *acc);
                    }
                }
                a = a.wrapping_add(k_stride);
                b = b.wrapping_add(b_stride);
            }
            for (r, acc) in acc.into_iter().enumerate() {
                for (v, acc) in acc.into_iter().enumerate() {
                    let to = out.add(r * self.out_stride + v * LANES);
                    if count == LANES { acc.store(to) } else { acc.store_first(to, count) }
                }
            }
        }
    }
}
