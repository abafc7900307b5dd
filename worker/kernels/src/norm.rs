//! `out[t, :] = x[t, :] / rms(x[t, :]) · weight`

#![expect(unsafe_code, reason = "tasks write to their own rows of one slice")]

use crate::cpu::Disjoint;
use crate::matrix::LANES;
use crate::simd::{Lanes, Work};
use crate::{Cpu, add, twin};

/// `out[t, :] = x[t, :] / √(mean(x[t, :]²) + eps) · weight`
///
/// `x`, `out`: `[tokens, hidden]`, row-major; `weight`: `[hidden]`. Sums in f32.
///
/// # Panics
///
/// Panics if a length does not fit.
pub fn rms_norm(cpu: &Cpu, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32, tokens: usize) {
    let hidden = weight.len();
    assert_eq!(x.len(), tokens * hidden, "x is [{tokens}, {hidden}]");
    assert_eq!(out.len(), x.len(), "out is [{tokens}, {hidden}]");
    if out.is_empty() {
        return;
    }
    let (level, out) = (cpu.level(), Disjoint::new(out));
    cpu.parallel_rows(tokens, hidden, &|rows| {
        // SAFETY: ranges of one call do not overlap.
        let out = unsafe { out.part(rows.start * hidden, rows.len() * hidden) };
        level.run(RmsNorm { out, x: &x[rows.start * hidden..], weight, eps });
    });
}

/// `x += y`, then `out[t, :] = x[t, :] / √(mean(x[t, :]²) + eps) · weight`
///
/// `x`, `y`, `out`: `[tokens, hidden]`, row-major; `weight`: `[hidden]`. The same bits as [`add`]
/// and [`rms_norm`].
///
/// # Panics
///
/// Panics if a length does not fit.
pub fn add_rms_norm(
    cpu: &Cpu,
    out: &mut [f32],
    x: &mut [f32],
    y: &[f32],
    weight: &[f32],
    eps: f32,
    tokens: usize,
) {
    add(cpu, x, y);
    rms_norm(cpu, out, x, weight, eps, tokens);
}

struct RmsNorm<'a> {
    out: &'a mut [f32],
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Work for RmsNorm<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { out, x, weight, eps } = self;
        let hidden = weight.len();
        for (out, x) in out.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)) {
            let mut squares = lanes.splat(0.0);
            for x in x.chunks(LANES) {
                let x = lanes.load_slice(x);
                squares = lanes.fma(x, x, squares);
            }
            let scale = lanes.splat(twin::rms_scale(lanes.sum(squares), hidden, eps));
            for ((out, x), weight) in
                out.chunks_mut(LANES).zip(x.chunks(LANES)).zip(weight.chunks(LANES))
            {
                let scaled = lanes.mul(lanes.load_slice(x), scale);
                lanes.store_slice(out, lanes.mul(scaled, lanes.load_slice(weight)));
            }
        }
    }
}
