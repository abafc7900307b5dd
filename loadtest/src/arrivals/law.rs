//! How do the gaps between arrivals scatter?

use std::{fmt, ops::RangeInclusive, str::FromStr};

use rand::{Rng, RngExt as _};
use rand_distr::{Distribution as _, Exp1, Gamma, Weibull};

use super::spec::{self, Fields};
use crate::plan::PlanError;

/// How the gaps between arrivals scatter. On a command line: `constant`, `poisson`, `gamma:cv=2` or `weibull:cv=2`, the
/// last two also with `shape=` for `cv=`.
///
/// `cv` is the standard deviation of the gaps over their mean: 0 for constant, 1 for Poisson, above 1 for bursts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Law {
    /// All gaps are equal.
    Constant,
    /// Gaps are exponential: arrivals know nothing of each other.
    Poisson,
    /// Gaps are gamma distributed.
    Gamma {
        /// Above 0; below 1 for bursts. The `cv` is 1 / √shape.
        shape: f64,
    },
    /// Gaps are Weibull distributed.
    Weibull {
        /// Above 0; below 1 for bursts.
        shape: f64,
    },
}

const USAGE: &str = "`constant`, `poisson`, `gamma:cv=2` or `weibull:cv=2`";

/// Shapes beyond make gaps that no longer are numbers: the mean of a Weibull law is a factorial of 1 / shape.
const GAMMA_SHAPES: RangeInclusive<f64> = 0.001..=1e6;
const WEIBULL_SHAPES: RangeInclusive<f64> = 0.01..=1e3;

impl Law {
    /// A gap; its mean is 1.
    pub(crate) fn gap(&self, rng: &mut impl Rng) -> f64 {
        match *self {
            Self::Constant => 1.0,
            Self::Poisson => rng.sample(Exp1),
            Self::Gamma { shape } => gamma(rng, shape) / shape,
            Self::Weibull { shape } => {
                let scale = 1.0 / gamma_function(1.0 + 1.0 / shape);
                let law =
                    Weibull::new(scale, shape).expect("shapes are checked by whoever made it");
                law.sample(rng)
            }
        }
    }

    /// The time to the first arrival of a process that began long ago.
    ///
    /// Whoever looks at a time of no choosing meets gaps in proportion to their length and sees what is left of one. With an
    /// ordinary gap instead, a bursty process would begin with a burst. Constant gaps begin at once, for whoever wants them wants
    /// a clock.
    pub(crate) fn first(&self, rng: &mut impl Rng) -> f64 {
        let met = match *self {
            Self::Constant => return 0.0,
            Self::Poisson => return rng.sample(Exp1),
            // x times the density of a gamma law is one of the next shape; of a Weibull law, the power of a gamma one.
            Self::Gamma { shape } => gamma(rng, shape + 1.0) / shape,
            Self::Weibull { shape } => {
                gamma(rng, 1.0 + 1.0 / shape).powf(1.0 / shape) / gamma_function(1.0 + 1.0 / shape)
            }
        };
        met * rng.random::<f64>()
    }

    /// Makes a law from what a trace says.
    pub(crate) fn with_shape(name: &str, shape: f64) -> Result<Self, String> {
        let (law, shapes) = match name {
            "Gamma" | "gamma" => (Self::Gamma { shape }, GAMMA_SHAPES),
            "Weibull" | "weibull" => (Self::Weibull { shape }, WEIBULL_SHAPES),
            other => return Err(format!("law `{other}` is neither Gamma nor Weibull")),
        };
        if shapes.contains(&shape) {
            Ok(law)
        } else {
            Err(format!("a shape of {shape} is not in {} to {}", shapes.start(), shapes.end()))
        }
    }
}

impl FromStr for Law {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let (name, rest) = spec::split(text);
        let mut fields = Fields::parse(text, rest, USAGE)?;
        let law = match name {
            "constant" => Self::Constant,
            "poisson" => Self::Poisson,
            "gamma" | "weibull" => {
                let shape = match (fields.optional("cv"), fields.optional("shape")) {
                    (Some(cv), None) if name == "gamma" => 1.0 / (cv * cv),
                    (Some(cv), None) => weibull_shape(cv),
                    (None, Some(shape)) => shape,
                    _ => return Err(fields.error("one of `cv=` and `shape=` must stand there")),
                };
                Self::with_shape(name, shape).map_err(|reason| fields.error(&reason))?
            }
            _ => return Err(fields.error("there is no such law of arrivals")),
        };
        fields.finish()?;
        Ok(law)
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Poisson => f.write_str("poisson"),
            Self::Gamma { shape } => write!(f, "gamma:shape={shape}"),
            Self::Weibull { shape } => write!(f, "weibull:shape={shape}"),
        }
    }
}

fn gamma(rng: &mut impl Rng, shape: f64) -> f64 {
    Gamma::new(shape, 1.0).expect("shapes are checked by whoever made it").sample(rng)
}

/// The shape whose coefficient of variation is `cv`, by bisection: the one falls where the other rises.
fn weibull_shape(cv: f64) -> f64 {
    let (mut low, mut high) = (*WEIBULL_SHAPES.start(), *WEIBULL_SHAPES.end());
    for _ in 0..100 {
        let shape = (low * high).sqrt();
        let mean = ln_gamma(1.0 + 1.0 / shape);
        let of_shape = ((ln_gamma(1.0 + 2.0 / shape) - 2.0 * mean).exp() - 1.0).max(0.0).sqrt();
        if of_shape > cv { low = shape } else { high = shape }
    }
    if cv > 0.0 { (low * high).sqrt() } else { f64::NAN }
}

fn gamma_function(x: f64) -> f64 {
    ln_gamma(x).exp()
}

/// Stirling's series, for x of 1 and above; small ones are brought up to where it holds to 12 digits.
fn ln_gamma(mut x: f64) -> f64 {
    let mut below = 1.0;
    while x < 12.0 {
        below *= x;
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0)));
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - below.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gamma_function_is_the_factorial() {
        for (x, expected) in
            [(1.0, 1.0), (2.0, 1.0), (5.0, 24.0), (1.5, 0.886_226_925_5), (11.0, 3_628_800.0)]
        {
            assert!((gamma_function(x) / expected - 1.0).abs() < 1e-9, "{x}");
        }
    }

    #[test]
    fn a_law_reads_what_it_writes() {
        for text in ["constant", "poisson", "gamma:shape=0.25", "weibull:shape=0.5"] {
            assert_eq!(text.parse::<Law>().unwrap().to_string(), text);
        }
        assert_eq!("gamma:cv=2".parse::<Law>().unwrap(), Law::Gamma { shape: 0.25 });
        let Law::Weibull { shape } = "weibull:cv=2.2360679775".parse().unwrap() else { panic!() };
        assert!((shape - 0.5).abs() < 1e-6);
    }

    #[test]
    fn a_wrong_law_is_told_what_to_write() {
        for text in [
            "",
            "bursty",
            "gamma",
            "gamma:cv=-1e9",
            "gamma:cv=0",
            "gamma:cv=2,shape=3",
            "gamma:cv",
            "gamma:cv=x",
            "poisson:cv=1",
            "weibull:cv=0",
            "gamma:cv=1,cv=2",
            "gamma:cv=nan",
        ] {
            let error = text.parse::<Law>().unwrap_err().to_string();
            assert!(error.contains("write `constant`, `poisson`"), "{text}: {error}");
        }
    }
}
