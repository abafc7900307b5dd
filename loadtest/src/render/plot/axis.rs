//! Where does a value lie on an axis, and which values are written beside it?

use crate::render::words;

/// One axis: a range, divided evenly or by factors.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::render) struct Axis {
    /// Lower end.
    pub(in crate::render) low: f64,
    /// Upper end, above the lower.
    pub(in crate::render) high: f64,
    kind: Kind,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Linear,
    Logarithmic,
}

/// What the numbers beside an axis are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::render) enum Unit {
    /// Numbers of things, or of things per second where the title says so.
    Count,
    /// Per second.
    PerS,
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// 0 to 1.
    Share,
}

/// A logarithmic axis spans at most this many decades below its upper end: what is smaller is drawn at the edge.
const DECADES: f64 = 5.0;

impl Axis {
    /// From 0 to a round number at or above every value.
    pub(in crate::render) fn from_zero(values: impl Iterator<Item = f64>, unit: Unit) -> Self {
        let max = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let max = if max > 0.0 { max } else { 1.0 };
        let step = round_step(max / 5.0);
        // A line at the very top would be half hidden.
        Self { low: 0.0, high: (max * 1.02 / step).ceil() * step, kind: Kind::Linear, unit }
    }

    /// Exactly this range.
    pub(in crate::render) fn range(low: f64, high: f64, unit: Unit) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, kind: Kind::Linear, unit }
    }

    /// By factors, around all positive values.
    pub(in crate::render) fn logarithmic(values: impl Iterator<Item = f64>, unit: Unit) -> Self {
        let positive = values.filter(|value| value.is_finite() && *value > 0.0);
        let (min, max) = positive
            .fold((f64::INFINITY, 0.0_f64), |(min, max), value| (min.min(value), max.max(value)));
        let (min, max) = if max > 0.0 { (min, max) } else { (1.0, 10.0) };
        let high = round_up(max);
        let low = round_down(min.max(high / 10_f64.powf(DECADES)));
        let low = if low < high { low } else { high / 10.0 };
        Self { low, high, kind: Kind::Logarithmic, unit }
    }

    /// By factors where the values differ by more than one and a half decades, else from 0.
    pub(in crate::render) fn fitting(
        values: impl Iterator<Item = f64> + Clone,
        unit: Unit,
    ) -> Self {
        let positive = values.clone().filter(|value| *value > 0.0);
        let (min, max) = positive
            .fold((f64::INFINITY, 0.0_f64), |(min, max), value| (min.min(value), max.max(value)));
        if max > 30.0 * min {
            Self::logarithmic(values, unit)
        } else {
            Self::from_zero(values, unit)
        }
    }

    /// Whether it is divided by factors.
    pub(in crate::render) fn is_logarithmic(&self) -> bool {
        self.kind == Kind::Logarithmic
    }

    /// Where a value lies: 0 at the lower end, 1 at the upper; values beyond lie at the ends.
    pub(in crate::render) fn along(&self, value: f64) -> f64 {
        let along = match self.kind {
            Kind::Linear => (value - self.low) / (self.high - self.low),
            Kind::Logarithmic => {
                (value.max(self.low) / self.low).log10() / (self.high / self.low).log10()
            }
        };
        along.clamp(0.0, 1.0)
    }

    /// About `wanted` values with what is written beside them.
    pub(in crate::render) fn ticks(&self, wanted: u32) -> Vec<(f64, String)> {
        let values = match self.kind {
            Kind::Linear => self.even_ticks(wanted),
            Kind::Logarithmic => self.decade_ticks(wanted),
        };
        values.into_iter().map(|value| (value, self.name(value))).collect()
    }

    fn even_ticks(&self, wanted: u32) -> Vec<f64> {
        let step = round_step((self.high - self.low) / f64::from(wanted));
        // There is no half of a thing.
        let step = if self.unit == Unit::Count && self.high > 1.0 { step.max(1.0) } else { step };
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * step).collect()
    }

    fn decade_ticks(&self, wanted: u32) -> Vec<f64> {
        let decades = (self.low.log10().floor() as i32)..=(self.high.log10().ceil() as i32);
        let within = |value: &f64| *value >= self.low * 0.999 && *value <= self.high * 1.001;
        let of = |factors: &[f64]| -> Vec<f64> {
            let values = decades
                .clone()
                .flat_map(|decade| factors.iter().map(move |factor| factor * 10_f64.powi(decade)));
            values.filter(within).collect()
        };
        let fine = of(&[1.0, 2.0, 5.0]);
        if fine.len() <= wanted as usize + 3 { fine } else { of(&[1.0]) }
    }

    fn name(&self, value: f64) -> String {
        match self.unit {
            Unit::Count => short(value),
            Unit::PerS => format!("{}/s", short(value)),
            Unit::S => format!("{} s", short(value)),
            Unit::Share => format!("{} %", short(value * 100.0)),
            Unit::Ms if value == 0.0 => "0".to_owned(),
            Unit::Ms if value >= 1000.0 => format!("{} s", short(value / 1000.0)),
            Unit::Ms => format!("{} ms", short(value)),
        }
    }
}

/// Without zeros at the end: `0.05`, `2.5`, `1,200`, `25 k`.
fn short(value: f64) -> String {
    if value.abs() >= 10_000.0 {
        return format!("{} k", short(value / 1000.0));
    }
    if value.abs() >= 1000.0 {
        return words::three(value);
    }
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// 1, 2 or 5 times a power of ten, not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

fn round_up(value: f64) -> f64 {
    round_step(value)
}

fn round_down(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let factor = [5.0, 2.0].into_iter().find(|factor| factor * power <= value * 1.001);
    factor.unwrap_or(1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis, wanted: u32) -> Vec<String> {
        axis.ticks(wanted).into_iter().map(|(_, name)| name).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_every_value() {
        let axis = Axis::from_zero([3.0, 87.0].into_iter(), Unit::Count);
        assert_eq!(names(&axis, 6), ["0", "20", "40", "60", "80", "100"]);
        let axis = Axis::logarithmic([12.0, 1800.0, 0.0].into_iter(), Unit::Ms);
        assert_eq!(
            names(&axis, 6),
            ["10 ms", "20 ms", "50 ms", "100 ms", "200 ms", "500 ms", "1 s", "2 s"]
        );
        assert_eq!(
            names(&Axis::range(0.0, 1.0, Unit::Share), 5),
            ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]
        );
        assert_eq!(short(25_000.0), "25 k");
    }

    #[test]
    fn values_beyond_an_axis_lie_at_its_ends_and_nothing_is_not_a_number() {
        let nothing: [f64; 0] = [];
        let axes = [
            Axis::from_zero(nothing.into_iter(), Unit::Ms),
            Axis::logarithmic(nothing.into_iter(), Unit::Ms),
            Axis::logarithmic([5.0].into_iter(), Unit::Ms),
            Axis::fitting([0.0, f64::NAN, f64::INFINITY].into_iter(), Unit::Ms),
            Axis::range(2.0, 2.0, Unit::Count),
        ];
        for axis in axes {
            for value in [-1.0, 0.0, 1.0, 1e12] {
                assert!((0.0..=1.0).contains(&axis.along(value)), "{axis:?} {value}");
            }
            assert!(!axis.ticks(6).is_empty(), "{axis:?}");
        }
    }
}
