//! How are flags written that are more than a number?

use std::str::FromStr;
use std::time::Duration;

/// What computes.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceKind {
    /// This machine's processors.
    Cpu,
    /// Nothing: it waits, and makes tokens up.
    Sim(SimCosts),
}

/// What a simulated device costs.
#[derive(Clone, Debug, PartialEq)]
pub struct SimCosts {
    /// Prompt tokens per second; 0: prefill takes no time.
    pub prefill_tokens_per_s: f64,
    /// A step's time.
    pub step: Duration,
    /// What each decoding sequence adds to it.
    pub step_per_sequence: Duration,
    /// Chance that a token ends its sequence, where one may.
    pub end_probability: f64,
}

/// Type in which weights and KV blocks are stored and products are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ComputeKind {
    /// The parity mode.
    F32,
    /// The fast mode.
    Bf16,
}

/// How tensors travel between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CollectiveKind {
    /// By a segment in `/dev/shm`: all ranks are on one host.
    SharedMemory,
    /// By connections between all pairs of ranks.
    Tcp,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Consecutive ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankRange {
    /// The first.
    pub first: u32,
    /// The last, included.
    pub last: u32,
}

impl RankRange {
    /// Returns the ranks in order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        self.first..=self.last
    }

    /// Returns how many there are.
    #[must_use]
    pub fn count(self) -> u32 {
        self.last - self.first + 1
    }
}

impl FromStr for RankRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rank = |text: &str| match text.parse() {
            Ok(rank) if rank < 64 => Ok(rank),
            Ok(_) | Err(_) => Err("use a rank (0) or a range (0-3), below 64".to_owned()),
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (rank(first)?, rank(last)?),
            None => (rank(text)?, rank(text)?),
        };
        if first > last {
            return Err(format!("{first} is above {last}"));
        }
        Ok(Self { first, last })
    }
}

impl Default for SimCosts {
    // What an accelerator does with a model of some 9 billion parameters, roughly.
    fn default() -> Self {
        Self {
            prefill_tokens_per_s: 10_000.0,
            step: Duration::from_millis(8),
            step_per_sequence: Duration::from_micros(50),
            end_probability: 0.005,
        }
    }
}

impl FromStr for DeviceKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, options) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "cpu" if options.is_empty() => Ok(Self::Cpu),
            "sim" => Ok(Self::Sim(sim_costs(options)?)),
            _ => Err("use cpu, or sim[:prefill=…,step=…,sequence=…,end=…]".to_owned()),
        }
    }
}

fn sim_costs(options: &str) -> Result<SimCosts, String> {
    let mut costs = SimCosts::default();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').ok_or(format!("{option} has no value"))?;
        let number = |low: f64, high: f64| match value.parse::<f64>() {
            Ok(number) if (low..=high).contains(&number) => Ok(number),
            Ok(_) | Err(_) => Err(format!("{key} is {value}, use a number from {low} to {high}")),
        };
        match key {
            "prefill" => costs.prefill_tokens_per_s = number(0.0, 1e12)?,
            "step" => costs.step = time(value)?,
            "sequence" => costs.step_per_sequence = time(value)?,
            "end" => costs.end_probability = number(0.0, 1.0)?,
            _ => return Err(format!("{key} is no key, use prefill, step, sequence or end")),
        }
    }
    Ok(costs)
}

/// Reads a time such as `5ms` or `50us`.
fn time(text: &str) -> Result<Duration, String> {
    let units = [("us", 1), ("ms", 1_000), ("s", 1_000_000)];
    let read = |&(unit, us): &(&str, u64)| {
        let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(Duration::from_micros(count.checked_mul(us)?))
    };
    units.iter().find_map(read).ok_or(format!("{text} is no time, use for example 5ms or 50us"))
}

/// Reads a size such as `512MiB`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("", 0)];
    let read = |&(unit, shift): &(&str, u32)| {
        let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
        count.checked_mul(1 << shift).filter(|&bytes| bytes > 0)
    };
    units.iter().find_map(read).ok_or("use a size above 0, for example 512MiB or 2GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_one_or_a_range() {
        assert_eq!("2".parse(), Ok(RankRange { first: 2, last: 2 }));
        assert_eq!("0-3".parse(), Ok(RankRange { first: 0, last: 3 }));
        let range = RankRange { first: 1, last: 3 };
        assert_eq!((range.iter().collect::<Vec<_>>(), range.count()), (vec![1, 2, 3], 3));
        for bad in ["", "-", "3-1", "a", "0-", "64"] {
            assert!(bad.parse::<RankRange>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_device_may_say_what_it_costs() {
        assert_eq!("cpu".parse(), Ok(DeviceKind::Cpu));
        assert_eq!("sim".parse(), Ok(DeviceKind::Sim(SimCosts::default())));
        let costs = SimCosts {
            prefill_tokens_per_s: 0.0,
            step: Duration::from_millis(3),
            step_per_sequence: Duration::from_micros(7),
            end_probability: 0.5,
        };
        let text = "sim:prefill=0,step=3ms,sequence=7us,end=0.5";
        assert_eq!(text.parse(), Ok(DeviceKind::Sim(costs)));
        for bad in
            ["gpu", "cpu:x=1", "sim:x=1", "sim:step", "sim:step=5", "sim:end=2", "sim:end=NaN"]
        {
            assert!(bad.parse::<DeviceKind>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("2GiB"), Ok(2 << 30));
        assert_eq!(bytes("17"), Ok(17));
        for bad in ["", "0", "2GB", "-1MiB", "99999999999TiB"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
    }
}
