//! Who asks, and how do they treat the answer?

use std::{fmt, str::FromStr, sync::Arc};

use rand::{Rng, RngExt as _};

use super::Distribution;
use crate::{
    arrivals::spec,
    plan::{Labels, PlanError, Reader},
};

/// A name and how often it comes, in proportion to the others. On a command line: `acme=3`, or `acme` for `acme=1`.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted {
    /// What is labelled so.
    pub name: Arc<str>,
    /// Above 0.
    pub weight: f64,
}

impl FromStr for Weighted {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let (name, weight) = match text.rsplit_once('=') {
            Some((name, weight)) => (name, spec::number(weight)),
            None => (text, Some(1.0)),
        };
        match weight {
            Some(weight) if weight > 0.0 && !name.is_empty() => {
                Ok(Self { name: name.into(), weight })
            }
            _ => Err(spec::refuse(
                text,
                "this is no name with a weight above 0",
                "`name=3` or `name`",
            )),
        }
    }
}

impl fmt::Display for Weighted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.weight)
    }
}

/// Tenants and classes by weight, drawn independently of each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelMix {
    /// Empty: no tenant is named.
    pub tenants: Vec<Weighted>,
    /// Empty: no class is named.
    pub classes: Vec<Weighted>,
}

impl LabelMix {
    /// Whether nothing is ever named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty() && self.classes.is_empty()
    }

    /// Draws labels.
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> Labels {
        Labels { tenant: draw(&self.tenants, rng), class: draw(&self.classes, rng) }
    }
}

fn draw(among: &[Weighted], rng: &mut impl Rng) -> Option<Arc<str>> {
    let total: f64 = among.iter().map(|one| one.weight).sum();
    let mut mark = total * rng.random::<f64>();
    let (last, others) = among.split_last()?;
    for one in others {
        if mark < one.weight {
            return Some(Arc::clone(&one.name));
        }
        mark -= one.weight;
    }
    Some(Arc::clone(&last.name))
}

/// Shares of requests whose client does not simply read on. What is left of 1 does.
#[derive(Clone, Debug, PartialEq)]
pub struct ReaderMix {
    /// Share that closes the stream.
    pub cancel: f64,
    /// Share that breaks the connection off.
    pub disconnect: f64,
    /// After how many tokens both do.
    pub leave_after: Distribution,
    /// Share that reads slowly.
    pub slow: f64,
    /// How fast those read, above 0.
    pub slow_tokens_per_s: f64,
}

impl ReaderMix {
    /// Whether everybody simply reads on.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.cancel + self.disconnect + self.slow == 0.0
    }

    /// Refuses shares that cannot be.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        let shares = [self.cancel, self.disconnect, self.slow];
        let total: f64 = shares.iter().sum();
        if !shares.iter().all(|share| (0.0..=1.0).contains(share)) || total > 1.0 + 1e-9 {
            return Err(PlanError::Impossible(format!(
                "{} of the requests are cancelled, {} disconnected and {} read slowly; write shares from 0 to 1 whose sum is not \
                 above 1",
                self.cancel, self.disconnect, self.slow
            )));
        }
        if !(self.slow_tokens_per_s.is_finite() && self.slow_tokens_per_s > 0.0) {
            return Err(PlanError::Impossible(format!(
                "a slow reader cannot take {} tokens a second; write a number above 0",
                self.slow_tokens_per_s
            )));
        }
        Ok(())
    }

    /// Draws a reader.
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> Reader {
        let mark: f64 = rng.random();
        let after_tokens = self.leave_after.whole(rng);
        if mark < self.cancel {
            Reader::Cancel { after_tokens }
        } else if mark < self.cancel + self.disconnect {
            Reader::Disconnect { after_tokens }
        } else if mark < self.cancel + self.disconnect + self.slow {
            Reader::Slow { tokens_per_s: self.slow_tokens_per_s }
        } else {
            Reader::Whole
        }
    }
}

impl Default for ReaderMix {
    fn default() -> Self {
        Self {
            cancel: 0.0,
            disconnect: 0.0,
            leave_after: Distribution::fixed(0),
            slow: 0.0,
            slow_tokens_per_s: 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::seed;

    #[test]
    fn tenants_come_in_proportion_to_their_weights() {
        let tenants = ["a=6", "b=3", "c"].map(|text| text.parse().unwrap()).to_vec();
        let mix = LabelMix { tenants, classes: Vec::new() };
        let mut rng = seed::rng(&[21]);
        let mut counts = [0_u32; 3];
        for _ in 0..10_000 {
            let labels = mix.draw(&mut rng);
            assert_eq!(labels.class, None);
            counts[(labels.tenant.unwrap().as_bytes()[0] - b'a') as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([6_000, 3_000, 1_000]) {
            assert!(count.abs_diff(expected) < 200, "{counts:?}");
        }
    }

    #[test]
    fn readers_come_in_their_shares() {
        let mix = ReaderMix {
            cancel: 0.1,
            disconnect: 0.2,
            leave_after: "uniform:0-9".parse().unwrap(),
            slow: 0.3,
            slow_tokens_per_s: 5.0,
        };
        mix.check().unwrap();
        let mut rng = seed::rng(&[22]);
        let mut counts = [0_u32; 4];
        for _ in 0..10_000 {
            let at = match mix.draw(&mut rng) {
                Reader::Cancel { after_tokens } => {
                    assert!(after_tokens < 10);
                    0
                }
                Reader::Disconnect { .. } => 1,
                Reader::Slow { tokens_per_s } => {
                    assert_eq!(tokens_per_s, 5.0);
                    2
                }
                Reader::Whole => 3,
            };
            counts[at] += 1;
        }
        for (count, expected) in counts.into_iter().zip([1_000, 2_000, 3_000, 4_000]) {
            assert!(count.abs_diff(expected) < 200, "{counts:?}");
        }
    }

    #[test]
    fn impossible_shares_are_refused() {
        let mix = |cancel, slow, slow_tokens_per_s| ReaderMix {
            cancel,
            slow,
            slow_tokens_per_s,
            ..ReaderMix::default()
        };
        assert!(mix(0.5, 0.5, 1.0).check().is_ok());
        for wrong in
            [mix(0.6, 0.5, 1.0), mix(-0.1, 0.0, 1.0), mix(f64::NAN, 0.0, 1.0), mix(0.0, 0.1, 0.0)]
        {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        for text in ["", "=3", "a=0", "a=-1", "a=x"] {
            assert!(text.parse::<Weighted>().is_err(), "{text}");
        }
    }
}
