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

/// Microseconds, three digits, as long as need be.
pub(super) fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new(3).expect("three digits are allowed");
    histogram.auto(true);
    histogram
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
            self.ttft.saturating_record(micros(ttft));
            self.ttft_from_sent.saturating_record(micros(first.saturating_sub(record.sent)));
        }
        for &gap in &record.gaps_us {
            self.itl.saturating_record(u64::from(gap));
        }
        if let Some(tpot) = record.tpot() {
            self.tpot.saturating_record(micros(tpot));
        }
        if let Some(e2e) = record.e2e() {
            self.e2e.saturating_record(micros(e2e));
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
