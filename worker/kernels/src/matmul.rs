//! `out[t, r] = Σ_k x[t, k] · w[r, k] + bias[r]`

#![expect(unsafe_code, reason = "tasks write to interleaved places of one slice")]

mod activations;
mod tile;

use activations::Activations;
use tile::{Job, Span};

use crate::cpu::Disjoint;
use crate::matrix::PANEL_ROWS;
use crate::{Cpu, Matrix};

/// Products below which a second thread is not worth waking: a few microseconds of work.
const GRAIN: usize = 128 << 10;
/// Tasks per thread, so that a thread that started late leaves little for the others to wait for.
const TASKS_PER_THREAD: usize = 6;

/// `out[t, r] = Σ_k x[t, k] · w[r, k] (+ bias[r])`
///
/// `x`: `[tokens, cols]`, `out`: `[tokens, rows]`, both row-major. With
/// [`Compute::Bf16`](crate::Compute::Bf16) the elements of `x` are rounded to bf16 (nearest, ties
/// to even) first. Each sum runs over k in order, in f32, and the bias comes last.
///
/// # Panics
///
/// Panics if a length does not fit.
pub fn matmul(
    cpu: &Cpu,
    out: &mut [f32],
    x: &[f32],
    w: &Matrix,
    bias: Option<&[f32]>,
    tokens: usize,
) {
    assert_eq!(x.len(), tokens * w.cols(), "x is [{tokens}, {}]", w.cols());
    assert_eq!(out.len(), tokens * w.rows(), "out is [{tokens}, {}]", w.rows());
    assert!(bias.is_none_or(|bias| bias.len() == w.rows()), "bias is [{}]", w.rows());
    if out.is_empty() {
        return;
    }
    if w.cols() == 0 {
        out.chunks_exact_mut(w.rows()).for_each(|out| match bias {
            Some(bias) => out.copy_from_slice(bias),
            None => out.fill(0.0),
        });
        return;
    }
    let level = cpu.level();
    let mut packed = cpu.packed.borrow_mut();
    let activations = Activations::pack(cpu, &mut packed, x, w, tokens);
    let job = Job { w, activations: &activations, bias, out: Disjoint::new(out) };

    // Rows are dealt out first: a weight is then read once. Tokens are only where there are more
    // threads than panels.
    let panels = w.rows().div_ceil(PANEL_ROWS);
    let tiles = activations.tiles();
    let tasks = match panels * PANEL_ROWS * w.cols() * tokens {
        ..GRAIN => 1,
        _ if cpu.threads() == 1 => 1,
        _ => TASKS_PER_THREAD * cpu.threads(),
    };
    let panel_pieces = tasks.min(panels);
    let tile_pieces = tasks.div_ceil(panel_pieces).min(tiles);
    cpu.parallel(panel_pieces * tile_pieces, &|task| {
        let (i, j) = (task / tile_pieces, task % tile_pieces);
        let span = Span {
            panels: panels * i / panel_pieces..panels * (i + 1) / panel_pieces,
            tiles: tiles * j / tile_pieces..tiles * (j + 1) / tile_pieces,
        };
        // SAFETY: a task is a pair of a range of panels and a range of tiles, and ranges of a kind
        // do not overlap.
        unsafe { job.run(level, span) };
    });
}
