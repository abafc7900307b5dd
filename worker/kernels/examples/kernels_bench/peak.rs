//! The most multiply-adds that an instruction set does: chains of them on registers, enough to hide
//! their latency.

#![expect(unsafe_code, reason = "instructions of a set may run only where the set exists")]

use std::hint::black_box;

use glint_kernels::{Compute, Isa};

const ROUNDS: usize = 100_000;
const CHAINS: usize = 12;

/// Multiplications and additions of one [`run`].
pub(crate) fn flops(isa: Isa, compute: Compute) -> f64 {
    let lanes = match (isa, compute) {
        (Isa::Portable, _) => 1,
        (Isa::Avx2, _) => 8,
        (Isa::Avx512Bf16, Compute::Bf16) => 32,
        (Isa::Avx512 | Isa::Avx512Bf16, _) => 16,
    };
    (2 * lanes * CHAINS * ROUNDS) as f64
}

/// Does them.
///
/// # Panics
///
/// Panics if this machine does not have the instructions.
pub(crate) fn run(isa: Isa, compute: Compute) {
    assert!(isa.is_available(), "this machine does not have {isa}");
    match (isa, compute) {
        (Isa::Portable, _) => portable(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the instructions, as asserted.
        (Isa::Avx2, _) => unsafe { x86::avx2() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx512Bf16, Compute::Bf16) => unsafe { x86::dot() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx512 | Isa::Avx512Bf16, _) => unsafe { x86::avx512() },
        #[cfg(not(target_arch = "x86_64"))]
        (Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16, _) => unreachable!("asserted above"),
    }
}

fn portable() {
    let mut sums = [0.5f32; CHAINS];
    let (a, b) = (black_box(0.999f32), black_box(0.001f32));
    for _ in 0..ROUNDS {
        sums.iter_mut().for_each(|sum| *sum = sum.mul_add(a, b));
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{CHAINS, ROUNDS};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2() {
        let mut sums = [_mm256_set1_ps(0.5); CHAINS];
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512() {
        let mut sums = [_mm512_set1_ps(0.5); CHAINS];
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn dot() {
        let mut sums = [_mm512_set1_ps(0.5); CHAINS];
        let pairs = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5), _mm512_set1_ps(black_box(0.25)));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
            }
        }
        black_box(sums);
    }
}
