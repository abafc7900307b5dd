//! What must hold?
//!
//! One grammar for `--slo` and `--assert`: a figure, `<` or `>`, a number and its unit, such as `ttft_p95<500ms`, `itl_p99<50ms`,
//! `e2e<10s`, `failed_share<1%`, `good_share>95%`, `output_tokens_per_s>1000`. A latency without a statistic means its 95th percentile.
//!
//! An objective on a latency also makes each request good or bad by its own value: under `ttft_p95<500ms` a request is good when its own
//! first token came within 500 ms. Goodput counts the requests that are good under every objective.

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    record::{Outcome, Record},
    report::{Distribution, Run},
};

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    figure: Figure,
    above: bool,
    /// In milliseconds, shares of 1, or plain numbers.
    limit: f64,
    unit: Unit,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    Latency(Latency, Statistic),
    Errors,
    Goodput,
    CachedShare,
    RequestsPerS,
    DonePerS,
    OutputTokensPerS,
    GoodputPerS,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Latency {
    Ttft,
    TtftFromSent,
    Itl,
    Tpot,
    E2e,
    Lateness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statistic {
    Mean,
    P50,
    P90,
    P95,
    P99,
    P999,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Microseconds,
    Milliseconds,
    Seconds,
    Percent,
    Plain,
}

/// A condition is not written as one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no condition: {reason}; write it like ttft_p95<500ms, itl_p99<50ms, failed_share<1% or done_per_s>20"
)]
pub struct ConditionError {
    text: String,
    reason: String,
}

const LATENCIES: [(&str, Latency); 6] = [
    ("ttft", Latency::Ttft),
    ("ttft_from_sent", Latency::TtftFromSent),
    ("itl", Latency::Itl),
    ("tpot", Latency::Tpot),
    ("e2e", Latency::E2e),
    ("lateness", Latency::Lateness),
];
const STATISTICS: [(&str, Statistic); 7] = [
    ("mean", Statistic::Mean),
    ("p50", Statistic::P50),
    ("p90", Statistic::P90),
    ("p95", Statistic::P95),
    ("p99", Statistic::P99),
    ("p999", Statistic::P999),
    ("max", Statistic::Max),
];
const OTHERS: [(&str, Figure); 7] = [
    ("failed_share", Figure::Errors),
    ("good_share", Figure::Goodput),
    ("cached_share", Figure::CachedShare),
    ("requests_per_s", Figure::RequestsPerS),
    ("done_per_s", Figure::DonePerS),
    ("output_tokens_per_s", Figure::OutputTokensPerS),
    ("goodput_per_s", Figure::GoodputPerS),
];
const UNITS: [(&str, Unit, f64); 5] = [
    ("us", Unit::Microseconds, 1e-3),
    ("ms", Unit::Milliseconds, 1.0),
    ("s", Unit::Seconds, 1e3),
    ("%", Unit::Percent, 1e-2),
    ("", Unit::Plain, 1.0),
];

impl FromStr for Figure {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if let Some((_, figure)) = OTHERS.iter().find(|(known, _)| *known == name) {
            return Ok(*figure);
        }
        for (known, latency) in LATENCIES {
            if name == known {
                return Ok(Self::Latency(latency, Statistic::P95));
            }
            let statistic = name.strip_prefix(known).and_then(|rest| rest.strip_prefix('_'));
            let found = STATISTICS.iter().find(|(known, _)| Some(*known) == statistic);
            if let Some((_, statistic)) = found {
                return Ok(Self::Latency(latency, *statistic));
            }
        }
        let names =
            LATENCIES.iter().map(|(name, _)| *name).chain(OTHERS.iter().map(|(name, _)| *name));
        Err(format!(
            "no figure is called `{name}`; there are {}, and latencies take _mean, _p50, _p90, _p95, _p99, _p999 or _max",
            names.collect::<Vec<_>>().join(", ")
        ))
    }
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        let wrong = |reason: String| ConditionError { text: text.to_owned(), reason };
        let at = text.find(['<', '>']).ok_or_else(|| wrong("it has no < or >".to_owned()))?;
        let (name, rest) = text.split_at(at);
        let above = rest.starts_with('>');
        let value = rest[1..].trim_start_matches('=').trim();
        let digits = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
        let (number, unit_name) = value.split_at(digits);
        let number: f64 =
            number.parse().map_err(|_| wrong(format!("`{value}` does not begin with a number")))?;
        let unit = UNITS.iter().find(|(known, _, _)| *known == unit_name.trim());
        let (_, unit, factor) = unit.ok_or_else(|| {
            wrong(format!("`{}` is no unit; there are us, ms, s and %", unit_name.trim()))
        })?;
        let figure: Figure = name.trim().parse().map_err(wrong)?;
        let is_time = matches!(unit, Unit::Microseconds | Unit::Milliseconds | Unit::Seconds);
        match figure {
            Figure::Latency(..) if !is_time => {
                return Err(wrong("a latency needs us, ms or s".to_owned()));
            }
            Figure::Errors | Figure::Goodput | Figure::CachedShare if *unit != Unit::Percent => {
                return Err(wrong("a share needs %".to_owned()));
            }
            Figure::RequestsPerS
            | Figure::DonePerS
            | Figure::OutputTokensPerS
            | Figure::GoodputPerS
                if *unit != Unit::Plain =>
            {
                return Err(wrong("a rate has no unit".to_owned()));
            }
            _ => {}
        }
        Ok(Self { text: text.to_owned(), figure, above, limit: number * factor, unit: *unit })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl Condition {
    /// The measured figure in milliseconds, shares of 1 or plain numbers; `None` where nothing was measured.
    #[must_use]
    pub fn measured(&self, run: &Run) -> Option<f64> {
        let of = &run.summary;
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        match self.figure {
            Figure::Latency(latency, statistic) => {
                let distribution = match latency {
                    Latency::Ttft => &of.ttft,
                    Latency::TtftFromSent => &of.ttft_from_sent,
                    Latency::Itl => &of.itl,
                    Latency::Tpot => &of.tpot,
                    Latency::E2e => &of.e2e,
                    Latency::Lateness => &run.generator.lateness,
                };
                (distribution.count > 0).then(|| statistic.of(distribution))
            }
            Figure::Errors => share(of.failed + of.unfinished, of.requests),
            Figure::Goodput => of.good_share,
            Figure::CachedShare => {
                share(of.cached_tokens, of.prompt_tokens).filter(|_| of.cached_tokens_known)
            }
            Figure::RequestsPerS => Some(of.requests_per_s),
            Figure::DonePerS => Some(of.done_per_s),
            Figure::OutputTokensPerS => Some(of.output_tokens_per_s),
            Figure::GoodputPerS => of.goodput_per_s,
        }
    }

    /// Whether it holds of a run. What was not measured does not hold.
    #[must_use]
    pub fn holds(&self, run: &Run) -> bool {
        self.measured(run).is_some_and(|measured| {
            if self.above { measured > self.limit } else { measured < self.limit }
        })
    }

    /// What was measured, in the unit in which the condition is written; `None` where nothing was.
    #[must_use]
    pub fn measured_as_written(&self, run: &Run) -> Option<f64> {
        let (_, _, factor) = UNITS.iter().find(|(_, unit, _)| *unit == self.unit)?;
        Some(self.measured(run)? / factor)
    }

    /// Whether a request is good by its own values; `None` where the condition says nothing of single requests.
    #[must_use]
    pub fn judges(&self, record: &Record) -> Option<bool> {
        let Figure::Latency(latency, statistic) = self.figure else { return None };
        let value = match latency {
            Latency::Ttft => record.ttft(),
            Latency::TtftFromSent => {
                record.first_token.map(|first| first.saturating_sub(record.sent))
            }
            Latency::Itl => statistic.of_gaps(&record.gaps_us),
            Latency::Tpot => record.tpot(),
            Latency::E2e => record.e2e(),
            Latency::Lateness => return None,
        };
        // An answer of one token has no gaps; it waits for nobody.
        let missing = matches!(latency, Latency::Itl | Latency::Tpot);
        let Some(value) = value else { return Some(missing) };
        let value_ms = value.as_secs_f64() * 1e3;
        Some(if self.above { value_ms > self.limit } else { value_ms < self.limit })
    }
}

/// Whether a request is good: it was answered, and every condition that judges requests holds of it.
#[must_use]
pub fn is_good(conditions: &[Condition], record: &Record) -> bool {
    record.outcome == Outcome::Done
        && conditions.iter().all(|condition| condition.judges(record).unwrap_or(true))
}

impl Statistic {
    fn of(self, distribution: &Distribution) -> f64 {
        match self {
            Self::Mean => distribution.mean,
            Self::P50 => distribution.p50,
            Self::P90 => distribution.p90,
            Self::P95 => distribution.p95,
            Self::P99 => distribution.p99,
            Self::P999 => distribution.p999,
            Self::Max => distribution.max,
        }
    }

    /// The same statistic over one answer's gaps.
    fn of_gaps(self, gaps_us: &[u32]) -> Option<Duration> {
        if gaps_us.is_empty() {
            return None;
        }
        let quantile = match self {
            Self::Mean => {
                let sum: u64 = gaps_us.iter().map(|&gap| u64::from(gap)).sum();
                return Some(Duration::from_micros(sum / gaps_us.len() as u64));
            }
            Self::P50 => 0.5,
            Self::P90 => 0.9,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
            Self::P999 => 0.999,
            Self::Max => 1.0,
        };
        let mut sorted = gaps_us.to_vec();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a length is an index"
        )]
        let rank = ((sorted.len() as f64 * quantile).ceil() as usize).clamp(1, sorted.len()) - 1;
        let (_, value, _) = sorted.select_nth_unstable(rank);
        Some(Duration::from_micros(u64::from(*value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(text: &str) -> Condition {
        text.parse().unwrap()
    }

    #[test]
    fn conditions_are_read_with_their_units() {
        for (text, limit) in [
            ("ttft_p95<500ms", 500.0),
            ("itl_p99 < 50us", 0.05),
            ("e2e<=10s", 10_000.0),
            ("failed_share<1%", 0.01),
            ("done_per_s>20", 20.0),
            ("ttft_from_sent_mean<1.5ms", 1.5),
        ] {
            assert_eq!(condition(text).limit, limit, "{text}");
        }
        assert_eq!(condition("ttft<1s").figure, condition("ttft_p95<1s").figure);
    }

    #[test]
    fn what_is_no_condition_says_what_to_write() {
        for (text, reason) in [
            ("ttft_p95", "no < or >"),
            ("ttft_p95<fast", "does not begin with a number"),
            ("ttft_p95<5", "a latency needs us, ms or s"),
            ("ttft_p95<5m", "`m` is no unit"),
            ("tfft_p95<5ms", "no figure is called `tfft_p95`"),
            ("ttft_p96<5ms", "no figure is called `ttft_p96`"),
            ("failed_share<1", "a share needs %"),
            ("done_per_s>5ms", "a rate has no unit"),
        ] {
            let error = text.parse::<Condition>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("ttft_p95<500ms"), "{error}");
        }
    }

    #[test]
    fn a_request_is_judged_by_its_own_gaps() {
        let gaps = Statistic::P50.of_gaps(&[3, 1, 2]).unwrap();
        assert_eq!(gaps, Duration::from_micros(2));
        assert_eq!(Statistic::Max.of_gaps(&[3, 1, 2]).unwrap(), Duration::from_micros(3));
        assert_eq!(Statistic::P95.of_gaps(&[7]).unwrap(), Duration::from_micros(7));
        assert_eq!(Statistic::P95.of_gaps(&[]), None);
    }
}
