//! What is the highest rate that meets the objectives?
//!
//! The rate doubles until it does not hold, then the bracket is halved in its logarithm until its ends differ by less than the
//! tolerance. A rate holds when every objective does, less than 1 % of the requests fail and the server keeps up: the number of running
//! streams must not grow through the probe (a queue that grows meets any objective on latency if one only stops early enough).
//!
//! One bad moment of a shared machine must not end the search: a rate that does not hold is tried once more unless it failed
//! clearly, and the answer is confirmed before it is given.

use crate::{
    report::{FindMax, Probe, Run, Second},
    slo::Condition,
};

/// Failed requests that an objective does not speak of: more than this share and the rate does not hold.
const FAILED_SHARE_MAX: f64 = 0.01;
/// Growth of the running streams over a probe, as a share of the requests sent in it, that is a queue and no noise.
const GROWTH_SHARE: f64 = 0.005;
/// Standard errors that the growth must be above zero.
const GROWTH_SIGMAS: f64 = 4.0;
/// Bound of a search whose server says yes and no in turn.
const PROBES_MAX: usize = 60;

/// What a probe showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Whether the rate holds.
    pub held: bool,
    /// Whether another probe could not show otherwise.
    pub clear: bool,
    /// In words.
    pub reason: String,
}

/// Judges a probe.
#[must_use]
pub fn judge(run: &Run, slo: &[Condition]) -> Judgement {
    let of = &run.summary;
    if of.requests == 0 {
        return Judgement { held: false, clear: true, reason: "no request was sent".to_owned() };
    }
    let lost = (of.failed + of.unfinished) as f64 / of.requests as f64;
    if lost > FAILED_SHARE_MAX {
        let example = of.error_examples.values().next().map_or("", String::as_str);
        let reason = format!("{:.1} % of the requests failed {example}", lost * 100.0);
        return Judgement { held: false, clear: lost > 0.1, reason: reason.trim_end().to_owned() };
    }
    for condition in slo {
        if !condition.holds(run) {
            let measured = condition.measured_as_written(run).unwrap_or(f64::NAN);
            let reason = format!("{condition} does not hold: {measured:.1}");
            return Judgement { held: false, clear: false, reason };
        }
    }
    if let Some(growth) = growth(run) {
        let reason = format!("the server falls behind: {growth:.1} more streams run every second");
        return Judgement { held: false, clear: false, reason };
    }
    Judgement { held: true, clear: true, reason: "all objectives hold".to_owned() }
}

/// Streams per second by which a queue grows; `None` where it does not.
///
/// A least-squares line through the running streams of the measured seconds: `b = Σ(t−t̄)(y−ȳ)/Σ(t−t̄)²`, with standard error
/// `s/√Σ(t−t̄)²`, `s² = Σ(residual)²/(n−2)`. Until the first answers have ended, running streams grow on any server: as long as 95 % of
/// the answers take, at most half of the probe, is left out.
fn growth(run: &Run) -> Option<f64> {
    let half_s = (run.measured_to_s - run.measured_from_s) / 2.0;
    let from_s = run.measured_from_s + (run.summary.e2e.p95 / 1e3).min(half_s);
    let inside = |second: &&Second| {
        second.t_s as f64 >= from_s && (second.t_s + 1) as f64 <= run.measured_to_s
    };
    let points: Vec<(f64, f64)> =
        run.series.iter().filter(inside).map(|s| (s.t_s as f64, s.running as f64)).collect();
    let n = points.len() as f64;
    if points.len() < 5 {
        return None;
    }
    let (mean_t, mean_y) = (mean(points.iter().map(|p| p.0)), mean(points.iter().map(|p| p.1)));
    let squares: f64 = points.iter().map(|(t, _)| (t - mean_t).powi(2)).sum();
    let slope = points.iter().map(|(t, y)| (t - mean_t) * (y - mean_y)).sum::<f64>() / squares;
    let residuals: f64 =
        points.iter().map(|(t, y)| (y - mean_y - slope * (t - mean_t)).powi(2)).sum();
    let error = (residuals / (n - 2.0) / squares).sqrt();
    let sent_per_s = run.summary.requests_per_s;
    (slope > GROWTH_SHARE * sent_per_s && slope > GROWTH_SIGMAS * error).then_some(slope)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// A search for a rate. Pure: it says which rate to try, and is told what that showed.
#[derive(Clone, Debug)]
pub struct Search {
    from: f64,
    lowest: f64,
    highest: f64,
    tolerance: f64,
    held: Option<f64>,
    above: Option<f64>,
    /// A rate that failed once, not clearly.
    doubted: Option<f64>,
    confirmed: bool,
    probes: Vec<Probe>,
}

impl Search {
    /// Starts at `from` requests/s and stays within `lowest..=highest`; ends when the bracket's ends differ by less than `tolerance` (0.02
    /// is 2 %).
    #[must_use]
    pub fn new(from: f64, lowest: f64, highest: f64, tolerance: f64) -> Self {
        Self {
            from: from.clamp(lowest, highest),
            lowest,
            highest,
            tolerance,
            held: None,
            above: None,
            doubted: None,
            confirmed: false,
            probes: Vec::new(),
        }
    }

    /// The rate to try next; `None` when the search is over.
    #[must_use]
    pub fn next_rate(&self) -> Option<f64> {
        if self.probes.len() >= PROBES_MAX {
            return None;
        }
        if self.doubted.is_some() {
            return self.doubted;
        }
        match (self.held, self.above) {
            (None, None) => Some(self.from),
            (Some(held), None) => (held < self.highest).then(|| (held * 2.0).min(self.highest)),
            (None, Some(above)) => (above > self.lowest).then(|| (above / 2.0).max(self.lowest)),
            (Some(held), Some(above)) if above / held > 1.0 + self.tolerance => {
                Some((held * above).sqrt())
            }
            (Some(held), Some(_)) => (!self.confirmed).then_some(held),
        }
    }

    /// What trying a rate showed.
    pub fn tell(&mut self, rate: f64, judgement: Judgement) {
        let Judgement { held, clear, reason } = judgement;
        self.probes.push(Probe { rate, held, reason });
        if held {
            self.doubted = None;
            // The answer held twice.
            self.confirmed = self.held == Some(rate);
            self.held = Some(rate);
        } else if clear || self.doubted.take() == Some(rate) {
            self.above = Some(rate);
            if self.held.is_some_and(|held| held >= rate) {
                // What held once does not any more: the answer lies below.
                self.held = self.highest_held_below(rate);
            }
        } else {
            self.doubted = Some(rate);
        }
    }

    fn highest_held_below(&self, rate: f64) -> Option<f64> {
        let held = self.probes.iter().filter(|probe| probe.held && probe.rate < rate);
        held.map(|probe| probe.rate).max_by(f64::total_cmp)
    }

    /// The answer.
    #[must_use]
    pub fn answer(self) -> FindMax {
        FindMax { rate: self.held, above: self.above, probes: self.probes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(limit: f64, mut lies: impl FnMut(usize) -> bool) -> FindMax {
        let mut search = Search::new(1.0, 0.01, 1e6, 0.02);
        let mut n = 0;
        while let Some(rate) = search.next_rate() {
            let held = (rate <= limit) != lies(n);
            search.tell(rate, Judgement { held, clear: held, reason: String::new() });
            n += 1;
        }
        search.answer()
    }

    #[test]
    fn the_limit_is_found_from_below_and_above() {
        for limit in [0.05, 0.9, 1.0, 7.3, 80.0, 12_345.0] {
            let found = told(limit, |_| false);
            let rate = found.rate.unwrap();
            assert!(rate <= limit && rate >= limit / 1.021, "{rate} for {limit}");
            assert!(found.probes.len() < 40, "{} probes", found.probes.len());
        }
    }

    #[test]
    fn one_bad_moment_does_not_end_the_search() {
        for bad in 0..12 {
            let rate = told(80.0, |n| n == bad).rate.unwrap();
            assert!((rate / 80.0 - 1.0).abs() < 0.03, "{rate} when probe {bad} lied");
        }
    }

    #[test]
    fn a_server_that_never_or_always_holds_ends_the_search() {
        assert_eq!(told(0.0, |_| false).rate, None);
        let found = told(f64::MAX, |_| false);
        assert_eq!((found.rate, found.above), (Some(1e6), None));
    }
}
