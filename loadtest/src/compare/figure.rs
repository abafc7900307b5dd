//! Which figures are compared, and which way is better?

use super::spread::{Estimate, geometric_ratio, mean, mean_difference, proportion_difference};
use crate::report::{Difference, Distribution, Run, Summary, Verdict};

/// A figure that two sets of runs are compared by.
pub(super) struct Figure {
    name: &'static str,
    scale: Scale,
    better: Better,
    of: fn(&Summary) -> Option<f64>,
}

/// How two values of a figure are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// By their ratio.
    Ratio,
    /// By their difference; the tolerance is in points.
    Points,
    /// By their difference, which is real where chance does not explain it; there is no tolerance for failures.
    Count,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
}

const fn latency(name: &'static str, of: fn(&Summary) -> Option<f64>) -> Figure {
    Figure { name, scale: Scale::Ratio, better: Better::Lower, of }
}

const fn rate(name: &'static str, of: fn(&Summary) -> Option<f64>) -> Figure {
    Figure { name, scale: Scale::Ratio, better: Better::Higher, of }
}

fn of(distribution: &Distribution, value: f64) -> Option<f64> {
    (distribution.count > 0).then_some(value)
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Every figure, in the order of the table. The names are those of `--assert`.
pub(super) const FIGURES: &[Figure] = &[
    latency("ttft_p50", |s| of(&s.ttft, s.ttft.p50)),
    latency("ttft_p95", |s| of(&s.ttft, s.ttft.p95)),
    latency("ttft_p99", |s| of(&s.ttft, s.ttft.p99)),
    latency("itl_p50", |s| of(&s.itl, s.itl.p50)),
    latency("itl_p95", |s| of(&s.itl, s.itl.p95)),
    latency("itl_p99", |s| of(&s.itl, s.itl.p99)),
    latency("tpot_p50", |s| of(&s.tpot, s.tpot.p50)),
    latency("tpot_p95", |s| of(&s.tpot, s.tpot.p95)),
    latency("tpot_p99", |s| of(&s.tpot, s.tpot.p99)),
    latency("e2e_p50", |s| of(&s.e2e, s.e2e.p50)),
    latency("e2e_p95", |s| of(&s.e2e, s.e2e.p95)),
    latency("e2e_p99", |s| of(&s.e2e, s.e2e.p99)),
    rate("done_per_s", |s| Some(s.done_per_s)),
    rate("output_tokens_per_s", |s| Some(s.output_tokens_per_s)),
    rate("goodput_per_s", |s| s.goodput_per_s),
    Figure {
        name: "failed_share",
        scale: Scale::Count,
        better: Better::Lower,
        of: |s| share(s.failed + s.unfinished, s.requests),
    },
    Figure {
        name: "cached_share",
        scale: Scale::Points,
        better: Better::Higher,
        of: |s| share(s.cached_tokens, s.prompt_tokens).filter(|_| s.cached_tokens_known),
    },
];

impl Figure {
    /// How the figure of this name, perhaps followed by ` at` a load, is compared.
    pub(super) fn scale_of(name: &str) -> Scale {
        let name = name.split(' ').next().unwrap_or(name);
        FIGURES.iter().find(|figure| figure.name == name).map_or(Scale::Ratio, |f| f.scale)
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Its value in each run that has it.
    pub(super) fn values<'a>(&self, runs: impl IntoIterator<Item = &'a Run>) -> Vec<f64> {
        runs.into_iter().filter_map(|run| (self.of)(&run.summary)).collect()
    }

    /// Compares it; nothing where one side does not have it.
    pub(super) fn compare(&self, a: &[&Run], b: &[&Run], tolerance: f64) -> Option<Difference> {
        let (xs, ys) = (self.values(a.iter().copied()), self.values(b.iter().copied()));
        if xs.is_empty() || ys.is_empty() {
            return None;
        }
        match self.scale {
            Scale::Ratio => Some(self.by_ratio(&xs, &ys, tolerance)),
            Scale::Points => Some(self.by_points(&xs, &ys, tolerance)),
            Scale::Count => Some(self.by_count(a, b)),
        }
    }

    fn by_ratio(&self, xs: &[f64], ys: &[f64], tolerance: f64) -> Difference {
        let tolerance = tolerance.ln_1p();
        if let Some(Estimate { a, b, value, interval }) = geometric_ratio(xs, ys) {
            let logarithms = interval.map(|(low, high)| (low.ln(), high.ln()));
            return self.difference(a, b, interval, beyond(value.ln(), tolerance, logarithms));
        }
        // A figure that is 0 somewhere, such as the goodput of a run in which nothing was good, has no geometric mean.
        let (a, b) = (mean(xs), mean(ys));
        let logarithm = if a == b { 0.0 } else { (b / a).ln() };
        self.difference(a, b, None, beyond(logarithm, tolerance, None))
    }

    fn by_points(&self, xs: &[f64], ys: &[f64], tolerance: f64) -> Difference {
        let Estimate { a, b, value, interval } = mean_difference(xs, ys);
        self.difference(a, b, None, beyond(value, tolerance, interval))
    }

    fn by_count(&self, a: &[&Run], b: &[&Run]) -> Difference {
        let count = |runs: &[&Run]| {
            runs.iter().fold((0, 0), |(failed, requests), run| {
                (
                    failed + run.summary.failed + run.summary.unfinished,
                    requests + run.summary.requests,
                )
            })
        };
        let Estimate { a, b, value, interval } = proportion_difference(count(a), count(b));
        self.difference(a, b, None, beyond(value, 0.0, interval))
    }

    /// `way` is 1 where the second is higher, -1 where it is lower, 0 where nothing can be said.
    fn difference(&self, a: f64, b: f64, ratio_in: Option<(f64, f64)>, way: i8) -> Difference {
        let verdict = match (way, self.better) {
            (0, _) => Verdict::Same,
            (1, Better::Higher) | (-1, Better::Lower) => Verdict::Better,
            (_, _) => Verdict::Worse,
        };
        Difference {
            figure: self.name.to_owned(),
            a,
            b,
            ratio: (a != 0.0).then(|| b / a),
            ratio_low: ratio_in.map(|(low, _)| low),
            ratio_high: ratio_in.map(|(_, high)| high),
            verdict,
        }
    }
}

/// The highest rate that each bears, which one search found.
pub(super) fn max_rate(a: f64, b: f64, tolerance: f64) -> Difference {
    rate("max_rate", |_| None).by_ratio(&[a], &[b], tolerance)
}

/// Whether `value` is beyond `tolerance` and its interval without 0, and on which side.
fn beyond(value: f64, tolerance: f64, interval: Option<(f64, f64)>) -> i8 {
    let within_spread = interval.is_some_and(|(low, high)| low <= 0.0 && high >= 0.0);
    if within_spread || value.abs() <= tolerance {
        return 0;
    }
    if value > 0.0 { 1 } else { -1 }
}
