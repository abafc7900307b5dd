//! The inside of a product: some tokens times the 32 rows of a panel, with all sums in registers.
//!
//! For each step the panel's two lines are read once and every token's word is spread over the
//! lanes. Columns come in blocks, so that a block of weights is read from memory once and from a
//! near cache by every further tile; between blocks the sums wait in `out`, which changes nothing
//! about them.

#![expect(unsafe_code, reason = "the innermost loop reads through pointers, without bounds checks")]

use std::ops::Range;

use super::activations::{Activations, BLOCK_WORDS, STRIDE_WORDS, Words};
use crate::Matrix;
use crate::cpu::Disjoint;
use crate::matrix::{LANES, PANEL_ROWS};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx512, Dot};
use crate::simd::{Lanes, Level, Work};

/// How far ahead of use weights are asked for: the time of a memory access at full bandwidth.
const PREFETCH_WORDS: usize = 4096 / size_of::<u32>();
/// Up to this many tokens the weights come from memory faster than they are used.
const PREFETCH_TOKENS: usize = 4;

/// One product.
pub(super) struct Job<'a> {
    pub(super) w: &'a Matrix,
    pub(super) activations: &'a Activations<'a>,
    pub(super) bias: Option<&'a [f32]>,
    /// `[tokens, rows]`
    pub(super) out: Disjoint<'a, f32>,
}

/// The part of a product that one task computes. No two tasks share both a panel and a tile.
pub(super) struct Span {
    pub(super) panels: Range<usize>,
    pub(super) tiles: Range<usize>,
}

impl Job<'_> {
    /// Computes a part.
    ///
    /// # Safety
    ///
    /// Nobody else runs a span that shares both a panel and a tile with this one.
    pub(super) unsafe fn run(&self, level: Level, span: Span) {
        match (self.activations.words, level) {
            #[cfg(target_arch = "x86_64")]
            (Words::Pairs, Level::Avx512Bf16(lanes, dot)) => {
                // SAFETY: the value of `dot` proves that the machine has the instructions; the rest
                // is the caller's promise.
                unsafe { run_dots(self, span, Dots(lanes, dot)) }
            }
            (Words::Pairs, _) => unreachable!("pairs are packed for Avx512Bf16 alone"),
            (Words::F32, _) => level.run(Singles(self, span)),
            (Words::RoundedF32, _) => level.run(Widened(self, span)),
        }
    }
}

/// How one step's lines of weights and words of activations become products.
trait Product: Copy {
    type L: Lanes;
    /// Words of activations that face a step.
    const WORDS: usize;

    fn lanes(self) -> Self::L;

    /// Adds one step's products to the sums of N lines of rows.
    ///
    /// # Safety
    ///
    /// `w` is valid for N lines of a step; `x`, and `x + t · STRIDE_WORDS` for each token, for the
    /// words that face them.
    unsafe fn step<const T: usize, const N: usize>(
        self,
        sums: &mut [[<Self::L as Lanes>::V; N]; T],
        w: *const u32,
        x: *const u32,
    );
}

/// Weights in f32.
#[derive(Clone, Copy)]
struct F32<L>(L);

impl<L: Lanes> Product for F32<L> {
    type L = L;
    const WORDS: usize = 1;

    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }

    #[inline(always)]
    unsafe fn step<const T: usize, const N: usize>(
        self,
        sums: &mut [[L::V; N]; T],
        w: *const u32,
        x: *const u32,
    ) {
        let lanes = self.0;
        let mut lines = [lanes.splat(0.0); N];
        for (n, line) in lines.iter_mut().enumerate() {
            // SAFETY: the caller's promise, and an f32 is a word.
            *line = unsafe { lanes.load(w.add(n * LANES).cast()) };
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let x = lanes.splat(f32::from_bits(unsafe { *x.add(t * STRIDE_WORDS) }));
            for (sum, &line) in sums.iter_mut().zip(&lines) {
                *sum = lanes.fma(x, line, *sum);
            }
        }
    }
}

/// Weights in bf16, widened to f32.
#[derive(Clone, Copy)]
struct Wide<L>(L);

impl<L: Lanes> Product for Wide<L> {
    type L = L;
    const WORDS: usize = 2;

    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }

    #[inline(always)]
    unsafe fn step<const T: usize, const N: usize>(
        self,
        sums: &mut [[L::V; N]; T],
        w: *const u32,
        x: *const u32,
    ) {
        let lanes = self.0;
        let mut lines = [(lanes.splat(0.0), lanes.splat(0.0)); N];
        for (n, line) in lines.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *line = unsafe { lanes.load_pairs(w.add(n * LANES)) };
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise; two words face a step.
            let x = unsafe { x.add(t * STRIDE_WORDS).cast::<[f32; 2]>().read() };
            let (first, second) = (lanes.splat(x[0]), lanes.splat(x[1]));
            for (sum, &(w_first, _)) in sums.iter_mut().zip(&lines) {
                *sum = lanes.fma(first, w_first, *sum);
            }
            for (sum, &(_, w_second)) in sums.iter_mut().zip(&lines) {
                *sum = lanes.fma(second, w_second, *sum);
            }
        }
    }
}

/// Weights in bf16, multiplied in pairs.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Dots(Avx512, Dot);

#[cfg(target_arch = "x86_64")]
impl Product for Dots {
    type L = Avx512;
    const WORDS: usize = 1;

    #[inline(always)]
    fn lanes(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    unsafe fn step<const T: usize, const N: usize>(
        self,
        sums: &mut [[std::arch::x86_64::__m512; N]; T],
        w: *const u32,
        x: *const u32,
    ) {
        let Self(lanes, dot) = self;
        let mut lines = [lanes.splat_word(0); N];
        for (n, line) in lines.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *line = unsafe { lanes.load_words(w.add(n * LANES)) };
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let x = lanes.splat_word(unsafe { *x.add(t * STRIDE_WORDS) });
            for (sum, &line) in sums.iter_mut().zip(&lines) {
                *sum = dot.add_dots(*sum, line, x);
            }
        }
    }
}

struct Singles<'a>(&'a Job<'a>, Span);

impl Work for Singles<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        // SAFETY: made by `Job::run` alone, whose caller has promised it.
        unsafe { run(self.0, self.1, F32(lanes)) };
    }
}

struct Widened<'a>(&'a Job<'a>, Span);

impl Work for Widened<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        // SAFETY: made by `Job::run` alone, whose caller has promised it.
        unsafe { run(self.0, self.1, Wide(lanes)) };
    }
}

/// # Safety
///
/// The machine has the instructions named, which a [`Dot`] proves; and as of [`Job::run`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn run_dots(job: &Job<'_>, span: Span, product: Dots) {
    // SAFETY: the caller's promise.
    unsafe { run(job, span, product) };
}

/// # Safety
///
/// As of [`Job::run`].
#[inline(always)]
unsafe fn run<P: Product>(job: &Job<'_>, span: Span, product: P) {
    let (steps, block_steps) = (job.w.steps(), BLOCK_WORDS / P::WORDS);
    for panel in span.panels {
        let w = &job.w.lanes()[panel * steps * PANEL_ROWS..][..steps * PANEL_ROWS];
        for block in 0..job.activations.blocks() {
            let first = block * block_steps;
            let w = &w[first * PANEL_ROWS..steps.min(first + block_steps) * PANEL_ROWS];
            for tile in span.tiles.clone() {
                let tile = job.activations.bounds(tile);
                let part = Part {
                    w,
                    x: job.activations.block(&tile, block),
                    token: tile.start,
                    row: panel * PANEL_ROWS,
                    first: block == 0,
                    last: block + 1 == job.activations.blocks(),
                };
                // SAFETY: the caller's promise.
                unsafe {
                    match tile.len() {
                        1 => part.run::<P, 1>(job, product),
                        2 => part.run::<P, 2>(job, product),
                        3 => part.run::<P, 3>(job, product),
                        4 if P::L::TOKENS >= 4 => part.run::<P, 4>(job, product),
                        5 if P::L::TOKENS >= 5 => part.run::<P, 5>(job, product),
                        6 if P::L::TOKENS >= 6 => part.run::<P, 6>(job, product),
                        7 if P::L::TOKENS >= 7 => part.run::<P, 7>(job, product),
                        8 if P::L::TOKENS >= 8 => part.run::<P, 8>(job, product),
                        9 if P::L::TOKENS >= 9 => part.run::<P, 9>(job, product),
                        10 if P::L::TOKENS >= 10 => part.run::<P, 10>(job, product),
                        11 if P::L::TOKENS >= 11 => part.run::<P, 11>(job, product),
                        12 if P::L::TOKENS >= 12 => part.run::<P, 12>(job, product),
                        tokens => unreachable!("a tile of {tokens} tokens"),
                    }
                }
            }
        }
    }
}

/// One tile, one panel, one block of columns.
struct Part<'a> {
    /// `[step][32]`
    w: &'a [u32],
    /// `[token][STRIDE_WORDS]`
    x: &'a [u32],
    /// The tile's first token.
    token: usize,
    /// The panel's first row.
    row: usize,
    first: bool,
    last: bool,
}

impl Part<'_> {
    /// Computes both lines of rows, at once if the registers hold their sums.
    ///
    /// # Safety
    ///
    /// No other task has this panel and this tile, so none touches these rows of these tokens.
    #[inline(always)]
    unsafe fn run<P: Product, const T: usize>(&self, job: &Job<'_>, product: P) {
        // SAFETY: the caller's promise.
        unsafe {
            if 2 * T <= P::L::SUMS {
                self.lines::<P, T, 2>(job, product, 0);
            } else {
                self.lines::<P, T, 1>(job, product, 0);
                self.lines::<P, T, 1>(job, product, 1);
            }
        }
    }

    /// Computes N lines of rows from line `line` on.
    ///
    /// # Safety
    ///
    /// As of [`Part::run`].
    #[inline(always)]
    unsafe fn lines<P: Product, const T: usize, const N: usize>(
        &self,
        job: &Job<'_>,
        product: P,
        line: usize,
    ) {
        let lanes = product.lanes();
        let row = self.row + line * LANES;
        let rows = (N * LANES).min(job.w.rows().saturating_sub(row));
        if rows == 0 {
            return;
        }
        let start = |t: usize| (self.token + t) * job.w.rows() + row;
        let mut sums = [[lanes.splat(0.0); N]; T];
        if !self.first {
            for (t, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise; the last borrow of these sums has ended.
                let so_far = unsafe { job.out.part(start(t), rows) };
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = lanes.load_slice(&so_far[rows.min(n * LANES)..]);
                }
            }
        }

        let steps = self.w.len() / PANEL_ROWS;
        assert!(self.x.len() == T * STRIDE_WORDS, "{} words for {T} tokens", self.x.len());
        assert!(steps * P::WORDS <= BLOCK_WORDS && line + N <= 2, "{steps} steps in a block");
        let (mut w, mut x) = (self.w[..steps * PANEL_ROWS].as_ptr(), self.x.as_ptr());
        w = w.wrapping_add(line * LANES);
        for _ in 0..steps {
            if T <= PREFETCH_TOKENS {
                for n in 0..N {
                    lanes.prefetch(w.wrapping_add(PREFETCH_WORDS + n * LANES));
                }
            }
            // SAFETY: `w` is at line `line` of one of the slice's steps, which have two. A token's
            // words are at most BLOCK_WORDS, as asserted, so `x` with T strides stays in its slice.
            unsafe { product.step(&mut sums, w, x) };
            w = w.wrapping_add(PANEL_ROWS);
            x = x.wrapping_add(P::WORDS);
        }

        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise; the last borrow of these sums has ended.
            let out = unsafe { job.out.part(start(t), rows) };
            for (n, sum) in sums.iter_mut().enumerate() {
                let first = rows.min(n * LANES);
                if let (true, Some(bias)) = (self.last, job.bias) {
                    *sum = lanes.add(*sum, lanes.load_slice(&bias[row + first..row + rows]));
                }
                lanes.store_slice(&mut out[first..], *sum);
            }
        }
    }
}
