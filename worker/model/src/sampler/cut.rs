//! top_k, top_p and min_p: all three keep what reaches a threshold, so ties stay together and no order matters.
//!
//! A parameter that asks for nothing (0, 1 and 0) cuts nothing: top_p = 1 keeps candidates too unlikely to have a mass.

use glint_core::SamplingParams;
use glint_core::math;

/// 2³¹, the unit in which probabilities are added: integer sums do not depend on their order.
const ONE: f32 = (1u32 << 31) as f32;

#[derive(Debug, Default)]
pub(super) struct Cut {
    kept: Vec<f32>,
}

impl Cut {
    /// Returns the largest threshold of the three; candidates with `x` below it are out. −∞ keeps all.
    pub(super) fn threshold(&mut self, x: &[f32], params: &SamplingParams) -> f32 {
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut threshold = f32::NEG_INFINITY;
        let k = params.top_k as usize;
        if k > 0 && k < x.len() {
            threshold = self.kth_largest(x, k);
        }
        if params.top_p < 1.0 {
            threshold = threshold.max(self.top_p(x, max, threshold, params.top_p));
        }
        if params.min_p > 0.0 {
            threshold = threshold.max(max + math::ln(params.min_p));
        }
        threshold
    }

    fn kth_largest(&mut self, x: &[f32], k: usize) -> f32 {
        self.kept.clear();
        self.kept.extend_from_slice(x);
        let (_, &mut kth, _) = self.kept.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        kth
    }

    /// Returns the largest τ of which `x ≥ τ` have the share `top_p` of what reaches `floor`.
    fn top_p(&mut self, x: &[f32], max: f32, floor: f32, top_p: f32) -> f32 {
        let mass = |x: f32| (math::exp(x - max) * ONE) as u64;
        self.kept.clear();
        let mut total = 0;
        // Candidates without mass cannot be the one that completes the sum.
        for &x in x.iter().filter(|&&x| x >= floor) {
            let mass = mass(x);
            if mass > 0 {
                total += mass;
                self.kept.push(x);
            }
        }
        let target = (f64::from(top_p) * total as f64).ceil() as u64;
        self.kept.sort_unstable_by(|a, b| b.total_cmp(a));
        let mut sum = 0;
        for &x in &self.kept {
            sum += mass(x);
            if sum >= target {
                return x;
            }
        }
        floor
    }
}
