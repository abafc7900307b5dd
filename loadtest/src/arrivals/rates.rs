//! How many arrivals a second, at each time?

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use super::spec::{self, Fields};
use crate::plan::PlanError;

/// Arrivals a second, over time. On a command line: `20`, `ramp:from=1,to=20,over=60` or `steps:0=5,60=20`, times in seconds.
#[derive(Clone, Debug, PartialEq)]
pub enum Rates {
    /// Always the same, above 0.
    Constant(f64),
    /// Grows or falls evenly, then stays.
    Ramp {
        /// At the begin.
        from: f64,
        /// From `over` on.
        to: f64,
        /// How long it takes.
        over: Duration,
    },
    /// Each rate holds from its time on until the next one's. The first time is 0, times rise.
    Steps(Arc<[(Duration, f64)]>),
}

const USAGE: &str = "arrivals a second as `20`, `ramp:from=1,to=20,over=60` or `steps:0=5,60=20` (times in seconds)";

impl Rates {
    /// Always the same.
    ///
    /// # Errors
    /// Where the rate is not a number above 0.
    pub fn constant(rate: f64) -> Result<Self, PlanError> {
        if rate.is_finite() && rate > 0.0 {
            Ok(Self::Constant(rate))
        } else {
            Err(spec::refuse(&rate.to_string(), "a rate must be above 0", USAGE))
        }
    }

    /// Arrivals a second at a time.
    #[must_use]
    pub fn at(&self, time: Duration) -> f64 {
        match self {
            Self::Constant(rate) => *rate,
            Self::Ramp { from, to, over } => {
                let share = (time.as_secs_f64() / over.as_secs_f64()).min(1.0);
                from + (to - from) * share
            }
            Self::Steps(steps) => {
                steps.iter().rev().find(|(from, _)| *from <= time).map_or(0.0, |(_, rate)| *rate)
            }
        }
    }

    /// When, in seconds, more than `count` arrivals are to be expected; `None` where never.
    pub(crate) fn time_of(&self, count: f64) -> Option<f64> {
        match self {
            Self::Constant(rate) => Some(count / rate),
            Self::Ramp { from, to, over } => {
                let over = over.as_secs_f64();
                let area = (from + to) / 2.0 * over;
                if count >= area {
                    return (*to > 0.0).then(|| over + (count - area) / to);
                }
                // from·t + (to - from) / over · t² / 2 = count, solved so that nothing cancels.
                let slope = (to - from) / over;
                let root = (from * from + 2.0 * slope * count).max(0.0).sqrt();
                Some(if count == 0.0 { 0.0 } else { 2.0 * count / (from + root) })
            }
            Self::Steps(steps) => {
                let mut left = count;
                for (at, (from, rate)) in steps.iter().enumerate() {
                    let from = from.as_secs_f64();
                    let end = steps.get(at + 1).map_or(f64::INFINITY, |(end, _)| end.as_secs_f64());
                    let area = if *rate > 0.0 { rate * (end - from) } else { 0.0 };
                    if left < area {
                        return Some(from + left / rate);
                    }
                    left -= area;
                }
                None
            }
        }
    }
}

impl FromStr for Rates {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        if let Some(rate) = spec::number(text) {
            return Self::constant(rate);
        }
        match spec::split(text) {
            ("ramp", rest) => ramp(text, rest),
            ("steps", rest) => steps(text, rest),
            _ => Err(spec::refuse(text, "this is no rate", USAGE)),
        }
    }
}

fn ramp(text: &str, rest: &str) -> Result<Rates, PlanError> {
    let mut fields = Fields::parse(text, rest, USAGE)?;
    let (from, to) = (fields.required("from")?, fields.required("to")?);
    let over = fields.required("over")?;
    if from < 0.0 || to < 0.0 || from + to <= 0.0 {
        return Err(fields.error("rates must not be below 0, nor both be 0"));
    }
    let over = Duration::try_from_secs_f64(over)
        .ok()
        .filter(|over| !over.is_zero())
        .ok_or_else(|| fields.error("`over` must be a number of seconds above 0"))?;
    fields.finish()?;
    Ok(Rates::Ramp { from, to, over })
}

fn steps(text: &str, rest: &str) -> Result<Rates, PlanError> {
    let step = |field: &str| -> Option<(Duration, f64)> {
        let (from, rate) = field.split_once('=')?;
        let from = Duration::try_from_secs_f64(spec::number(from)?).ok()?;
        Some((from, spec::number(rate).filter(|rate| *rate >= 0.0)?))
    };
    let steps: Option<Vec<_>> = rest.split(',').map(step).collect();
    let steps = steps.ok_or_else(|| spec::refuse(text, "a step is `second=rate`", USAGE))?;
    if !steps[0].0.is_zero() || !steps.is_sorted_by(|one, next| one.0 < next.0) {
        return Err(spec::refuse(text, "steps begin at 0 and their times rise", USAGE));
    }
    if steps.iter().all(|(_, rate)| *rate == 0.0) {
        return Err(spec::refuse(text, "one rate at least must be above 0", USAGE));
    }
    Ok(Rates::Steps(steps.into()))
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(rate) => write!(f, "{rate}"),
            Self::Ramp { from, to, over } => {
                write!(f, "ramp:from={from},to={to},over={}", over.as_secs_f64())
            }
            Self::Steps(steps) => {
                for (at, (from, rate)) in steps.iter().enumerate() {
                    let before = if at == 0 { "steps:" } else { "," };
                    write!(f, "{before}{}={rate}", from.as_secs_f64())?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_what_they_write() {
        for text in ["20", "0.5", "ramp:from=1,to=20,over=60", "steps:0=5,60=20,90.5=0"] {
            assert_eq!(text.parse::<Rates>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_expected_count_turns_back_into_its_time() {
        for text in
            ["20", "ramp:from=1,to=20,over=60", "ramp:from=20,to=1,over=60", "steps:0=5,60=20"]
        {
            let rates: Rates = text.parse().unwrap();
            let (mut count, step) = (0.0, 0.001);
            for tick in 0..100_000 {
                let time = f64::from(tick) * step;
                if tick % 1_000 == 0 {
                    let back = rates.time_of(count).unwrap();
                    assert!((back - time).abs() < 0.01, "{text}: {time} became {back}");
                }
                count += rates.at(Duration::from_secs_f64(time + step / 2.0)) * step;
            }
        }
    }

    #[test]
    fn wrong_rates_are_told_what_to_write() {
        for text in [
            "",
            "0",
            "-1",
            "inf",
            "20rps",
            "ramp:from=1,to=2",
            "ramp:from=-1,to=2,over=3",
            "ramp:from=0,to=0,over=3",
            "ramp:from=1,to=2,over=0",
            "ramp:from=1,to=2,over=3,x=4",
            "steps:",
            "steps:5=1",
            "steps:0=1,0=2",
            "steps:0=0",
            "steps:0=-1",
        ] {
            let error = text.parse::<Rates>().unwrap_err().to_string();
            assert!(error.contains("write arrivals a second as `20`"), "{text}: {error}");
        }
    }
}
