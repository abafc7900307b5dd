//! Figures of one set of requests.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::{
    record::{Outcome, Record},
    report::{Distribution, Summary},
    slo::{self, Condition},
};

/// Sums and histograms of one set of requests.
pub(super) struct Stats {
    pub(super) summary: Summary,
    good: u64,
    ttft: Histogram<u64>,
    ttft_from_sent: Histogram<u64>,
    itl: Histogram<u64>,
    tpot: Histogram<u64>,
    e2e: Histogram<u64>,
}

/// Longer is no latency but a test that was forgotten: a year.
const LONGEST_US: u64 = 365 * 24 * 3600 * 1_000_000;

/// Microseconds, three digits, as long as need be.
pub(super) fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new(3).expect("three digits are allowed");
    histogram.auto(true);
    histogram
}

/// Counts a value. Not `saturating_record`: that one clips at what the histogram has grown to so far.
pub(super) fn note<C: hdrhistogram::Counter>(histogram: &mut Histogram<C>, micros: u64) {
    let longest = micros.min(LONGEST_US);
    histogram.record(longest).expect("a histogram that grows takes every value up to its bound");
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            summary: Summary::default(),
            good: 0,
            ttft: histogram(),
            ttft_from_sent: histogram(),
            itl: histogram(),
            tpot: histogram(),
            e2e: histogram(),
        }
    }
}

impl Stats {
    pub(super) fn add(&mut self, record: &Record, slo: &[Condition]) {
        let summary = &mut self.summary;
        summary.requests += 1;
        match &record.outcome {
            Outcome::Done => summary.done += 1,
            Outcome::Left => summary.left += 1,
            Outcome::Unfinished => summary.unfinished += 1,
            Outcome::Failed(kind, message) => {
                summary.failed += 1;
                *summary.errors.entry(*kind).or_default() += 1;
                summary.error_examples.entry(*kind).or_insert_with(|| message.to_string());
            }
        }
        summary.prompt_tokens += u64::from(record.prompt_tokens.unwrap_or(0));
        summary.cached_tokens += u64::from(record.cached_tokens.unwrap_or(0));
        summary.cached_tokens_known |= record.cached_tokens.is_some();
        summary.output_tokens += u64::from(record.output_tokens);
        self.good += u64::from(slo::is_good(slo, record));
        if let (Some(ttft), Some(first)) = (record.ttft(), record.first_token) {
            note(&mut self.ttft, micros(ttft));
            note(&mut self.ttft_from_sent, micros(first.saturating_sub(record.sent)));
        }
        for &gap in &record.gaps_us {
            note(&mut self.itl, u64::from(gap));
        }
        if let Some(tpot) = record.tpot() {
            note(&mut self.tpot, micros(tpot));
        }
        if let Some(e2e) = record.e2e() {
            note(&mut self.e2e, micros(e2e));
        }
    }

    /// p50 and p95 of TTFT, ITL and E2E.
    pub(super) fn quantiles_ms(&self) -> [(f64, f64); 3] {
        [&self.ttft, &self.itl, &self.e2e].map(p50_p95_ms)
    }

    pub(super) fn summary(&self, measured: Duration, has_slo: bool) -> Summary {
        let per_s = |count: u64| {
            if measured.is_zero() { 0.0 } else { count as f64 / measured.as_secs_f64() }
        };
        let of = &self.summary;
        Summary {
            requests_per_s: per_s(of.requests),
            done_per_s: per_s(of.done),
            output_tokens_per_s: per_s(of.output_tokens),
            good_share: (has_slo && of.requests > 0).then(|| self.good as f64 / of.requests as f64),
            goodput_per_s: has_slo.then(|| per_s(self.good)),
            ttft: distribution(&self.ttft),
            itl: distribution(&self.itl),
            tpot: distribution(&self.tpot),
            e2e: distribution(&self.e2e),
            ttft_from_sent: distribution(&self.ttft_from_sent),
            ..of.clone()
        }
    }
}

pub(super) fn p50_p95_ms(micros: &Histogram<u64>) -> (f64, f64) {
    let quantile = |q| micros.value_at_quantile(q) as f64 / 1e3;
    (quantile(0.5), quantile(0.95))
}

/// Shares at which a cumulative distribution is drawn: every hundredth, and the tail.
fn shares() -> impl Iterator<Item = f64> {
    (0..=99).map(|n| f64::from(n) / 100.0).chain([0.995, 0.999, 0.9995, 0.9999, 1.0])
}

/// A histogram of microseconds as a distribution of milliseconds.
#[must_use]
pub fn distribution(micros: &Histogram<u64>) -> Distribution {
    if micros.is_empty() {
        return Distribution::default();
    }
    let ms = |value: u64| value as f64 / 1e3;
    let quantile = |q| ms(micros.value_at_quantile(q));
    Distribution {
        count: micros.len(),
        mean: micros.mean() / 1e3,
        stddev: micros.stdev() / 1e3,
        min: ms(micros.min()),
        p50: quantile(0.5),
        p90: quantile(0.9),
        p95: quantile(0.95),
        p99: quantile(0.99),
        p999: quantile(0.999),
        max: ms(micros.max()),
        cdf: shares().map(|share| (share, quantile(share))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_counted_as_it_is_and_three_digits_exact() {
        let mut all = histogram();
        for ms in [1_u64, 2, 40, 3_000, 70_000, 3_600_000] {
            note(&mut all, ms * 1000);
        }
        note(&mut all, u64::MAX);
        let of = distribution(&all);
        for (share, ms) in [(0.1, 1.0), (0.5, 3_000.0), (0.85, 3_600_000.0)] {
            let found = all.value_at_quantile(share) as f64 / 1e3;
            assert!((found / ms - 1.0).abs() < 1e-3, "{found} ms at {share}, {ms} expected");
        }
        assert_eq!((of.count, of.min), (7, 1.0));
        assert!((of.max / (LONGEST_US as f64 / 1e3) - 1.0).abs() < 1e-3, "{}", of.max);
    }
}
