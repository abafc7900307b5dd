use super::*;
use crate::report::{Distribution, FindMax, Generator, Kind, Summary};

fn run(load: &str, ttft_p95: f64, failed: u64) -> Run {
    let of =
        |p95: f64| Distribution { count: 100, p50: p95 / 2.0, p95, p99: p95, ..Default::default() };
    let summary = Summary {
        requests: 1000,
        done: 1000 - failed,
        failed,
        done_per_s: 10.0,
        output_tokens_per_s: 320.0,
        prompt_tokens: 100,
        cached_tokens: 50,
        cached_tokens_known: true,
        ttft: of(ttft_p95),
        e2e: of(1000.0),
        ..Default::default()
    };
    Run {
        target: 0,
        load: load.to_owned(),
        rate: Some(10.0),
        started_at: None,
        measured_from_s: 0.0,
        measured_to_s: 100.0,
        elapsed_s: 101.0,
        summary,
        parts: Vec::new(),
        generator: Generator::default(),
        series: Vec::new(),
        server_queue_ms: None,
        server: Vec::new(),
    }
}

fn report(runs: Vec<Run>) -> Report {
    Report {
        schema: crate::report::SCHEMA.to_owned(),
        kind: Kind::Run,
        glint_version: "0.1.0".to_owned(),
        started_at: "2026-11-25T12:00:00Z".to_owned(),
        command: Vec::new(),
        targets: Vec::new(),
        workload: String::new(),
        slo: Vec::new(),
        runs,
        intervals: Default::default(),
        find_max: None,
        comparison: None,
        assertions: Vec::new(),
        warnings: Vec::new(),
    }
}

fn verdict(comparison: &Comparison, figure: &str) -> Verdict {
    comparison.figures.iter().find(|f| f.figure == figure).unwrap().verdict
}

fn of_p95s(a: &[f64], b: &[f64]) -> Comparison {
    let of = |p95s: &[f64]| p95s.iter().map(|p95| run("x", *p95, 0)).collect::<Vec<_>>();
    let (a, b) = (of(a), of(b));
    runs(["a", "b"], &a.iter().collect::<Vec<_>>(), &b.iter().collect::<Vec<_>>(), 0.05)
}

#[test]
fn of_single_runs_the_tolerance_decides() {
    assert_eq!(verdict(&of_p95s(&[100.0], &[104.9]), "ttft_p95"), Verdict::Same);
    assert_eq!(verdict(&of_p95s(&[100.0], &[105.1]), "ttft_p95"), Verdict::Worse);
    assert_eq!(verdict(&of_p95s(&[100.0], &[95.0]), "ttft_p95"), Verdict::Better);
    assert_eq!(of_p95s(&[100.0], &[90.0]).figures[1].ratio_low, None);
}

#[test]
fn of_repeats_their_own_spread_decides_too() {
    // 30 % apart on average, but one side's repeats are a factor of two apart.
    let noisy = of_p95s(&[100.0, 101.0, 99.0], &[80.0, 170.0, 165.0]);
    assert_eq!(verdict(&noisy, "ttft_p95"), Verdict::Same);
    let clear = of_p95s(&[100.0, 101.0, 99.0], &[130.0, 131.0, 129.0]);
    assert_eq!(verdict(&clear, "ttft_p95"), Verdict::Worse);
    let figure = &clear.figures[1];
    assert!(figure.ratio_low.unwrap() < 1.3 && figure.ratio_high.unwrap() > 1.3, "{figure:?}");
    assert!((figure.ratio.unwrap() - 1.3).abs() < 0.001, "{figure:?}");
}

#[test]
fn a_ratio_is_as_good_as_its_inverse_is_bad() {
    let there = of_p95s(&[100.0, 104.0], &[140.0, 143.0]);
    let back = of_p95s(&[140.0, 143.0], &[100.0, 104.0]);
    let (x, y) = (&there.figures[1], &back.figures[1]);
    assert!((x.ratio.unwrap() * y.ratio.unwrap() - 1.0).abs() < 1e-12);
    assert!((x.ratio_low.unwrap() * y.ratio_high.unwrap() - 1.0).abs() < 1e-12);
    assert_eq!((x.verdict, y.verdict), (Verdict::Worse, Verdict::Better));
}

#[test]
fn failures_have_no_tolerance_but_chance() {
    let of = |failed| run("x", 100.0, failed);
    let compared = |a, b| runs(["a", "b"], &[&of(a)], &[&of(b)], 0.05);
    assert_eq!(verdict(&compared(0, 1), "failed_share"), Verdict::Same);
    assert_eq!(verdict(&compared(0, 8), "failed_share"), Verdict::Worse);
    assert_eq!(verdict(&compared(20, 2), "failed_share"), Verdict::Better);
    let sentence = compared(0, 8).verdict;
    assert_eq!(sentence, "b is worse than a: failed_share 0.0 % → 0.8 %.");
}

#[test]
fn equal_runs_are_the_same_in_one_sentence() {
    let same = of_p95s(&[100.0, 100.0], &[100.0, 100.0]);
    assert!(same.figures.iter().all(|figure| figure.verdict == Verdict::Same));
    assert_eq!(same.verdict, "b is as good as a: no figure of 10 differs.");
}

#[test]
fn files_compare_the_loads_that_they_share() {
    let a = report(vec![run("5/s", 100.0, 0), run("10/s", 200.0, 0), run("20/s", 300.0, 0)]);
    let b = report(vec![run("10/s", 260.0, 0), run("20/s", 300.0, 0), run("40/s", 900.0, 0)]);
    let compared = files(["a", "b"], &a, &b, 0.05);
    assert!(
        compared.figures.iter().all(|f| !f.figure.ends_with("5/s") && !f.figure.ends_with("40/s"))
    );
    assert_eq!(verdict(&compared, "ttft_p95 at 10/s"), Verdict::Worse);
    assert_eq!(verdict(&compared, "ttft_p95 at 20/s"), Verdict::Same);
    assert!(
        compared.verdict.starts_with("b is worse than a: ttft_p50 at 10/s +30.0 %"),
        "{}",
        compared.verdict
    );
}

#[test]
fn a_verdict_over_two_loads_says_that_they_differ() {
    let (a, b) = (report(vec![run("5/s", 100.0, 0)]), report(vec![run("9/s", 300.0, 0)]));
    let compared = files(["a", "b"], &a, &b, 0.05);
    assert!(compared.verdict.ends_with("mind that the loads differ (5/s for a, 9/s for b)."));
    let nothing = files(["a", "b"], &a, &report(Vec::new()), 0.05);
    assert_eq!(nothing.verdict, "a and b have no load and no figure in common.");
}

#[test]
fn the_highest_rates_of_two_searches_are_compared() {
    let of = |rate| Report {
        find_max: Some(FindMax { rate: Some(rate), above: None, probes: Vec::new() }),
        ..report(Vec::new())
    };
    let compared = files(["a", "b"], &of(100.0), &of(80.0), 0.05);
    assert_eq!(compared.verdict, "b is worse than a: max_rate -20.0 %.");
}
