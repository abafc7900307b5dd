//! The elementwise ops: residual sum and gated activation.

#![expect(unsafe_code, reason = "tasks write to their own rows of one slice")]

use crate::Cpu;
use crate::cpu::Disjoint;
use crate::matrix::LANES;
use crate::simd::{Lanes, Work};

/// `x += y`, element by element.
///
/// # Panics
///
/// Panics if the lengths differ.
pub fn add(cpu: &Cpu, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "x and y have one shape");
    let out = Disjoint::new(x);
    cpu.parallel_rows(y.len().div_ceil(LANES), LANES, &|lines| {
        let (start, end) = (lines.start * LANES, y.len().min(lines.end * LANES));
        // SAFETY: ranges of one call do not overlap.
        let x = unsafe { out.part(start, end - start) };
        x.iter_mut().zip(&y[start..end]).for_each(|(x, y)| *x += y);
    });
}

/// `out[t, i] = silu(gate[t, i]) · up[t, i]`, where `silu(g) = g / (1 + exp(−g))`
///
/// `gate_up`: `[tokens, 2·ffn]`, each row the gate first; `out`: `[tokens, ffn]`.
///
/// # Panics
///
/// Panics if a length does not fit.
pub fn silu_mul(cpu: &Cpu, out: &mut [f32], gate_up: &[f32], tokens: usize) {
    assert_eq!(gate_up.len(), 2 * out.len(), "gate_up is twice as wide as out");
    if out.is_empty() {
        return;
    }
    assert!(tokens > 0 && out.len().is_multiple_of(tokens), "out is [{tokens}, ffn]");
    let ffn = out.len() / tokens;
    let (level, out) = (cpu.level(), Disjoint::new(out));
    // An exponential and a division cost about four loads.
    cpu.parallel_rows(tokens, 4 * ffn, &|rows| {
        // SAFETY: ranges of one call do not overlap.
        let out = unsafe { out.part(rows.start * ffn, rows.len() * ffn) };
        level.run(SiluMul { out, gate_up: &gate_up[2 * ffn * rows.start..], ffn });
    });
}

struct SiluMul<'a> {
    out: &'a mut [f32],
    gate_up: &'a [f32],
    ffn: usize,
}

impl Work for SiluMul<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { out, gate_up, ffn } = self;
        for (out, gate_up) in out.chunks_exact_mut(ffn).zip(gate_up.chunks_exact(2 * ffn)) {
            let (gate, up) = gate_up.split_at(ffn);
            for ((out, g), u) in out.chunks_mut(LANES).zip(gate.chunks(LANES)).zip(up.chunks(LANES))
            {
                let (g, u) = (lanes.load_slice(g), lanes.load_slice(u));
                let e = lanes.exp(lanes.mul(g, lanes.splat(-1.0)));
                let silu = lanes.div(g, lanes.add(lanes.splat(1.0), e));
                lanes.store_slice(out, lanes.mul(silu, u));
            }
        }
    }
}
