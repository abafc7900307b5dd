//! `out[t, r] = Σ_k x[t, k] · w[r, k] + bias[r]`

use half::bf16;

use crate::{Compute, Cpu, Matrix};

/// `out[t, r] = Σ_k x[t, k] · w[r, k] (+ bias[r])`
///
/// `x`: `[tokens, cols]`, `out`: `[tokens, rows]`, both row-major. With [`Compute::Bf16`] the elements of `x` are rounded to bf16 (nearest,
/// ties to even) first. Each sum runs over k in order, in f32, and the bias comes last.
///
/// # Panics
///
/// Panics if a length does not fit.
pub fn matmul(
    _cpu: &Cpu,
    out: &mut [f32],
    x: &[f32],
    w: &Matrix,
    bias: Option<&[f32]>,
    tokens: usize,
) {
    assert_eq!(x.len(), tokens * w.cols(), "x is [{tokens}, {}]", w.cols());
    assert_eq!(out.len(), tokens * w.rows(), "out is [{tokens}, {}]", w.rows());
    assert!(bias.is_none_or(|bias| bias.len() == w.rows()), "bias is [{}]", w.rows());
    let mut row = vec![0.0; w.cols()];
    for r in 0..w.rows() {
        w.row(r, &mut row);
        for t in 0..tokens {
            let x = &x[t * w.cols()..][..w.cols()];
            let sum = x.iter().zip(&row).fold(0.0f32, |sum, (&x, &w_rk)| {
                let x = match w.compute() {
                    Compute::F32 => x,
                    Compute::Bf16 => bf16::from_f32(x).to_f32(),
                };
                x.mul_add(w_rk, sum)
            });
            out[t * w.rows() + r] = sum + bias.map_or(0.0, |bias| bias[r]);
        }
    }
}
