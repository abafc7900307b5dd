//! Sixteen lanes in one register of 512 bits, or in two of 256.

#![expect(unsafe_code, reason = "instructions of a set may run only where the set exists")]

use std::arch::x86_64::*;

use super::{Lanes, Work};
use crate::matrix::LANES;

/// Expands to an unsafe block around instructions that a value of the surrounding type vouches for.
macro_rules! proven {
    ($expression:expr) => {
        // SAFETY: the values of `Avx2`, `Avx512` and `Dot` are made by `new` alone, whose caller
        // knows that the machine has the instructions; pointers are the caller's promise, see
        // `Lanes`.
        unsafe { $expression }
    };
}

/// 256-bit lanes with fused multiply-add.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// 512-bit lanes.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// `vdpbf16ps`, beside [`Avx512`].
#[derive(Clone, Copy)]
pub(crate) struct Dot(());

impl Avx2 {
    /// # Safety
    ///
    /// The machine has avx2 and fma.
    pub(super) unsafe fn new() -> Self {
        Self(())
    }
}

impl Avx512 {
    /// # Safety
    ///
    /// The machine has avx2, fma, avx512f, avx512bw and avx512dq.
    pub(super) unsafe fn new() -> Self {
        Self(())
    }
}

impl Avx512 {
    /// Reads 16 words.
    ///
    /// # Safety
    ///
    /// `from` is valid for them.
    #[inline(always)]
    pub(crate) unsafe fn load_words(self, from: *const u32) -> __m512i {
        proven!(_mm512_loadu_si512(from.cast()))
    }

    /// Returns the word in every lane.
    #[inline(always)]
    pub(crate) fn splat_word(self, word: u32) -> __m512i {
        proven!(_mm512_set1_epi32(word as i32))
    }
}

impl Dot {
    /// # Safety
    ///
    /// The machine has what [`Avx512`] wants and avx512bf16.
    pub(super) unsafe fn new() -> Self {
        Self(())
    }

    /// Adds to each lane of `sums` the products of its pair of `w` and the pair `x`.
    #[inline(always)]
    pub(crate) fn add_dots(self, sums: __m512, w: __m512i, x: __m512i) -> __m512 {
        // The casts change the type of the register and nothing else.
        proven!(_mm512_dpbf16_ps(
            sums,
            std::mem::transmute::<__m512i, __m512bh>(w),
            std::mem::transmute::<__m512i, __m512bh>(x)
        ))
    }
}

/// # Safety
///
/// The machine has the instructions named, which an [`Avx2`] proves.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2<W: Work>(work: W, lanes: Avx2) {
    work.run(lanes);
}

/// # Safety
///
/// The machine has the instructions named, which an [`Avx512`] proves.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq")]
pub(super) unsafe fn run_avx512<W: Work>(work: W, lanes: Avx512) {
    work.run(lanes);
}

/// Adds eight lanes: 4 to 4, 2 to 2, 1 to 1.
#[inline(always)]
fn sum_8(_proof: Avx2, a: __m256) -> f32 {
    proven!({
        let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps::<1>(a, a)))
    })
}

/// Compares eight lanes in the order of [`sum_8`].
#[inline(always)]
fn largest_8(_proof: Avx2, a: __m256) -> f32 {
    proven!({
        let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
        _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps::<1>(a, a)))
    })
}

impl Lanes for Avx2 {
    type V = [__m256; 2];
    const SUMS: usize = 5;
    const TOKENS: usize = 5;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        proven!([_mm256_set1_ps(value); 2])
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        proven!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        proven!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        proven!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        proven!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        proven!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        proven!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        proven!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn exp2_of_rounded(self, rounded: Self::V) -> Self::V {
        proven!({
            let one = _mm256_castps_si256(_mm256_set1_ps(1.0));
            let low = _mm256_slli_epi32::<23>(_mm256_castps_si256(rounded[0]));
            let high = _mm256_slli_epi32::<23>(_mm256_castps_si256(rounded[1]));
            [
                _mm256_castsi256_ps(_mm256_add_epi32(low, one)),
                _mm256_castsi256_ps(_mm256_add_epi32(high, one)),
            ]
        })
    }

    #[inline(always)]
    fn first(self, count: usize, a: Self::V, b: Self::V) -> Self::V {
        proven!({
            let count = _mm256_set1_epi32(count.min(LANES) as i32);
            let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
            let low = _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, low));
            let high = _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, high));
            [_mm256_blendv_ps(b[0], a[0], low), _mm256_blendv_ps(b[1], a[1], high)]
        })
    }

    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        sum_8(self, proven!(_mm256_add_ps(a[0], a[1])))
    }

    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        largest_8(self, proven!(_mm256_max_ps(a[0], a[1])))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        proven!([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))])
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: Self::V) {
        proven!({
            _mm256_storeu_ps(to, a[0]);
            _mm256_storeu_ps(to.add(8), a[1]);
        });
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::V {
        proven!({
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(8).cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        })
    }

    #[inline(always)]
    unsafe fn load_pairs(self, from: *const u32) -> (Self::V, Self::V) {
        proven!({
            let low = _mm256_loadu_si256(from.cast());
            let high = _mm256_loadu_si256(from.add(8).cast());
            let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            (
                [
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
                ],
                [
                    _mm256_castsi256_ps(_mm256_and_si256(low, upper)),
                    _mm256_castsi256_ps(_mm256_and_si256(high, upper)),
                ],
            )
        })
    }

    #[inline(always)]
    fn prefetch(self, address: *const u32) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(address.cast()));
    }
}

impl Lanes for Avx512 {
    type V = __m512;
    const SUMS: usize = 24;
    const TOKENS: usize = 12;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        proven!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        proven!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        proven!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn exp2_of_rounded(self, rounded: Self::V) -> Self::V {
        proven!({
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(rounded));
            _mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_castps_si512(_mm512_set1_ps(1.0))))
        })
    }

    #[inline(always)]
    fn first(self, count: usize, a: Self::V, b: Self::V) -> Self::V {
        let mask = ((1u32 << count.min(LANES)) - 1) as __mmask16;
        proven!(_mm512_mask_blend_ps(mask, b, a))
    }

    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        let halves = proven!((_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a)));
        sum_8(Avx2(()), proven!(_mm256_add_ps(halves.0, halves.1)))
    }

    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        let halves = proven!((_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a)));
        largest_8(Avx2(()), proven!(_mm256_max_ps(halves.0, halves.1)))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        proven!(_mm512_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: Self::V) {
        proven!(_mm512_storeu_ps(to, a));
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::V {
        proven!({
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }

    #[inline(always)]
    unsafe fn load_pairs(self, from: *const u32) -> (Self::V, Self::V) {
        proven!({
            let pairs = _mm512_loadu_si512(from.cast());
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            (
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
                _mm512_castsi512_ps(_mm512_and_si512(pairs, upper)),
            )
        })
    }

    #[inline(always)]
    fn prefetch(self, address: *const u32) {
        proven!(_mm_prefetch::<_MM_HINT_T0>(address.cast()));
    }
}
