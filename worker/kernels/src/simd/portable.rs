//! Sixteen lanes in plain Rust: what runs where nothing wider is known, and what the others must
//! equal.

#![expect(unsafe_code, reason = "lanes are read through pointers, as on every instruction set")]

use half::bf16;

use super::Lanes;
use crate::matrix::LANES;
use crate::twin;

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

impl Lanes for Portable {
    type V = [f32; LANES];
    const SUMS: usize = 8;
    const TOKENS: usize = 4;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| twin::larger(a[i], b[i]))
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        each(|i| twin::smaller(a[i], b[i]))
    }

    #[inline(always)]
    fn exp2_of_rounded(self, rounded: Self::V) -> Self::V {
        each(|i| twin::exp::exp2_of_rounded(rounded[i]))
    }

    #[inline(always)]
    fn first(self, count: usize, a: Self::V, b: Self::V) -> Self::V {
        each(|i| if i < count { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn sum(self, a: Self::V) -> f32 {
        twin::fold_lanes(a, |a, b| a + b)
    }

    #[inline(always)]
    fn largest(self, a: Self::V) -> f32 {
        twin::fold_lanes(a, twin::larger)
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self::V>().write_unaligned(a) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> Self::V {
        // SAFETY: the caller's promise.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        each(|i| bf16::from_bits(bits[i]).to_f32())
    }

    #[inline(always)]
    unsafe fn load_pairs(self, from: *const u32) -> (Self::V, Self::V) {
        // SAFETY: the caller's promise.
        let pairs = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        (each(|i| f32::from_bits(pairs[i] << 16)), each(|i| f32::from_bits(pairs[i] & 0xffff_0000)))
    }

    #[inline(always)]
    fn prefetch(self, _address: *const u32) {}
}
