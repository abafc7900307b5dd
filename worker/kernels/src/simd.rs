//! Sixteen lanes of f32, on every instruction set.
//!
//! [`Lanes`] says what the ops need; each instruction set implements it with the same results to
//! the bit, so an op is written once. A value of an implementing type is the proof that the machine
//! has the instructions, and [`Level`], which holds one, is made by looking. An op is a [`Work`],
//! because generic code is compiled with the wide instructions only where it is inlined into a
//! function that enables them: [`Level::run`] has those functions, and all below it is
//! `inline(always)`.

#![expect(unsafe_code, reason = "instructions of a set may run only where the set exists")]

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Dot};

use crate::Isa;
use crate::matrix::LANES;
use crate::twin::exp::{
    COEFFICIENTS, EXP_MAX, EXP_MIN, LN_2_HIGH, LN_2_LOW, LOG_2_E, ROUND_TO_INTEGER,
};

/// Sixteen lanes of f32. Whoever has a value may use the instructions.
///
/// # Safety
///
/// Of the methods that take a pointer: it is valid for what the method says, at any alignment.
pub(crate) trait Lanes: Copy {
    /// The sixteen values.
    type V: Copy;
    /// How many `V` of sums the registers hold beside what is added to them.
    const SUMS: usize;
    /// How many tokens a product has at a time: as many as have sums, for one line of rows at
    /// least.
    const TOKENS: usize;

    fn splat(self, value: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a · b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Returns `if a > b { a } else { b }`.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `if a < b { a } else { b }`.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns 2ⁿ for lanes that hold `ROUND_TO_INTEGER + n`.
    fn exp2_of_rounded(self, rounded: Self::V) -> Self::V;
    /// Returns the first `count` lanes of `a` and the others of `b`.
    fn first(self, count: usize, a: Self::V, b: Self::V) -> Self::V;
    /// Adds all lanes: 8 to 8, 4 to 4, 2 to 2, 1 to 1.
    fn sum(self, a: Self::V) -> f32;
    /// Returns the largest lane, compared in the order of `sum`.
    fn largest(self, a: Self::V) -> f32;

    /// Reads 16 f32.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Writes 16 f32.
    unsafe fn store(self, to: *mut f32, a: Self::V);
    /// Reads 16 bf16.
    unsafe fn load_bf16(self, from: *const u16) -> Self::V;
    /// Reads 16 pairs of bf16 and returns the first of each pair, and the second of each.
    unsafe fn load_pairs(self, from: *const u32) -> (Self::V, Self::V);
    /// Asks for a cache line that may be needed soon; any address will do.
    fn prefetch(self, address: *const u32);

    /// Returns eˣ within two roundings, the same bits as [`crate::twin::exp::exp`].
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let x = self.max(self.splat(EXP_MIN), x);
        let x = self.min(self.splat(EXP_MAX), x);
        let rounded = self.fma(x, self.splat(LOG_2_E), self.splat(ROUND_TO_INTEGER));
        let n = self.sub(rounded, self.splat(ROUND_TO_INTEGER));
        let r = self.fma(n, self.splat(-LN_2_HIGH), x);
        let r = self.fma(n, self.splat(-LN_2_LOW), r);
        let mut p = self.splat(COEFFICIENTS[0]);
        let mut i = 1;
        while i < COEFFICIENTS.len() {
            p = self.fma(p, r, self.splat(COEFFICIENTS[i]));
            i += 1;
        }
        let y = self.fma(p, self.mul(r, r), r);
        let y = self.add(y, self.splat(1.0));
        self.mul(y, self.exp2_of_rounded(rounded))
    }

    /// Reads the first `values.len().min(16)` lanes, and zeroes after them.
    #[inline(always)]
    fn load_slice(self, values: &[f32]) -> Self::V {
        if values.len() >= LANES {
            // SAFETY: the slice has 16 values.
            return unsafe { self.load(values.as_ptr()) };
        }
        let mut padded = [0.0; LANES];
        padded[..values.len()].copy_from_slice(values);
        // SAFETY: the array has 16 values.
        unsafe { self.load(padded.as_ptr()) }
    }

    /// Writes the first `out.len().min(16)` lanes.
    #[inline(always)]
    fn store_slice(self, out: &mut [f32], a: Self::V) {
        if out.len() >= LANES {
            // SAFETY: the slice has 16 values.
            return unsafe { self.store(out.as_mut_ptr(), a) };
        }
        let mut padded = [0.0; LANES];
        // SAFETY: the array has 16 values.
        unsafe { self.store(padded.as_mut_ptr(), a) };
        out.copy_from_slice(&padded[..out.len()]);
    }
}

/// Something to compute with whatever lanes there are.
pub(crate) trait Work {
    /// Computes it. Implementations are `#[inline(always)]`, and so is what they call.
    fn run<L: Lanes>(self, lanes: L);
}

/// An instruction set that this machine has.
#[derive(Clone, Copy)]
pub(crate) enum Level {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512, Dot),
}

impl Level {
    /// Returns the level of an instruction set, unless this machine has it not.
    pub(crate) fn new(isa: Isa) -> Option<Self> {
        if !isa.is_available() {
            return None;
        }
        Some(match isa {
            Isa::Portable => Self::Portable(Portable),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine was asked above.
            Isa::Avx2 => Self::Avx2(unsafe { Avx2::new() }),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine was asked above.
            Isa::Avx512 => Self::Avx512(unsafe { Avx512::new() }),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine was asked above.
            Isa::Avx512Bf16 => unsafe { Self::Avx512Bf16(Avx512::new(), Dot::new()) },
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => return None,
        })
    }

    pub(crate) fn isa(self) -> Isa {
        match self {
            Self::Portable(_) => Isa::Portable,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Isa::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16(..) => Isa::Avx512Bf16,
        }
    }

    /// Computes `work` with these instructions.
    pub(crate) fn run<W: Work>(self, work: W) {
        match self {
            Self::Portable(lanes) => work.run(lanes),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the value of `lanes` proves that the machine has the instructions.
            Self::Avx2(lanes) => unsafe { x86::run_avx2(work, lanes) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx512(lanes) | Self::Avx512Bf16(lanes, _) => unsafe {
                x86::run_avx512(work, lanes);
            },
        }
    }
}
