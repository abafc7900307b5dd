//! How long is a prompt, an answer, a pause?

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use rand::{Rng, RngExt as _};
use rand_distr::{Distribution as _, Exp1, LogNormal, Normal};

use crate::{
    arrivals::spec::{self, Fields},
    plan::PlanError,
};

/// How a length (in tokens) or a pause (in seconds) scatters. On a command line: `128`, `uniform:64-256`,
/// `normal:mean=512,sd=100`, `lognormal:mean=512,sd=800` or `exponential:mean=3`; all but the first two also take `min=` and
/// `max=`, onto which values beyond them are put. Mean and deviation are those of the values themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    kind: Kind,
    min: f64,
    max: f64,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Fixed(f64),
    Uniform { low: f64, high: f64 },
    Normal { mean: f64, sd: f64 },
    LogNormal { mean: f64, sd: f64 },
    Exponential { mean: f64 },
    Histogram(Arc<[Bin]>),
}

/// Values from `low` to below `high`, and the weight of all bins up to and with this one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bin {
    low: f64,
    high: f64,
    weight_until: f64,
}

const USAGE: &str = "`128`, `uniform:64-256`, `normal:mean=512,sd=100`, `lognormal:mean=512,sd=800` or `exponential:mean=3`, \
     the last three also with `,min=1,max=4096`";

impl Distribution {
    /// Always `value`.
    #[must_use]
    pub const fn fixed(value: u32) -> Self {
        Self { kind: Kind::Fixed(value as f64), min: 0.0, max: f64::INFINITY }
    }

    /// Bins `(low, high, weight)`; evenly within a bin. `None` where nothing has weight.
    pub(crate) fn histogram(bins: impl IntoIterator<Item = (f64, f64, f64)>) -> Option<Self> {
        let mut total = 0.0;
        let bins: Arc<[Bin]> = bins
            .into_iter()
            .filter(|(low, high, weight)| low.is_finite() && high >= low && *weight > 0.0)
            .map(|(low, high, weight)| {
                total += weight;
                Bin { low, high, weight_until: total }
            })
            .collect();
        let sound = !bins.is_empty() && total.is_finite();
        sound.then_some(Self { kind: Kind::Histogram(bins), min: 0.0, max: f64::INFINITY })
    }

    /// A value, 0 or above.
    pub(crate) fn sample(&self, rng: &mut impl Rng) -> f64 {
        let value = match &self.kind {
            Kind::Fixed(value) => *value,
            Kind::Uniform { low, high } => low + (high - low) * rng.random::<f64>(),
            Kind::Normal { mean, sd } => {
                Normal::new(*mean, *sd).expect("checked when it was read").sample(rng)
            }
            Kind::LogNormal { mean, sd } => LogNormal::from_mean_cv(*mean, sd / mean)
                .expect("checked when it was read")
                .sample(rng),
            Kind::Exponential { mean } => mean * rng.sample::<f64, _>(Exp1),
            Kind::Histogram(bins) => {
                let total = bins.last().expect("a histogram has a bin").weight_until;
                let mark = total * rng.random::<f64>();
                let at = bins.partition_point(|bin| bin.weight_until <= mark).min(bins.len() - 1);
                bins[at].low + (bins[at].high - bins[at].low) * rng.random::<f64>()
            }
        };
        value.clamp(self.min, self.max)
    }

    /// A whole number, 0 or above.
    pub(crate) fn whole(&self, rng: &mut impl Rng) -> u32 {
        // Evenly from 64 to 256 means that 256 comes as often as 64: 193 equal shares, not 192 and two halves.
        if let Kind::Uniform { low, high } = self.kind {
            return rng.random_range(low.round() as u32..=high.round() as u32);
        }
        self.sample(rng).round() as u32
    }

    /// A length in tokens, 1 or above.
    pub(crate) fn tokens(&self, rng: &mut impl Rng) -> u32 {
        self.whole(rng).max(1)
    }

    /// A pause.
    pub(crate) fn pause(&self, rng: &mut impl Rng) -> Duration {
        Duration::try_from_secs_f64(self.sample(rng)).unwrap_or(Duration::MAX)
    }

    /// The mean, before `min` and `max` are put to use.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match &self.kind {
            Kind::Fixed(value) => *value,
            Kind::Uniform { low, high } => f64::midpoint(*low, *high),
            Kind::Normal { mean, .. }
            | Kind::LogNormal { mean, .. }
            | Kind::Exponential { mean } => *mean,
            Kind::Histogram(bins) => {
                let mut before = 0.0;
                let mut sum = 0.0;
                for bin in bins.iter() {
                    sum += (bin.weight_until - before) * f64::midpoint(bin.low, bin.high);
                    before = bin.weight_until;
                }
                sum / before
            }
        }
    }
}

impl FromStr for Distribution {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let refuse = |reason: &str| spec::refuse(text, reason, USAGE);
        let bare = |kind| Self { kind, min: 0.0, max: f64::INFINITY };
        let in_range = |value: &f64| (0.0..=f64::from(u32::MAX)).contains(value);
        if let Some(value) = spec::number(text) {
            let fits = in_range(&value);
            return fits
                .then_some(bare(Kind::Fixed(value)))
                .ok_or_else(|| refuse("it must be 0 or above, and below 2^32"));
        }
        let (name, rest) = spec::split(text);
        if name == "uniform" {
            let (low, high) = rest
                .split_once('-')
                .and_then(|(low, high)| spec::number(low).zip(spec::number(high)))
                .filter(|(low, high)| low <= high && in_range(low) && in_range(high))
                .ok_or_else(|| refuse("two numbers, the lower first, must stand there"))?;
            return Ok(bare(Kind::Uniform { low, high }));
        }
        let mut fields = Fields::parse(text, rest, USAGE)?;
        let (min, max) = (fields.optional("min"), fields.optional("max"));
        let (min, max) = (min.unwrap_or(0.0), max.unwrap_or(f64::INFINITY));
        if !(min >= 0.0 && max >= min) {
            return Err(fields.error("`min` must be 0 or above and not above `max`"));
        }
        let kind = match name {
            "normal" => Kind::Normal { mean: fields.required("mean")?, sd: fields.required("sd")? },
            "lognormal" => {
                Kind::LogNormal { mean: fields.required("mean")?, sd: fields.required("sd")? }
            }
            "exponential" => Kind::Exponential { mean: fields.required("mean")? },
            _ => return Err(fields.error("there is no such distribution")),
        };
        match kind {
            Kind::Normal { mean, sd } | Kind::LogNormal { mean, sd }
                if !(in_range(&mean) && mean > 0.0 && sd >= 0.0) =>
            {
                return Err(fields.error("`mean` must be above 0 and `sd` not below 0"));
            }
            Kind::Exponential { mean } if !(in_range(&mean) && mean > 0.0) => {
                return Err(fields.error("`mean` must be above 0"));
            }
            _ => {}
        }
        fields.finish()?;
        Ok(Self { kind, min, max })
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Fixed(value) => return write!(f, "{value}"),
            Kind::Uniform { low, high } => return write!(f, "uniform:{low}-{high}"),
            Kind::Histogram(bins) => {
                return write!(f, "a histogram of {} bins, mean {:.0}", bins.len(), self.mean());
            }
            Kind::Normal { mean, sd } => write!(f, "normal:mean={mean},sd={sd}")?,
            Kind::LogNormal { mean, sd } => write!(f, "lognormal:mean={mean},sd={sd}")?,
            Kind::Exponential { mean } => write!(f, "exponential:mean={mean}")?,
        }
        if self.min > 0.0 {
            write!(f, ",min={}", self.min)?;
        }
        if self.max.is_finite() {
            write!(f, ",max={}", self.max)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::seed;

    #[test]
    fn a_distribution_reads_what_it_writes() {
        for text in [
            "128",
            "2.5",
            "uniform:64-256",
            "normal:mean=512,sd=100",
            "lognormal:mean=512,sd=800,min=1,max=4096",
            "exponential:mean=3,max=60",
        ] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn samples_have_the_mean_and_the_deviation_that_were_asked_for() {
        for (text, mean, sd) in [
            ("128", 128.0, 0.0),
            ("uniform:64-256", 160.0, 55.7),
            ("normal:mean=512,sd=100", 512.0, 100.0),
            ("lognormal:mean=512,sd=400", 512.0, 400.0),
            ("exponential:mean=300", 300.0, 300.0),
        ] {
            let distribution: Distribution = text.parse().unwrap();
            assert_eq!(distribution.mean(), mean, "{text}");
            let mut rng = seed::rng(&[11]);
            let count = 50_000;
            let values: Vec<f64> =
                (0..count).map(|_| f64::from(distribution.tokens(&mut rng))).collect();
            let sampled = values.iter().sum::<f64>() / f64::from(count);
            let variance = values.iter().map(|value| (value - sampled).powi(2)).sum::<f64>();
            let deviation = (variance / f64::from(count)).sqrt();
            assert!(
                (sampled - mean).abs() <= 4.0 * sd / f64::from(count).sqrt(),
                "{text}: {sampled}"
            );
            assert!((deviation - sd).abs() <= 0.06 * sd + 0.01, "{text}: {deviation}");
        }
    }

    #[test]
    fn both_ends_of_a_uniform_length_come_as_often_as_its_middle() {
        let distribution: Distribution = "uniform:1-4".parse().unwrap();
        let mut rng = seed::rng(&[12]);
        let mut counts = [0_u32; 5];
        for _ in 0..40_000 {
            counts[distribution.tokens(&mut rng) as usize] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|count| count.abs_diff(10_000) < 400), "{counts:?}");
    }

    #[test]
    fn a_histogram_keeps_its_weights() {
        let bins = [(10.0, 20.0, 3.0), (100.0, 200.0, 1.0), (5.0, 6.0, 0.0)];
        let distribution = Distribution::histogram(bins).unwrap();
        let mut rng = seed::rng(&[13]);
        let low = (0..10_000).filter(|_| distribution.sample(&mut rng) < 20.0).count();
        assert!(low.abs_diff(7_500) < 180, "{low}");
        assert_eq!(distribution.mean(), (3.0 * 15.0 + 150.0) / 4.0);
        assert_eq!(Distribution::histogram([]), None);
    }

    #[test]
    fn a_wrong_distribution_is_told_what_to_write() {
        for text in [
            "",
            "-1",
            "many",
            "uniform:64",
            "uniform:9-1",
            "uniform:-5-1",
            "normal:mean=5",
            "normal:mean=-5,sd=1",
            "lognormal:mean=0,sd=1",
            "exponential:mean=nan",
            "normal:mean=1,sd=-1",
            "normal:mean=1,sd=1,min=5,max=2",
            "exponential:mean=1,sd=1",
            "1e99",
            "uniform:1-1e99",
        ] {
            let error = text.parse::<Distribution>().unwrap_err().to_string();
            assert!(error.contains("write `128`, `uniform:64-256`"), "{text}: {error}");
        }
    }
}
