//! Where does randomness come from, and names that nobody else has?
//!
//! Every session draws from a source of its own, named by the run's seed and the session's number: so a session is the same
//! whatever was drawn before it, at any rate, and can be made alone.

use rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus};

/// What a number is for, so that equal numbers for different uses meet no equal randomness.
pub(crate) const ARRIVALS: u64 = 1;
pub(crate) const SESSION: u64 = 2;
pub(crate) const PREFIX: u64 = 3;
pub(crate) const TURN: u64 = 4;
pub(crate) const BLOCK: u64 = 5;
pub(crate) const KEEP: u64 = 6;
pub(crate) const CLIENT: u64 = 7;
pub(crate) const NAMED: u64 = 8;
pub(crate) const READER: u64 = 9;

/// The source of randomness that `parts` name. The generator is named, not the library's default, so that an upgrade of the
/// library does not change schedules.
pub(crate) fn rng(parts: &[u64]) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(name(parts))
}

/// A number for `parts`; equal for equal parts only, but for a collision in 2^64.
pub(crate) fn name(parts: &[u64]) -> u64 {
    parts.iter().fold(0x243f_6a88_85a3_08d3, |name, part| {
        mix(name.wrapping_add(mix(part.wrapping_add(STEP))).wrapping_add(STEP))
    })
}

/// 2^64 over the golden ratio: an odd step that visits every number.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Scatters a number over all 64 bits, one to one (the finish of SplitMix64).
#[inline]
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
