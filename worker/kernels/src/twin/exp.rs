//! eˣ as one fixed sequence of roundings, so that all lanes on all machines agree.
//!
//! x = n·ln 2 + r with an integer n and |r| ≤ ½ ln 2; eʳ is a polynomial and 2ⁿ an exponent. n is
//! found by adding a number so large that the fraction is rounded away, which leaves n in the
//! lowest bits of the sum.

pub(crate) const EXP_MAX: f32 = 88.376_26;
pub(crate) const EXP_MIN: f32 = -87.336_54;
pub(crate) const LOG_2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has so few bits that its product with n is exact.
pub(crate) const LN_2_HIGH: f32 = 0.693_359_4;
pub(crate) const LN_2_LOW: f32 = -2.121_944_4e-4;
/// 1.5 · 2²³
pub(crate) const ROUND_TO_INTEGER: f32 = 12_582_912.0;
/// (eʳ − 1 − r) / r², the highest power first.
pub(crate) const COEFFICIENTS: [f32; 6] =
    [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// Returns eˣ within two roundings, for x held within −87.3 and 88.3: beyond them it stays what it
/// is there, about 10⁻³⁸ and 10³⁸.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = super::smaller(EXP_MAX, super::larger(EXP_MIN, x));
    let rounded = x.mul_add(LOG_2_E, ROUND_TO_INTEGER);
    let n = rounded - ROUND_TO_INTEGER;
    let r = n.mul_add(-LN_2_HIGH, x);
    let r = n.mul_add(-LN_2_LOW, r);
    let mut p = COEFFICIENTS[0];
    for c in &COEFFICIENTS[1..] {
        p = p.mul_add(r, *c);
    }
    let y = p.mul_add(r * r, r) + 1.0;
    y * exp2_of_rounded(rounded)
}

/// Returns 2ⁿ for `ROUND_TO_INTEGER + n`.
#[inline(always)]
pub(crate) fn exp2_of_rounded(rounded: f32) -> f32 {
    f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_right_to_two_roundings_over_its_range() {
        for i in 0..400_000 {
            let x = -87.3 + i as f32 * (88.3 + 87.3) / 400_000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) = {}, off {error}", exp(x));
        }
    }

    #[test]
    fn exp_of_zero_is_exactly_one() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
    }

    #[test]
    fn exp_stays_finite_and_keeps_what_is_no_number() {
        assert!(exp(f32::INFINITY) > 2e38 && exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::NAN).is_nan());
    }
}
