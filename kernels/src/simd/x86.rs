//! [`Lanes`] in AVX-512 (one register) and AVX2 (two registers).

use std::arch::x86_64::*;

use super::{Kernel, Lanes};

#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256, __m256);

/// # Safety
/// The CPU must have the listed features.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

/// # Safety
/// The CPU must have the listed features.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

/// The mask of the first `count` lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1u16 << count) - 1 }
}

// SAFETY of the whole block: values of `Avx512` exist only inside `run_avx512`.
impl Lanes for Avx512 {
    const WIDE: bool = true;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        unsafe { Self(_mm512_set1_ps(value)) }
    }
    #[inline(always)]
    fn prefetch(from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        unsafe { Self(_mm512_maskz_loadu_ps(first(count), from)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, first(count), self.0) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        unsafe { Self(_mm512_div_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        unsafe { Self(_mm512_min_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        unsafe { Self(_mm512_sqrt_ps(self.0)) }
    }
    #[inline(always)]
    fn zero_below(self, x: Self, bound: Self) -> Self {
        unsafe {
            let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x.0, bound.0);
            Self(_mm512_mask_mov_ps(self.0, below, _mm512_setzero_ps()))
        }
    }
    #[inline(always)]
    fn power_of_two(n: Self) -> Self {
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
        }
    }
    #[inline(always)]
    fn sum_each(rows: [Self; 16]) -> Self {
        // Every step adds the halves of two vectors and keeps both sums in one. A blend puts a half of each where it
        // stays, one shuffle brings the other halves: blends run on more ports than shuffles.
        unsafe {
            // Halves of sixteen lanes; rows 4i, 4i + 2 and 4i + 1, 4i + 3, which the next step interleaves.
            let mut pairs = [_mm512_setzero_ps(); 8];
            for (i, pair) in pairs.iter_mut().enumerate() {
                let first = 4 * (i / 2) + i % 2;
                let (a, b) = (rows[first].0, rows[first + 2].0);
                let stay = _mm512_mask_blend_ps(0xff00, a, b);
                let move_over = _mm512_shuffle_f32x4::<0b01_00_11_10>(a, b);
                *pair = _mm512_add_ps(stay, move_over);
            }
            // Halves of eight lanes: of rows 4i to 4i + 3, four lanes each.
            let mut fours = [_mm512_setzero_ps(); 4];
            for (i, four) in fours.iter_mut().enumerate() {
                let (a, b) = (pairs[2 * i], pairs[2 * i + 1]);
                let stay = _mm512_mask_blend_ps(0xf0f0, a, b);
                let crossed = _mm512_mask_blend_ps(0xf0f0, b, a);
                let move_over = _mm512_shuffle_f32x4::<0b10_11_00_01>(crossed, crossed);
                *four = _mm512_add_ps(stay, move_over);
            }
            let mut halves = [_mm512_setzero_ps(); 2];
            for (i, half) in halves.iter_mut().enumerate() {
                let (a, b) = (fours[2 * i], fours[2 * i + 1]);
                let stay = _mm512_mask_blend_ps(0xcccc, a, b);
                let move_over = _mm512_shuffle_ps::<0b01_00_11_10>(a, b);
                *half = _mm512_add_ps(stay, move_over);
            }
            let even = _mm512_shuffle_ps::<0b10_00_10_00>(halves[0], halves[1]);
            let odd = _mm512_shuffle_ps::<0b11_01_11_01>(halves[0], halves[1]);
            Self(_mm512_add_ps(even, odd))
        }
    }
    #[inline(always)]
    fn transpose(rows: [Self; 16]) -> [Self; 16] {
        unsafe {
            // Inside each 128-bit lane: 4x4 transposes of rows 4g..4g+4.
            let mut t = [_mm512_setzero_ps(); 16];
            for g in 0..4 {
                let (a, b, c, d) = (rows[4 * g].0, rows[4 * g + 1].0, rows[4 * g + 2].0, rows[4 * g + 3].0);
                let ab_low = _mm512_unpacklo_ps(a, b);
                let ab_high = _mm512_unpackhi_ps(a, b);
                let cd_low = _mm512_unpacklo_ps(c, d);
                let cd_high = _mm512_unpackhi_ps(c, d);
                t[4 * g] = _mm512_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low);
                t[4 * g + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low);
                t[4 * g + 2] = _mm512_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high);
                t[4 * g + 3] = _mm512_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high);
            }
            // t[4g+e] holds, in lane l, column 4l+e of rows 4g..4g+4: gather the four groups of one column.
            let mut out = [Self(_mm512_setzero_ps()); 16];
            for e in 0..4 {
                let (a, b, c, d) = (t[e], t[4 + e], t[8 + e], t[12 + e]);
                let ab_low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
                let ab_high = _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b);
                let cd_low = _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d);
                let cd_high = _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d);
                out[e] = Self(_mm512_shuffle_f32x4::<0b10_00_10_00>(ab_low, cd_low));
                out[4 + e] = Self(_mm512_shuffle_f32x4::<0b11_01_11_01>(ab_low, cd_low));
                out[8 + e] = Self(_mm512_shuffle_f32x4::<0b10_00_10_00>(ab_high, cd_high));
                out[12 + e] = Self(_mm512_shuffle_f32x4::<0b11_01_11_01>(ab_high, cd_high));
            }
            out
        }
    }
}

/// All-ones in the first `count <= 8` lanes.
#[inline(always)]
fn first_of_eight(count: usize) -> __m256i {
    const TABLE: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: count <= 8 keeps the eight values inside the table.
    unsafe { _mm256_loadu_si256(TABLE.as_ptr().add(8 - count.min(8)).cast()) }
}

/// Transposes eight rows of eight.
#[inline(always)]
fn transpose_eight(r: [__m256; 8]) -> [__m256; 8] {
    unsafe {
        let mut t = [_mm256_setzero_ps(); 8];
        for g in 0..2 {
            let ab_low = _mm256_unpacklo_ps(r[4 * g], r[4 * g + 1]);
            let ab_high = _mm256_unpackhi_ps(r[4 * g], r[4 * g + 1]);
            let cd_low = _mm256_unpacklo_ps(r[4 * g + 2], r[4 * g + 3]);
            let cd_high = _mm256_unpackhi_ps(r[4 * g + 2], r[4 * g + 3]);
            t[4 * g] = _mm256_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low);
            t[4 * g + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low);
            t[4 * g + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high);
            t[4 * g + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high);
        }
        let mut out = [_mm256_setzero_ps(); 8];
        for e in 0..4 {
            out[e] = _mm256_permute2f128_ps::<0x20>(t[e], t[4 + e]);
            out[4 + e] = _mm256_permute2f128_ps::<0x31>(t[e], t[4 + e]);
        }
        out
    }
}

// SAFETY of the whole block: values of `Avx2` exist only inside `run_avx2`.
impl Lanes for Avx2 {
    const WIDE: bool = false;
    #[inline(always)]
    fn splat(value: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }
    #[inline(always)]
    fn prefetch(from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        unsafe {
            let low = _mm256_maskload_ps(from, first_of_eight(count));
            if count <= 8 {
                return Self(low, _mm256_setzero_ps());
            }
            Self(low, _mm256_maskload_ps(from.add(8), first_of_eight(count - 8)))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            let eight = |from: *const u16| {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            };
            Self(eight(from), eight(from.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        unsafe {
            let eight = |from: *const i8| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())));
            Self(eight(from), eight(from.add(8)))
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        unsafe {
            _mm256_maskstore_ps(to, first_of_eight(count), self.0);
            if count > 8 {
                _mm256_maskstore_ps(to.add(8), first_of_eight(count - 8), self.1);
            }
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        unsafe { Self(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        unsafe { Self(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, addend.0), _mm256_fmadd_ps(self.1, factor.1, addend.1)) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        unsafe { Self(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        unsafe { Self(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        unsafe { Self(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
    }
    #[inline(always)]
    fn zero_below(self, x: Self, bound: Self) -> Self {
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_LT_OQ>(x.0, bound.0);
            let high = _mm256_cmp_ps::<_CMP_LT_OQ>(x.1, bound.1);
            Self(_mm256_andnot_ps(low, self.0), _mm256_andnot_ps(high, self.1))
        }
    }
    #[inline(always)]
    fn power_of_two(n: Self) -> Self {
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_add_epi32(_mm256_cvtps_epi32(n.0), bias);
            let high = _mm256_add_epi32(_mm256_cvtps_epi32(n.1), bias);
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)))
        }
    }
    #[inline(always)]
    fn sum_each(rows: [Self; 16]) -> Self {
        unsafe {
            let eight = rows.map(|row| _mm256_add_ps(row.0, row.1));
            // Lane halves added, two rows per register: [row 2i (4 values) | row 2i+1 (4 values)].
            let mut fours = [_mm256_setzero_ps(); 8];
            for (i, four) in fours.iter_mut().enumerate() {
                let (a, b) = (eight[2 * i], eight[2 * i + 1]);
                let low = _mm256_permute2f128_ps::<0x20>(a, b);
                let high = _mm256_permute2f128_ps::<0x31>(a, b);
                *four = _mm256_add_ps(low, high);
            }
            // Register j of each group of four rows: rows (4j+0 | 4j+1) at fours[2j], (4j+2 | 4j+3) at fours[2j+1].
            let finish = |a: __m256, b: __m256, c: __m256, d: __m256| {
                let ab =
                    _mm256_add_ps(_mm256_shuffle_ps::<0b01_00_01_00>(a, b), _mm256_shuffle_ps::<0b11_10_11_10>(a, b));
                let cd =
                    _mm256_add_ps(_mm256_shuffle_ps::<0b01_00_01_00>(c, d), _mm256_shuffle_ps::<0b11_10_11_10>(c, d));
                _mm256_add_ps(_mm256_shuffle_ps::<0b10_00_10_00>(ab, cd), _mm256_shuffle_ps::<0b11_01_11_01>(ab, cd))
            };
            Self(finish(fours[0], fours[2], fours[4], fours[6]), finish(fours[1], fours[3], fours[5], fours[7]))
        }
    }
    #[inline(always)]
    fn transpose(rows: [Self; 16]) -> [Self; 16] {
        let quarter = |from: usize, high: bool| {
            let r: [__m256; 8] = std::array::from_fn(|i| if high { rows[from + i].1 } else { rows[from + i].0 });
            transpose_eight(r)
        };
        let (a, b) = (quarter(0, false), quarter(8, false));
        let (c, d) = (quarter(0, true), quarter(8, true));
        std::array::from_fn(|i| if i < 8 { Self(a[i], b[i]) } else { Self(c[i - 8], d[i - 8]) })
    }
}
