//! When do requests come?
//!
//! A [`Law`] says how the gaps between requests scatter, [`Rates`] how many come a second at each time. Gaps are drawn as if one
//! request came a second, and that steady clock is then bent to the rates: so every law goes with every course of rates, a ramp
//! keeps its burstiness, and the expected number of requests up to any time is exactly the area under the rates.

mod law;
mod rates;
pub(crate) mod spec;

use std::{sync::Arc, time::Duration};

use rand::rngs::Xoshiro256PlusPlus;

pub use law::Law;
pub use rates::Rates;

use crate::{plan::PlanError, workload::seed};

/// When requests, or whole sessions, are to start.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// Drawn: gaps by a law, at rates.
    Drawn {
        /// How the gaps scatter.
        law: Law,
        /// How many a second.
        rates: Rates,
    },
    /// At times that were recorded; then it ends.
    Replayed {
        /// In order.
        times: Arc<[Duration]>,
        /// What times are multiplied with: 0.1 replays ten times as fast.
        scale: f64,
    },
}

impl Arrivals {
    /// Evenly spaced, the first at once.
    ///
    /// # Errors
    /// Where the rate is not a number above 0.
    pub fn constant(rate: f64) -> Result<Self, PlanError> {
        Ok(Self::Drawn { law: Law::Constant, rates: Rates::constant(rate)? })
    }

    /// Independent of each other, as those of many users are.
    ///
    /// # Errors
    /// Where the rate is not a number above 0.
    pub fn poisson(rate: f64) -> Result<Self, PlanError> {
        Ok(Self::Drawn { law: Law::Poisson, rates: Rates::constant(rate)? })
    }

    /// Intended starts, in order. Equal seeds, equal times.
    #[must_use]
    pub fn times(&self, seed: u64) -> Times {
        let course = match self {
            Self::Drawn { law, rates } => Course::Drawn {
                rng: seed::rng(&[seed, seed::ARRIVALS]),
                law: *law,
                rates: rates.clone(),
                due: None,
            },
            Self::Replayed { times, scale } => {
                Course::Replayed { times: Arc::clone(times), scale: *scale, next: 0 }
            }
        };
        Times { course }
    }
}

/// Intended starts, in order; endless but for recorded times and rates that stay at 0.
#[derive(Clone, Debug)]
pub struct Times {
    course: Course,
}

#[derive(Clone, Debug)]
enum Course {
    Drawn {
        rng: Xoshiro256PlusPlus,
        law: Law,
        rates: Rates,
        /// The next arrival's place in the expected count of arrivals.
        due: Option<f64>,
    },
    Replayed {
        times: Arc<[Duration]>,
        scale: f64,
        next: usize,
    },
}

impl Iterator for Times {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        match &mut self.course {
            Course::Drawn { rng, law, rates, due } => {
                let now = match *due {
                    None => law.first(rng),
                    Some(before) => before + law.gap(rng),
                };
                *due = Some(now);
                Duration::try_from_secs_f64(rates.time_of(now)?).ok()
            }
            Course::Replayed { times, scale, next } => {
                let time = times.get(*next)?;
                *next += 1;
                Duration::try_from_secs_f64(time.as_secs_f64() * *scale).ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and coefficient of variation of the gaps of the first `count` arrivals.
    fn gaps(arrivals: &Arrivals, seed: u64, count: usize) -> (f64, f64) {
        let times: Vec<f64> =
            arrivals.times(seed).take(count + 1).map(|time| time.as_secs_f64()).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn each_law_has_its_mean_and_its_burstiness() {
        let cases: [(&str, f64, f64); 6] = [
            ("constant", 0.0, 1e-6),
            ("poisson", 1.0, 0.02),
            ("gamma:cv=2", 2.0, 0.04),
            ("gamma:cv=0.5", 0.5, 0.02),
            ("weibull:cv=2", 2.0, 0.06),
            ("weibull:shape=2", 0.5227, 0.01),
        ];
        for (law, cv_expected, cv_tolerance) in cases {
            let law: Law = law.parse().unwrap();
            let arrivals = Arrivals::Drawn { law, rates: Rates::constant(20.0).unwrap() };
            let count = 100_000;
            let (mean, cv) = gaps(&arrivals, 7, count);
            // Four standard errors of the mean.
            let tolerance = 4.0 * cv_expected / (count as f64).sqrt() + 1e-6;
            assert!((mean * 20.0 - 1.0).abs() < tolerance, "{law}: mean gap {mean} s");
            assert!((cv - cv_expected).abs() < cv_tolerance, "{law}: cv {cv}");
        }
    }

    /// A bursty process that began with an ordinary gap would bring (cv² - 1) / 2 requests too many.
    #[test]
    fn a_bursty_law_brings_no_more_requests_at_the_begin_than_later() {
        for law in ["poisson", "gamma:cv=4", "weibull:cv=4"] {
            let arrivals =
                Arrivals::Drawn { law: law.parse().unwrap(), rates: Rates::constant(1.0).unwrap() };
            let runs = 4_000;
            let within = |seed| {
                arrivals.times(seed).take_while(|time| *time < Duration::from_secs(20)).count()
            };
            let mean = (0..runs).map(within).sum::<usize>() as f64 / f64::from(runs as u32);
            // The count of a run scatters by about cv * sqrt(20) = 18: a standard error of 0.28. An ordinary start would bring 27.
            assert!((mean - 20.0).abs() < 1.2, "{law}: {mean} of 20 in 20 s");
        }
    }

    #[test]
    fn a_ramp_brings_the_area_under_it_and_then_stays() {
        let rates: Rates = "ramp:from=10,to=30,over=100".parse().unwrap();
        let times: Vec<f64> = Arrivals::Drawn { law: Law::Constant, rates }
            .times(1)
            .take(8_000)
            .map(|time| time.as_secs_f64())
            .collect();
        let until = |end: f64| times.iter().filter(|time| **time < end).count() as f64;
        assert!((until(50.0) - 750.0).abs() <= 1.0, "{}", until(50.0));
        assert!((until(100.0) - 2_000.0).abs() <= 1.0, "{}", until(100.0));
        assert!((until(200.0) - 5_000.0).abs() <= 1.0, "{}", until(200.0));
    }

    #[test]
    fn a_ramp_to_nothing_ends() {
        let rates: Rates = "ramp:from=10,to=0,over=10".parse().unwrap();
        let count = Arrivals::Drawn { law: Law::Constant, rates }.times(1).count();
        assert!((49..=51).contains(&count), "{count}");
    }

    #[test]
    fn steps_hold_their_rates_and_a_step_of_nothing_is_silent() {
        let rates: Rates = "steps:0=5,10=0,20=50".parse().unwrap();
        let times: Vec<f64> = Arrivals::Drawn { law: Law::Poisson, rates }
            .times(3)
            .map(|time| time.as_secs_f64())
            .take_while(|time| *time < 120.0)
            .collect();
        let within = |low: f64, high: f64| {
            times.iter().filter(|time| (low..high).contains(*time)).count() as f64
        };
        assert!((within(0.0, 10.0) - 50.0).abs() < 4.0 * 50_f64.sqrt());
        assert_eq!(within(10.0, 20.0), 0.0);
        assert!((within(20.0, 120.0) - 5_000.0).abs() < 4.0 * 5_000_f64.sqrt());
    }

    #[test]
    fn a_seed_makes_the_same_times_always_and_another_seed_others() {
        let arrivals = Arrivals::poisson(3.0).unwrap();
        let times = |seed| arrivals.times(seed).take(100).collect::<Vec<_>>();
        assert_eq!(times(5), times(5));
        assert_ne!(times(5), times(6));
        assert!(times(5).is_sorted());
    }

    #[test]
    fn recorded_times_are_scaled_and_end() {
        let times: Arc<[Duration]> = [1, 2, 4].map(Duration::from_secs).into();
        let replayed = Arrivals::Replayed { times, scale: 0.5 };
        let half: Vec<u128> = replayed.times(0).map(|time| time.as_millis()).collect();
        assert_eq!(half, [500, 1_000, 2_000]);
    }
}
