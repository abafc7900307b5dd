//! `out[t, :] = x[t, :] / rms(x[t, :]) · weight`

use crate::{Cpu, add, twin};

/// `out[t, :] = x[t, :] / √(mean(x[t, :]²) + eps) · weight`
///
/// `x`, `out`: `[tokens, hidden]`, row-major; `weight`: `[hidden]`. Sums in f32.
///
/// # Panics
///
/// Panics if a length does not fit.
pub fn rms_norm(_cpu: &Cpu, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32, tokens: usize) {
    assert_eq!(x.len(), tokens * weight.len(), "x is [{tokens}, {}]", weight.len());
    assert_eq!(out.len(), x.len(), "out is [{tokens}, {}]", weight.len());
    twin::rms_norm(out, x, weight, eps);
}

/// `x += y`, then `out[t, :] = x[t, :] / √(mean(x[t, :]²) + eps) · weight`, in one pass.
///
/// `x`, `y`, `out`: `[tokens, hidden]`, row-major; `weight`: `[hidden]`. The same bits as [`add`] and [`rms_norm`].
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
