//! `exp`, `ln` and `log1p` with bits that never change.
//!
//! A library's elementary functions differ between platforms and versions in the last place, which would let two
//! groups draw different tokens from equal logits. These are fixed sequences of IEEE operations and fused
//! multiply-adds, so scalar code, SIMD lanes and CUDA give the same bits. Errors are below 1.5 units in the last
//! place (tested). Arguments are what a sampler needs; results that would be subnormal are 0.

const LN2_HI: f32 = 355.0 / 512.0; // 10 bits, so that n * LN2_HI is exact for |n| < 2^13
const LN2_LO: f32 = -2.121_944_4e-4;

/// Returns e to the power of `x`, 0 below −87.3, infinity above 88.7.
#[must_use]
pub fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    if x > 88.722_84 {
        return f32::INFINITY;
    }
    if x < -87.336_54 {
        return 0.0;
    }
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, x));
    // Taylor to r^7: |r| <= ln(2)/2, so the first term left out is below 6e-9.
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.mul_add(p, c);
    }
    // Two factors, because 2^128 is no f32 although the product may be one.
    let half = (n as i32) >> 1;
    p * exp2_int(half) * exp2_int(n as i32 - half)
}

/// Returns the natural logarithm of `x`: −∞ at 0, NaN below.
#[must_use]
pub fn ln(x: f32) -> f32 {
    if x.is_nan() || x < 0.0 {
        return f32::NAN;
    }
    if x == 0.0 {
        return f32::NEG_INFINITY;
    }
    if x == f32::INFINITY {
        return x;
    }
    // m in [1/sqrt 2, sqrt 2), x = m 2^e
    let bits = x.to_bits();
    let e = ((bits.wrapping_sub(0x3f35_04f3)) as i32) >> 23;
    let m = f32::from_bits(bits.wrapping_sub((e as u32) << 23));
    let e = e as f32;
    let log_m = two_atanh((m - 1.0) / (m + 1.0), m - 1.0);
    e.mul_add(LN2_HI, e.mul_add(LN2_LO, log_m))
}

/// Returns ln(1 + x) for x ≥ −1, precise near 0.
#[must_use]
pub fn log1p(x: f32) -> f32 {
    if x > -0.292_9 && x < 0.414_2 {
        return two_atanh(x / (2.0 + x), x);
    }
    let u = 1.0 + x;
    if u == 0.0 {
        return f32::NEG_INFINITY;
    }
    // What the rounding of 1 + x lost, to first order; below 1/2 the sum is exact.
    let lost = if u < 0.5 { 0.0 } else { x - (u - 1.0) };
    ln(u) + lost / u
}

/// `2 atanh(s)` where s = f / (2 + f): ln(1 + f) = f − s (f − R), and the series R = 2 s² (1/3 + s²/5 + …)
/// needs five terms for |s| < 0.1716.
fn two_atanh(s: f32, f: f32) -> f32 {
    let z = s * s;
    let mut p = 2.0 / 11.0;
    for c in [2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0] {
        p = z.mul_add(p, c);
    }
    // 2s = f - s f, so that the leading term f is exact.
    (-s).mul_add(z.mul_add(-p, f), f)
}

fn exp2_int(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulps(got: f32, want: f64) -> f64 {
        let ulp = f64::from((want as f32).abs().next_up() - (want as f32).abs());
        (f64::from(got) - want).abs() / ulp
    }

    #[test]
    fn errors_stay_below_one_and_a_half_units_in_the_last_place() {
        let mut worst = [0.0f64; 3];
        for i in 1..2_000_000u32 {
            let x = -87.0 + i as f32 * 8.7e-5;
            worst[0] = worst[0].max(ulps(exp(x), f64::from(x).exp()));
            let y = f32::from_bits(0x0080_0000 + i * 1063);
            worst[1] = worst[1].max(ulps(ln(y), f64::from(y).ln()));
            let v = -(i as f32 / 2_000_000.0);
            worst[2] = worst[2].max(ulps(log1p(v), f64::from(v).ln_1p()));
        }
        assert!(worst.iter().all(|&w| w < 1.5), "exp, ln, log1p are off by {worst:?} ulp");
    }

    #[test]
    fn the_ends_of_the_line_are_exact() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(1e9), f32::INFINITY);
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f32::NEG_INFINITY);
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
        assert_eq!(log1p(-1.0), f32::NEG_INFINITY);
        assert_eq!(log1p(-1e-30), -1e-30);
        assert!(exp(f32::NAN).is_nan() && ln(f32::NAN).is_nan() && ln(-1.0).is_nan());
    }
}
