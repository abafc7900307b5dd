//! How far apart are two sets of numbers, and how far may chance alone have put them?

use crate::report::Interval;

/// Two means, what lies between them, and its 95 % interval where the repeats allow one.
pub(super) struct Estimate {
    pub(super) a: f64,
    pub(super) b: f64,
    pub(super) value: f64,
    pub(super) interval: Option<(f64, f64)>,
}

/// `t` such that 95 % of Student's distribution with `freedom` degrees lies within ±`t`: the table of the 0.975 quantile,
/// between its rows linear in `1/freedom`, which errs to the wide side.
#[must_use]
pub fn student_t975(freedom: f64) -> f64 {
    const TABLE: [(f64, f64); 19] = [
        (1.0, 12.7062),
        (2.0, 4.3027),
        (3.0, 3.1824),
        (4.0, 2.7764),
        (5.0, 2.5706),
        (6.0, 2.4469),
        (7.0, 2.3646),
        (8.0, 2.3060),
        (9.0, 2.2622),
        (10.0, 2.2281),
        (12.0, 2.1788),
        (15.0, 2.1314),
        (20.0, 2.0860),
        (25.0, 2.0595),
        (30.0, 2.0423),
        (40.0, 2.0211),
        (60.0, 2.0003),
        (120.0, 1.9799),
        (f64::INFINITY, Z),
    ];
    let freedom = freedom.max(1.0);
    let above = TABLE.partition_point(|(row, _)| *row < freedom);
    let (row, t) = TABLE[above];
    let Some((row_before, t_before)) = above.checked_sub(1).map(|i| TABLE[i]) else { return t };
    let along = (1.0 / row_before - 1.0 / freedom) / (1.0 / row_before - 1.0 / row);
    t_before + along * (t - t_before)
}

/// The same of the normal distribution.
const Z: f64 = 1.959_964;

/// Arithmetic mean; `values` is not empty.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean and variance of the mean.
fn moments(values: &[f64]) -> (f64, f64) {
    let mean = mean(values);
    let n = values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, squares / (n - 1.0) / n)
}

/// The mean of two or more repeats and its interval of Student's t.
pub(super) fn interval(values: &[f64]) -> Interval {
    let (mean, variance) = moments(values);
    let half = student_t975((values.len() - 1) as f64) * variance.sqrt();
    Interval { mean, low: mean - half, high: mean + half, repeats: values.len() }
}

/// `mean(ys) - mean(xs)` with the interval of B. L. Welch, "The generalization of 'Student's' problem when several different
/// population variances are involved", Biometrika 34 (1947), and the degrees of freedom of F. E. Satterthwaite (1946).
pub(super) fn mean_difference(xs: &[f64], ys: &[f64]) -> Estimate {
    let (a, b) = (mean(xs), mean(ys));
    let value = b - a;
    if xs.len() < 2 || ys.len() < 2 {
        return Estimate { a, b, value, interval: None };
    }
    let ((_, var_a), (_, var_b)) = (moments(xs), moments(ys));
    let variance = var_a + var_b;
    let freedom = variance.powi(2)
        / (var_a.powi(2) / (xs.len() - 1) as f64 + var_b.powi(2) / (ys.len() - 1) as f64);
    // Where all repeats are equal there is no spread, and no number of degrees either.
    let half = if variance > 0.0 { student_t975(freedom) * variance.sqrt() } else { 0.0 };
    Estimate { a, b, value, interval: Some((value - half, value + half)) }
}

/// The ratio of the geometric means, `b / a`; nothing where a value is not above 0.
pub(super) fn geometric_ratio(xs: &[f64], ys: &[f64]) -> Option<Estimate> {
    if xs.iter().chain(ys).any(|value| *value <= 0.0) {
        return None;
    }
    let logarithms = |values: &[f64]| values.iter().map(|value| value.ln()).collect::<Vec<_>>();
    let Estimate { a, b, value, interval } = mean_difference(&logarithms(xs), &logarithms(ys));
    Some(Estimate {
        a: a.exp(),
        b: b.exp(),
        value: value.exp(),
        interval: interval.map(|(low, high)| (low.exp(), high.exp())),
    })
}

/// The difference of two proportions, each `(count, of)`, with the hybrid score interval of R. G. Newcombe, "Interval
/// estimation for the difference between independent proportions", Statistics in Medicine 17 (1998), method 10.
pub(super) fn proportion_difference(a: (u64, u64), b: (u64, u64)) -> Estimate {
    let ((pa, low_a, high_a), (pb, low_b, high_b)) = (wilson(a), wilson(b));
    let value = pb - pa;
    let low = value - ((pb - low_b).powi(2) + (high_a - pa).powi(2)).sqrt();
    let high = value + ((high_b - pb).powi(2) + (pa - low_a).powi(2)).sqrt();
    Estimate { a: pa, b: pb, value, interval: Some((low, high)) }
}

/// A proportion and its score interval (E. B. Wilson, 1927); `of` is not 0.
fn wilson((count, of): (u64, u64)) -> (f64, f64, f64) {
    let n = of as f64;
    let p = count as f64 / n;
    let z2 = Z * Z;
    let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    (p, middle - half, middle + half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_quantile_is_the_tables_and_between_its_rows_never_too_small() {
        assert_eq!(student_t975(1.0), 12.7062);
        assert_eq!(student_t975(10.0), 2.2281);
        assert!((student_t975(f64::INFINITY) - 1.96).abs() < 1e-3);
        // True values: 2.2010 for 11, 2.0032 for 55.8 (between 60 and 40), 1.9623 for 1000.
        assert!((2.2010..2.2030).contains(&student_t975(11.0)), "{}", student_t975(11.0));
        assert!((1.9623..1.9630).contains(&student_t975(1000.0)), "{}", student_t975(1000.0));
        assert!(student_t975(0.3) == 12.7062, "below one degree there is no spread to speak of");
    }

    #[test]
    fn welchs_interval_is_that_of_a_published_example() {
        // By hand: variances 2.5 and 10 over 5 each, se = sqrt(0.5 + 2), df = 6.25 / (0.0625 + 1) = 5.88.
        let Estimate { value, interval, .. } =
            mean_difference(&[1.0, 2.0, 3.0, 4.0, 5.0], &[2.0, 4.0, 6.0, 8.0, 10.0]);
        let (low, high) = interval.unwrap();
        assert!((value - 3.0).abs() < 1e-12);
        let half = 2.459 * 2.5_f64.sqrt();
        assert!((high - low - 2.0 * half).abs() < 0.03, "{low} {high} {half}");
    }

    #[test]
    fn newcombes_interval_is_that_of_his_paper() {
        // Table II (a): 56/70 and 48/80, method 10: 0.0524 to 0.3339.
        let Estimate { value, interval, .. } = proportion_difference((48, 80), (56, 70));
        let (low, high) = interval.unwrap();
        assert!((value - 0.2).abs() < 1e-9);
        assert!((low - 0.0524).abs() < 5e-4 && (high - 0.3339).abs() < 5e-4, "{low} {high}");
    }
}
