//! The elementwise ops: residual sum and gated activation.

use crate::{Cpu, twin};

/// `x += y`, element by element.
///
/// # Panics
///
/// Panics if the lengths differ.
pub fn add(_cpu: &Cpu, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "x and y have one shape");
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `out[t, i] = silu(gate[t, i]) · up[t, i]`, where `silu(g) = g / (1 + exp(−g))`
///
/// `gate_up`: `[tokens, 2·ffn]`, each row the gate first; `out`: `[tokens, ffn]`.
///
/// # Panics
///
/// Panics if a length does not fit.
pub fn silu_mul(_cpu: &Cpu, out: &mut [f32], gate_up: &[f32], tokens: usize) {
    assert_eq!(gate_up.len(), 2 * out.len(), "gate_up is twice as wide as out");
    if tokens == 0 {
        return;
    }
    assert_eq!(out.len() % tokens, 0, "out is [{tokens}, ffn]");
    twin::silu_mul(out, gate_up, out.len() / tokens);
}
