//! Who and what: names that must not be mixed up.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A name that may not stand in a fleet key or a Kubernetes object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} name {name:?} is no DNS label: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
)]
pub struct NameError {
    kind: &'static str,
    name: String,
}

/// Returns whether `name` is a DNS label, as Kubernetes object names and fleet keys need it.
#[must_use]
pub fn is_dns_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the label as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                if is_dns_label(name) {
                    Ok(Self(name.into()))
                } else {
                    Err(NameError { kind: $kind, name: name.chars().take(80).collect() })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

label!(
    /// A model in the fleet: a DNS label, never the name that clients ask for.
    ModelId,
    "model"
);
label!(
    /// A replica group: unique within its model, stable over restarts of its ranks.
    GroupId,
    "group"
);
label!(
    /// A cluster: several may share one registry.
    ClusterId,
    "cluster"
);
label!(
    /// A router process.
    RouterId,
    "router"
);

/// One life of a group. A restart of any rank begins a new one, and everything learned under another is void.
///
/// Chosen by rank 0 alone, as the larger of the last seen plus one and the milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Returns the epoch that follows `seen`, given the wall clock in milliseconds since 1970.
    #[must_use]
    pub fn after(seen: Option<Self>, unix_ms: u64) -> Self {
        Self(seen.map_or(unix_ms, |last| unix_ms.max(last.0.saturating_add(1))))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a model's weights: equal digests, equal weights (`FORMATS.md` section 1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelDigest(pub [u8; 32]);

impl fmt::Display for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex(&self.0))
    }
}

impl fmt::Debug for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What decides the bits of a logit besides the weights (`FORMATS.md` section 3).
///
/// Between groups of equal digest and equal numerics a stream can move without changing a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Numerics {
    /// `cpu`, `cuda` or `sim`.
    pub device: String,
    /// Instruction set (`avx512bf16`) or compute capability (`sm_90a`).
    pub isa: String,
    /// Type in which products are taken: `f32` or `bf16`.
    pub compute: String,
    /// Type in which keys and values are kept.
    pub kv: String,
    /// Ranks over which sums are split.
    pub world_size: u32,
    /// Whether sums are independent of batch, chunk and padding.
    pub batch_invariant: bool,
    /// Bumped whenever the order of any sum changes.
    pub version: u32,
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, isa, compute, kv, world_size, batch_invariant, version } = self;
        let order = if *batch_invariant { "invariant" } else { "variant" };
        write!(f, "{device}/{isa}/{compute}/kv-{kv}/tp{world_size}/{order}/v{version}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_dns_labels_and_nothing_else() {
        for good in ["a", "glm-4-9b", "0", &"x".repeat(63)] {
            assert_eq!(good.parse::<ModelId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a/b", "a.b", "ü", &"x".repeat(64)] {
            assert!(bad.parse::<GroupId>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn an_epoch_never_goes_back_even_when_the_clock_does() {
        assert_eq!(Epoch::after(None, 5), Epoch(5));
        assert_eq!(Epoch::after(Some(Epoch(9)), 5), Epoch(10));
        assert_eq!(Epoch::after(Some(Epoch(9)), 50), Epoch(50));
    }
}
