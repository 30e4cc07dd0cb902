//! Slices seen sixteen lanes at a time, with the last lanes masked.

use std::mem::MaybeUninit;

use super::{LANES, Lanes};

/// Up to sixteen consecutive elements of a row.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    from: usize,
    count: usize,
}

/// A row to read.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a>(&'a [f32]);

/// A row to write; one of `MaybeUninit<f32>` cannot be read before it is filled.
pub(crate) struct RowMut<'a, T = f32>(&'a mut [T]);

/// Memory of one f32, written or not.
///
/// # Safety
/// The type must have the layout of an f32, and every f32 must be a value of it.
pub(crate) unsafe trait Slot {}

// SAFETY: it is the type itself.
unsafe impl Slot for f32 {}
// SAFETY: promised by the type's documentation.
unsafe impl Slot for MaybeUninit<f32> {}

impl<'a> Row<'a> {
    #[inline(always)]
    pub(crate) fn new(values: &'a [f32]) -> Self {
        Self(values)
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The elements of a span, zeros in the lanes behind it.
    #[inline(always)]
    pub(crate) fn get<L: Lanes>(&self, span: Span) -> L {
        assert!(span.from + span.count <= self.0.len(), "read past the end of a row");
        // SAFETY: the span lies inside the row.
        unsafe {
            let from = self.0.as_ptr().add(span.from);
            if span.count == LANES { L::load(from) } else { L::load_first(from, span.count) }
        }
    }

    /// The sum of products over the row: one running sum of sixteen lanes, added at the end.
    #[inline(always)]
    pub(crate) fn sum<L: Lanes>(&self, factors: impl Fn(Span) -> (L, L)) -> f32 {
        let mut sum = L::splat(0.0);
        for_each_span(self.0.len(), |span| {
            let (a, b) = factors(span);
            sum = a.mul_add(b, sum);
        });
        sum.sum()
    }
}

impl<'a, T: Slot> RowMut<'a, T> {
    #[inline(always)]
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Self(values)
    }

    /// Writes every element, and returns what is then a row of values.
    #[inline(always)]
    pub(crate) fn fill<L: Lanes>(mut self, value: impl Fn(Span) -> L) -> &'a mut [f32] {
        for_each_span(self.0.len(), |span| self.set(span, value(span)));
        // SAFETY: the spans cover the row, so that each slot now holds an f32.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len()) }
    }

    /// Writes the elements of a span.
    #[inline(always)]
    pub(crate) fn set<L: Lanes>(&mut self, span: Span, value: L) {
        assert!(span.from + span.count <= self.0.len(), "write past the end of a row");
        // SAFETY: the span lies inside the row.
        unsafe {
            let to = self.0.as_mut_ptr().add(span.from).cast();
            if span.count == LANES { value.store(to) } else { value.store_first(to, span.count) }
        }
    }
}

impl RowMut<'_> {
    /// Replaces every element by a function of itself.
    #[inline(always)]
    pub(crate) fn update<L: Lanes>(&mut self, value: impl Fn(Span, L) -> L) {
        for_each_span(self.0.len(), |span| {
            let current = Row(self.0).get(span);
            self.set(span, value(span, current));
        });
    }

    /// The elements of a span, zeros in the lanes behind it.
    #[inline(always)]
    pub(crate) fn get<L: Lanes>(&self, span: Span) -> L {
        Row(self.0).get(span)
    }
}

/// Visits a row of `len` elements from front to back: full spans, then what is left.
///
/// There is one call of `visit`, so that it is always inlined: a closure compiled on its own would lack the features of
/// the level it runs at, and every lane operation in it would become a call.
#[inline(always)]
pub(crate) fn for_each_span(len: usize, mut visit: impl FnMut(Span)) {
    for index in 0..len.div_ceil(LANES) {
        let from = index * LANES;
        visit(Span { from, count: LANES.min(len - from) });
    }
}
