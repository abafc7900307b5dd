//! The inside of a product: some tokens times the 32 rows of a panel, with all sums in registers.
//!
//! For each step the panel's two lines are read once and every token's word is spread over the lanes. Columns come in blocks,
//! so that a block of weights is read from memory once and from a near cache by every further tile; between blocks the sums
//! wait in `out`, which changes nothing about them.

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
                // SAFETY: the value of `dot` proves that the machine has the instructions; the rest is the caller's promise.
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

    fn lanes(self) -> Self::L;

    /// Adds one step's products to the sums.
    ///
    /// # Safety
    ///
    /// `w` is valid for the 32 words of a step; `x`, and `x + t · STRIDE_WORDS` for each token, for the words that face them.
    unsafe fn step<const T: usize>(
        self,
        sums: &mut [[<Self::L as Lanes>::V; 2]; T],
        w: *const u32,
        x: *const u32,
    );
}

/// Weights in f32.
#[derive(Clone, Copy)]
struct F32<L>(L);

impl<L: Lanes> Product for F32<L> {
    type L = L;

    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }

    #[inline(always)]
    unsafe fn step<const T: usize>(self, sums: &mut [[L::V; 2]; T], w: *const u32, x: *const u32) {
        let lanes = self.0;
        // SAFETY: the caller's promise, and an f32 is a word.
        let w = unsafe { [lanes.load(w.cast()), lanes.load(w.add(LANES).cast())] };
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let x = lanes.splat(f32::from_bits(unsafe { *x.add(t * STRIDE_WORDS) }));
            sums[0] = lanes.fma(x, w[0], sums[0]);
            sums[1] = lanes.fma(x, w[1], sums[1]);
        }
    }
}

/// Weights in bf16, widened to f32.
#[derive(Clone, Copy)]
struct Wide<L>(L);

impl<L: Lanes> Product for Wide<L> {
    type L = L;

    #[inline(always)]
    fn lanes(self) -> L {
        self.0
    }

    #[inline(always)]
    unsafe fn step<const T: usize>(self, sums: &mut [[L::V; 2]; T], w: *const u32, x: *const u32) {
        let lanes = self.0;
        // SAFETY: the caller's promise.
        let (w_0, w_1) = unsafe { (lanes.load_pairs(w), lanes.load_pairs(w.add(LANES))) };
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise; two words face a step.
            let x = unsafe { x.add(t * STRIDE_WORDS).cast::<[f32; 2]>().read() };
            let (first, second) = (lanes.splat(x[0]), lanes.splat(x[1]));
            sums[0] = lanes.fma(first, w_0.0, sums[0]);
            sums[1] = lanes.fma(first, w_1.0, sums[1]);
            sums[0] = lanes.fma(second, w_0.1, sums[0]);
            sums[1] = lanes.fma(second, w_1.1, sums[1]);
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

    #[inline(always)]
    fn lanes(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    unsafe fn step<const T: usize>(
        self,
        sums: &mut [[std::arch::x86_64::__m512; 2]; T],
        w: *const u32,
        x: *const u32,
    ) {
        let Self(lanes, dot) = self;
        // SAFETY: the caller's promise.
        let w = unsafe { [lanes.load_words(w), lanes.load_words(w.add(LANES))] };
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let x = lanes.splat_word(unsafe { *x.add(t * STRIDE_WORDS) });
            sums[0] = dot.add_dots(sums[0], w[0], x);
            sums[1] = dot.add_dots(sums[1], w[1], x);
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
    let (steps, block_steps) = (job.w.steps(), BLOCK_WORDS / job.activations.words.per_step());
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
                    words_per_step: job.activations.words.per_step(),
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
    words_per_step: usize,
    /// The tile's first token.
    token: usize,
    /// The panel's first row.
    row: usize,
    first: bool,
    last: bool,
}

impl Part<'_> {
    /// # Safety
    ///
    /// No other task has this panel and this tile, so none touches these rows of these tokens.
    #[inline(always)]
    unsafe fn run<P: Product, const T: usize>(&self, job: &Job<'_>, product: P) {
        let lanes = product.lanes();
        let rows = PANEL_ROWS.min(job.w.rows() - self.row);
        let start = |t: usize| (self.token + t) * job.w.rows() + self.row;
        let mut sums = [[lanes.splat(0.0); 2]; T];
        if !self.first {
            for (t, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise; the last borrow of these sums has ended.
                let sums_so_far = unsafe { job.out.part(start(t), rows) };
                let (low, high) = sums_so_far.split_at(LANES.min(rows));
                *sums = [lanes.load_slice(low), lanes.load_slice(high)];
            }
        }

        assert!(self.x.len() == T * STRIDE_WORDS, "{} words for {T} tokens", self.x.len());
        assert!(self.w.len() / PANEL_ROWS * self.words_per_step <= BLOCK_WORDS, "a long block");
        let (mut w, mut x) = (self.w.as_ptr(), self.x.as_ptr());
        for _ in 0..self.w.len() / PANEL_ROWS {
            if T <= PREFETCH_TOKENS {
                lanes.prefetch(w.wrapping_add(PREFETCH_WORDS));
                lanes.prefetch(w.wrapping_add(PREFETCH_WORDS + LANES));
            }
            // SAFETY: `w` is at one of the slice's steps. A token's words are at most BLOCK_WORDS, as asserted, so `x` with T
            // strides stays in its slice.
            unsafe { product.step(&mut sums, w, x) };
            w = w.wrapping_add(PANEL_ROWS);
            x = x.wrapping_add(self.words_per_step);
        }

        for (t, sums) in sums.iter_mut().enumerate() {
            if let (true, Some(bias)) = (self.last, job.bias) {
                let bias = &bias[self.row..][..rows];
                sums[0] = lanes.add(sums[0], lanes.load_slice(bias));
                sums[1] = lanes.add(sums[1], lanes.load_slice(&bias[LANES.min(rows)..]));
            }
            // SAFETY: the caller's promise; the last borrow of these sums has ended.
            let out = unsafe { job.out.part(start(t), rows) };
            let (low, high) = out.split_at_mut(LANES.min(rows));
            lanes.store_slice(low, sums[0]);
            lanes.store_slice(high, sums[1]);
        }
    }
}
