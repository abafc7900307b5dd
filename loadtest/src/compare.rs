//! Is the second better than the first, figure by figure, and how sure is that?
//!
//! Repeats are compared by the ratio of their geometric means, with Welch's interval on the logarithms: latencies and rates are
//! positive and their spread grows with them, so that on the logarithm two loads differ by a factor, whatever the figure. Shares
//! may be 0 and are compared by their difference; failures are counted, so that a single run suffices to say whether they
//! became more.

mod figure;
mod spread;

use std::collections::{BTreeMap, BTreeSet};

use crate::report::{Comparison, Difference, Interval, Report, Run, Verdict};
use figure::{FIGURES, Figure, Scale};
pub use spread::student_t975;

/// Compares the results of two commands. Runs are compared with those of the same load, and loads that only one has are left
/// out; where each has one load, they are compared even if they are not the same, and the verdict says so.
///
/// `names` are those of the first and the second, `tolerance` the share that a figure may differ by (0.05: 5 %).
#[must_use]
pub fn files(names: [&str; 2], a: &Report, b: &Report, tolerance: f64) -> Comparison {
    let (loads_a, loads_b) = (loads(a), loads(b));
    let shared: Vec<&str> = loads_a.iter().copied().filter(|load| loads_b.contains(load)).collect();
    let mut figures = Vec::new();
    if let (Some(a), Some(b)) = (max_rate(a), max_rate(b)) {
        figures.push(figure::max_rate(a, b, tolerance));
    }
    let mut caution = None;
    if let ([load_a], [load_b]) = (&loads_a[..], &loads_b[..]) {
        if load_a != load_b {
            caution = Some(format!(
                "the loads differ ({load_a} for {}, {load_b} for {})",
                names[0], names[1]
            ));
        }
        figures.extend(compare(&of_load(a, load_a), &of_load(b, load_b), tolerance));
    } else {
        for load in &shared {
            let differences = compare(&of_load(a, load), &of_load(b, load), tolerance);
            figures.extend(differences.into_iter().map(|mut difference| {
                difference.figure = format!("{} at {load}", difference.figure);
                difference
            }));
        }
    }
    conclude(names, figures, caution)
}

/// Compares two sets of runs of one load, as `compare` makes them in turn.
///
/// `names` are those of the first and the second, `tolerance` the share that a figure may differ by (0.05: 5 %).
#[must_use]
pub fn runs(names: [&str; 2], a: &[&Run], b: &[&Run], tolerance: f64) -> Comparison {
    conclude(names, compare(a, b, tolerance), None)
}

/// The mean of each figure over repeats of one load, with its 95 % interval; empty for fewer than two.
#[must_use]
pub fn intervals(runs: &[Run]) -> BTreeMap<String, Interval> {
    if runs.len() < 2 {
        return BTreeMap::new();
    }
    let one = |figure: &Figure| {
        let values = figure.values(runs);
        (values.len() == runs.len()).then(|| (figure.name().to_owned(), spread::interval(&values)))
    };
    FIGURES.iter().filter_map(one).collect()
}

fn loads(report: &Report) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    report.runs.iter().map(|run| run.load.as_str()).filter(|load| seen.insert(*load)).collect()
}

fn of_load<'a>(report: &'a Report, load: &str) -> Vec<&'a Run> {
    report.runs.iter().filter(|run| run.load == load).collect()
}

fn max_rate(report: &Report) -> Option<f64> {
    report.find_max.as_ref()?.rate
}

fn compare(a: &[&Run], b: &[&Run], tolerance: f64) -> Vec<Difference> {
    if a.is_empty() || b.is_empty() {
        return Vec::new();
    }
    FIGURES.iter().filter_map(|figure| figure.compare(a, b, tolerance)).collect()
}

fn conclude(names: [&str; 2], figures: Vec<Difference>, caution: Option<String>) -> Comparison {
    let verdict = sentence(names, &figures, caution.as_deref());
    Comparison { a: names[0].to_owned(), b: names[1].to_owned(), figures, verdict }
}

/// At most this many figures of one kind are named in the verdict; the table has them all.
const NAMED: usize = 3;

fn sentence([a, b]: [&str; 2], figures: &[Difference], caution: Option<&str>) -> String {
    let caution = caution.map(|caution| format!("; mind that {caution}")).unwrap_or_default();
    if figures.is_empty() {
        return format!("{a} and {b} have no load and no figure in common{caution}.");
    }
    let worse = changes(figures, Verdict::Worse);
    let better = changes(figures, Verdict::Better);
    let what = match (worse, better) {
        (None, None) => {
            format!("{b} is as good as {a}: no figure of {} differs", figures.len())
        }
        (Some(worse), None) => format!("{b} is worse than {a}: {worse}"),
        (None, Some(better)) => format!("{b} is better than {a}: {better}"),
        (Some(worse), Some(better)) => {
            format!(
                "{b} is worse than {a} in some and better in others: worse are {worse}; better are {better}"
            )
        }
    };
    format!("{what}{caution}.")
}

fn changes(figures: &[Difference], verdict: Verdict) -> Option<String> {
    let changed: Vec<&Difference> = figures.iter().filter(|f| f.verdict == verdict).collect();
    if changed.is_empty() {
        return None;
    }
    let mut words: Vec<String> = changed.iter().take(NAMED).map(|f| change(f)).collect();
    if changed.len() > NAMED {
        words.push(format!("{} more", changed.len() - NAMED));
    }
    Some(words.join(", "))
}

/// `ttft_p95 +12.3 %`; for a share `failed_share 0.0 % → 2.1 %`.
fn change(difference: &Difference) -> String {
    let figure = &difference.figure;
    match (Figure::scale_of(figure), difference.ratio) {
        (Scale::Ratio, Some(ratio)) => format!("{figure} {:+.1} %", (ratio - 1.0) * 100.0),
        (Scale::Ratio, None) => format!("{figure} {} → {}", difference.a, difference.b),
        (Scale::Points | Scale::Count, _) => {
            format!("{figure} {:.1} % → {:.1} %", difference.a * 100.0, difference.b * 100.0)
        }
    }
}

#[cfg(test)]
mod tests;
