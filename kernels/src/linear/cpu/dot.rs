//! `A B^T`: every element is a dot product of two contiguous rows, in sixteen lanes.

use super::{FEW_ROWS, Span, Weight};
use crate::simd::{Kernel, LANES, Lanes, sum_place};

/// Most vectors of sixteen in a cache line.
const MOST_VECTORS: usize = 4;

pub(super) struct Dot<'a, W> {
    pub a: &'a [f32],
    pub a_stride: usize,
    pub b: &'a [W],
    pub b_stride: usize,
    /// What the columns of the result are multiplied by at the end.
    pub scales: Option<&'a [f32]>,
    pub rows: Span,
    pub columns: Span,
    pub k: usize,
    /// Element (0, 0) of the whole result.
    pub out: *mut f32,
    pub out_stride: usize,
}

impl<W: Weight> Kernel for Dot<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        if self.rows.is_empty() || self.columns.is_empty() {
            return;
        }
        assert!(self.a.len() >= (self.rows.end - 1) * self.a_stride + self.k, "linear: left operand");
        assert!(self.b.len() >= (self.columns.end - 1) * self.b_stride + self.k, "linear: right operand");
        assert!(self.scales.is_none_or(|scales| scales.len() >= self.columns.end), "linear: scales");
        // Few columns stay in the first cache while all rows of the task pass by. What is narrow is widened again for
        // every few rows: that costs less than reading a wide copy.
        //
        // Few rows wait for the columns to come from memory: those that are next are asked for evenly over the time, by
        // every group of rows a share, and all groups take the same columns before the next come.
        let few = L::WIDE && self.rows.len() <= FEW_ROWS;
        let groups = self.rows.len() / 4;
        let grouped = self.rows.start + 4 * groups;
        let mut column = self.columns.start;
        while column < self.columns.end {
            let width = 16.min(self.columns.end - column);
            // SAFETY: rows and columns are inside the operands by the assertions above, and the result's rectangle
            // belongs to this task.
            unsafe {
                let parts = width.div_ceil(4);
                for turn in 0..groups * parts {
                    let (group, part) = if few { (turn % groups, turn / groups) } else { (turn / parts, turn % parts) };
                    let ask = if few { Ask::Share { index: group, of: groups } } else { Ask::Nothing };
                    let count = 4.min(width - 4 * part);
                    self.tile::<L, 4, 4>(self.rows.start + 4 * group, column + 4 * part, count, ask);
                }
                let ask = if few && groups == 0 { Ask::All } else { Ask::Nothing };
                let mut row = grouped;
                if self.rows.end - row >= 2 {
                    for part in (0..width).step_by(8) {
                        self.tile::<L, 2, 8>(row, column + part, 8.min(width - part), ask);
                    }
                    row += 2;
                }
                if row < self.rows.end {
                    self.tile::<L, 1, 16>(row, column, width, ask);
                }
            }
            column += 16;
        }
    }
}

/// Which of the next columns a tile asks for while it works on its own.
#[derive(Clone, Copy)]
enum Ask {
    Nothing,
    All,
    /// One in `of`, from `index` on.
    Share {
        index: usize,
        of: usize,
    },
}

impl<W: Weight> Dot<'_, W> {
    /// `ROWS * COLUMNS = 16` elements, of which the first `count` columns are wanted.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const ROWS: usize, const COLUMNS: usize>(
        &self,
        row: usize,
        column: usize,
        count: usize,
        ask: Ask,
    ) {
        // SAFETY: indices beyond `count` repeat the last column.
        unsafe {
            let a: [*const f32; ROWS] = std::array::from_fn(|r| self.a.as_ptr().add((row + r) * self.a_stride));
            let b: [*const W; COLUMNS] =
                std::array::from_fn(|c| self.b.as_ptr().add((column + c.min(count - 1)) * self.b_stride));
            let sums = if L::WIDE {
                let next = b.map(|b| b.wrapping_add(COLUMNS * self.b_stride));
                match ask {
                    Ask::Nothing => accumulate(&a, &b, self.k, |_| ()),
                    Ask::All => accumulate(&a, &b, self.k, |at| {
                        for column in next {
                            L::prefetch(column.wrapping_add(at).cast());
                        }
                    }),
                    Ask::Share { index, of } => accumulate(&a, &b, self.k, |at| {
                        for column in (index..COLUMNS).step_by(of) {
                            L::prefetch(next[column].wrapping_add(at).cast());
                        }
                    }),
                }
            } else {
                // Two by two (or one by four) sums fit the registers.
                let mut sums = [[L::splat(0.0); COLUMNS]; ROWS];
                let (rows, columns) = if ROWS == 1 { (1, 4) } else { (2, 2) };
                for r in (0..ROWS).step_by(rows) {
                    for c in (0..COLUMNS).step_by(columns) {
                        if ROWS == 1 {
                            let b: [*const W; 4] = std::array::from_fn(|i| b[c + i]);
                            let [part] = accumulate::<L, W, 1, 4>(&[a[r]], &b, self.k, |_| ());
                            sums[r][c..c + 4].copy_from_slice(&part);
                        } else {
                            let part = accumulate::<L, W, 2, 2>(&[a[r], a[r + 1]], &[b[c], b[c + 1]], self.k, |_| ());
                            for (i, part) in part.iter().enumerate() {
                                sums[r + i][c..c + 2].copy_from_slice(part);
                            }
                        }
                    }
                }
                sums
            };
            // `sum_each` permutes: element (r, c), the (COLUMNS r + c)th, comes from this place.
            let ordered: [L; LANES] = std::array::from_fn(|place| {
                let element = sum_place(place);
                sums[element / COLUMNS][element % COLUMNS]
            });
            let mut elements = L::sum_each(ordered).to_array();
            if let Some(scales) = self.scales {
                for r in 0..ROWS {
                    for c in 0..count {
                        elements[r * COLUMNS + c] *= scales[column + c];
                    }
                }
            }
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

/// Lane sums of every row of `a` with every row of `b`; `ask` is called with the place of every whole cache line.
#[inline(always)]
unsafe fn accumulate<L: Lanes, W: Weight, const ROWS: usize, const COLUMNS: usize>(
    a: &[*const f32; ROWS],
    b: &[*const W; COLUMNS],
    k: usize,
    ask: impl Fn(usize),
) -> [[L; COLUMNS]; ROWS] {
    let mut acc = [[L::splat(0.0); COLUMNS]; ROWS];
    let mut at = 0;
    // SAFETY: the rows hold `k` values.
    unsafe {
        while at + W::VECTORS * LANES <= k {
            ask(at);
            if W::VECTORS > 1 && ROWS <= 2 {
                line::<L, W, ROWS, COLUMNS>(&mut acc, a, b, at);
            } else {
                for v in 0..W::VECTORS {
                    let at = at + v * LANES;
                    step(&mut acc, |r| L::load(a[r].add(at)), |c| W::load(b[c].add(at)));
                }
            }
            at += W::VECTORS * LANES;
        }
        while at + LANES <= k {
            step(&mut acc, |r| L::load(a[r].add(at)), |c| W::load(b[c].add(at)));
            at += LANES;
        }
        if at < k {
            let rest = k - at;
            step(&mut acc, |r| L::load_first(a[r].add(at), rest), |c| W::load_first(b[c].add(at), rest));
        }
    }
    acc
}

/// A cache line of each row of `b` at once: rows that lie a power of two apart share their place in the cache, and many of
/// them would push each other out between one vector and the next.
#[inline(always)]
unsafe fn line<L: Lanes, W: Weight, const ROWS: usize, const COLUMNS: usize>(
    acc: &mut [[L; COLUMNS]; ROWS],
    a: &[*const f32; ROWS],
    b: &[*const W; COLUMNS],
    at: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut left = [[L::splat(0.0); MOST_VECTORS]; ROWS];
        for (left, a) in left.iter_mut().zip(a) {
            for (v, left) in left.iter_mut().enumerate() {
                if v < W::VECTORS {
                    *left = L::load(a.add(at + v * LANES));
                }
            }
        }
        for c in 0..COLUMNS {
            for v in 0..W::VECTORS {
                let right = W::load::<L>(b[c].add(at + v * LANES));
                for (left, acc) in left.iter().zip(acc.iter_mut()) {
                    acc[c] = left[v].mul_add(right, acc[c]);
                }
            }
        }
    }
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
