//! Which tables does a report have?

use super::{
    grid::{Cell, Grid, Mood, cell},
    words::{brief, bytes, count, ms, plural, share, three},
};
use crate::report::{
    Comparison, Difference, Distribution, Generator, Kind, Report, Run, Summary, Verdict,
};

const NOTHING: &str = "–";

/// What the report says, in a few words.
pub(super) fn headline(report: &Report) -> String {
    match report.kind {
        Kind::FindMax => match report.find_max.as_ref() {
            Some(found) => match (found.rate, found.above) {
                (Some(rate), Some(_)) => format!("Holds up to {} requests/s", brief(rate)),
                (Some(rate), None) => {
                    format!("Holds {} requests/s, the most that was tried", brief(rate))
                }
                (None, Some(above)) => format!("Does not even hold {} requests/s", brief(above)),
                (None, None) => "No rate was tried to its end".to_owned(),
            },
            None => "The search for the highest rate did not end".to_owned(),
        },
        Kind::Sweep => format!("Sweep over {}", plural(report.runs.len(), "load")),
        Kind::Compare => match report.comparison.as_ref() {
            Some(comparison) => format!("{} against {}", comparison.b, comparison.a),
            None => "Two targets in turn".to_owned(),
        },
        Kind::Run => match &report.runs[..] {
            [] => "Nothing was measured".to_owned(),
            [run] => capital(&run.load),
            [run, ..] => format!("{}, {} times", capital(&run.load), report.runs.len()),
        },
    }
}

fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}

fn latency(distribution: &Distribution, value: f64) -> Cell {
    if distribution.count == 0 { NOTHING.into() } else { ms(value).into() }
}

/// Latencies from the schedule, and what a tool that forgets it would show.
pub(super) fn latencies(summary: &Summary) -> Grid {
    let mut grid = Grid::default()
        .words(["Latency"])
        .numbers(["p50", "p90", "p95", "p99", "mean", "max", "values"]);
    let rows = [
        ("TTFT, from the schedule", &summary.ttft),
        ("ITL, between tokens", &summary.itl),
        ("TPOT, per answer", &summary.tpot),
        ("E2E, from the schedule", &summary.e2e),
        ("TTFT, from the sending", &summary.ttft_from_sent),
    ];
    for (name, d) in rows {
        let values = [d.p50, d.p90, d.p95, d.p99, d.mean, d.max].map(|value| latency(d, value));
        grid.row([name.into()].into_iter().chain(values).chain([count(d.count).into()]));
    }
    grid
}

/// Requests by what became of them, and rates.
pub(super) fn counts(report: &Report, summary: &Summary) -> Grid {
    let mut grid = Grid::default().words(["Requests"]).numbers(["number", "share"]);
    let of_requests = |part: u64| ratio(part, summary.requests).map_or(NOTHING.into(), share);
    let rows = [
        ("sent", summary.requests, Mood::Plain),
        ("answered whole", summary.done, Mood::Plain),
        ("left by the client, as asked", summary.left, Mood::Plain),
        ("still running at the end", summary.unfinished, Mood::bad_if(summary.unfinished > 0)),
        ("failed", summary.failed, Mood::bad_if(summary.failed > 0)),
    ];
    for (name, number, mood) in rows {
        grid.row([name.into(), cell(count(number), mood), cell(of_requests(number), mood)]);
    }
    if let Some(good) = summary.good_share {
        let number = (good * summary.requests as f64).round() as u64;
        let name = format!("good: {}", report.slo.join(" and "));
        grid.row([name.into(), count(number).into(), share(good).into()]);
    }
    grid
}

/// Rates over the measured window, and tokens.
pub(super) fn rates(summary: &Summary) -> Grid {
    let mut grid = Grid::default().words(["Rate"]).numbers(["per second", "in all"]);
    let mut row = |name: &str, rate: f64, all: String| {
        grid.row([name.into(), three(rate).into(), all.into()]);
    };
    row("requests sent", summary.requests_per_s, count(summary.requests));
    row("whole answers", summary.done_per_s, count(summary.done));
    if let Some(goodput) = summary.goodput_per_s {
        row("good answers (goodput)", goodput, NOTHING.to_owned());
    }
    row("output tokens", summary.output_tokens_per_s, count(summary.output_tokens));
    grid.row(["prompt tokens".into(), NOTHING.into(), count(summary.prompt_tokens).into()]);
    grid.row(["of them from a prefix cache".into(), cached(summary).into(), {
        if summary.cached_tokens_known { count(summary.cached_tokens) } else { NOTHING.to_owned() }
            .into()
    }]);
    grid
}

/// The share of prompt tokens that a prefix cache had.
pub(super) fn cached(summary: &Summary) -> String {
    if !summary.cached_tokens_known {
        return "not said".to_owned();
    }
    ratio(summary.cached_tokens, summary.prompt_tokens).map_or(NOTHING.to_owned(), share)
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Failures by kind, with the first of each.
pub(super) fn errors(summary: &Summary) -> Grid {
    let mut grid =
        Grid::default().words(["Failure"]).numbers(["number"]).words(["The first of them"]);
    for (kind, number) in &summary.errors {
        let example = summary.error_examples.get(kind).map_or("", String::as_str);
        grid.row([cell(kind.name(), Mood::Bad), count(*number).into(), example.into()]);
    }
    grid
}

/// The same, of all runs.
pub(super) fn all_errors(report: &Report) -> Grid {
    let mut grid =
        Grid::default().words(["Run", "Failure"]).numbers(["number"]).words(["The first of them"]);
    for run in &report.runs {
        for (kind, number) in &run.summary.errors {
            let example = run.summary.error_examples.get(kind).map_or("", String::as_str);
            grid.row([
                name(report, run).into(),
                cell(kind.name(), Mood::Bad),
                count(*number).into(),
                example.into(),
            ]);
        }
    }
    grid
}

/// One row per part.
pub(super) fn parts(run: &Run) -> Grid {
    let mut grid = Grid::default()
        .words(["By", "Name"])
        .numbers(["requests", "TTFT p50", "p95", "ITL p95", "E2E p95", "good", "failed"]);
    for part in &run.parts {
        let s = &part.summary;
        grid.row([
            part.by.as_str().into(),
            part.name.as_str().into(),
            count(s.requests).into(),
            latency(&s.ttft, s.ttft.p50),
            latency(&s.ttft, s.ttft.p95),
            latency(&s.itl, s.itl.p95),
            latency(&s.e2e, s.e2e.p95),
            s.good_share.map_or(NOTHING.into(), share).into(),
            failed(s),
        ]);
    }
    grid
}

fn failed(summary: &Summary) -> Cell {
    cell(count(summary.failed), Mood::bad_if(summary.failed > 0))
}

/// One row per run: for a sweep, a search, repeats and turns.
pub(super) fn runs(report: &Report) -> Grid {
    let mut grid = Grid::default().words(["Run"]).numbers([
        "TTFT p50", "p95", "p99", "ITL p95", "E2E p95", "done/s", "tokens/s", "good", "failed",
        "late",
    ]);
    for run in &report.runs {
        let s = &run.summary;
        let late = &run.generator.lateness;
        grid.row([
            name(report, run).into(),
            latency(&s.ttft, s.ttft.p50),
            latency(&s.ttft, s.ttft.p95),
            latency(&s.ttft, s.ttft.p99),
            latency(&s.itl, s.itl.p95),
            latency(&s.e2e, s.e2e.p95),
            three(s.done_per_s).into(),
            three(s.output_tokens_per_s).into(),
            s.good_share.map_or(NOTHING.into(), share).into(),
            failed(s),
            cell(
                if late.count == 0 { NOTHING.to_owned() } else { ms(late.p99) },
                Mood::bad_if(!run.generator.kept_schedule),
            ),
        ]);
    }
    grid
}

/// What tells a run from the report's others: its target, its rate, or else its number.
pub(super) fn name(report: &Report, run: &Run) -> String {
    let several_loads = report.runs.iter().any(|other| other.load != run.load);
    let load = match run.rate {
        Some(rate) if several_loads => format!("{}/s", brief(rate)),
        _ if several_loads => run.load.clone(),
        _ => {
            let number = report.runs.iter().position(|other| std::ptr::eq(other, run));
            format!("run {}", number.map_or(0, |number| number + 1))
        }
    };
    if report.targets.len() < 2 { load } else { format!("{} {load}", target(report, run)) }
}

/// What a run's target is called: as in the comparison, else by its address.
fn target(report: &Report, run: &Run) -> String {
    let names = report.comparison.as_ref().map(|comparison| [&comparison.a, &comparison.b]);
    match names.and_then(|names| names.get(run.target).copied()) {
        Some(name) => name.clone(),
        None => {
            report.targets.get(run.target).map_or_else(String::new, |target| target.url.clone())
        }
    }
}

/// Whether the generator kept its schedule, in a sentence.
pub(super) fn schedule(generator: &Generator) -> String {
    let late = &generator.lateness;
    if late.count == 0 {
        return "The generator sent nothing.".to_owned();
    }
    let how =
        format!("lateness p50 {}, p99 {}, at most {}", ms(late.p50), ms(late.p99), ms(late.max));
    if generator.kept_schedule {
        format!("The generator kept its schedule: {how}.")
    } else {
        format!("The generator did NOT keep its schedule ({how}): it, too, is in the latencies.")
    }
}

/// What the generator used.
pub(super) fn generator(run: &Run) -> Grid {
    let g = &run.generator;
    let mut grid = Grid::default().words(["Generator"]).numbers(["value"]);
    let per_request = if run.summary.requests > 0 {
        // The process's time is of the whole run, so are the requests it is divided by.
        let sent: u64 = run.series.iter().map(|second| second.sent).sum();
        if sent > 0 {
            format!("{} ms", three(g.cpu_s * 1000.0 / sent as f64))
        } else {
            NOTHING.into()
        }
    } else {
        NOTHING.into()
    };
    let kept = if g.kept_schedule { "yes" } else { "no" };
    grid.row(["kept its schedule".into(), cell(kept, Mood::good_if(g.kept_schedule))]);
    for (name, value) in [("p50", g.lateness.p50), ("p99", g.lateness.p99), ("max", g.lateness.max)]
    {
        grid.row([format!("lateness {name}").into(), latency(&g.lateness, value)]);
    }
    grid.row(["processor time".into(), format!("{} s", three(g.cpu_s)).into()]);
    grid.row(["processor time per request".into(), per_request.into()]);
    grid.row(["most streams at one time".into(), count(g.streams_peak).into()]);
    grid.row(["connections opened".into(), count(g.connections).into()]);
    grid.row(["largest resident memory".into(), bytes(g.rss_bytes).into()]);
    grid
}

/// Rates tried by a search.
pub(super) fn probes(report: &Report) -> Grid {
    let mut grid = Grid::default().numbers(["Rate/s"]).words(["held", "why"]);
    for probe in report.find_max.iter().flat_map(|found| &found.probes) {
        let held = if probe.held { "yes" } else { "no" };
        grid.row([
            brief(probe.rate).into(),
            cell(held, Mood::good_if(probe.held)),
            probe.reason.as_str().into(),
        ]);
    }
    grid
}

/// Two targets or files, figure by figure.
pub(super) fn comparison(comparison: &Comparison) -> Grid {
    let mut grid = Grid::default()
        .words(["Figure"])
        .numbers(["first", "second", "change", "95 % interval"])
        .words(["verdict"]);
    for difference in &comparison.figures {
        let (verdict, mood) = match difference.verdict {
            Verdict::Better => ("better", Mood::Good),
            Verdict::Worse => ("worse", Mood::Bad),
            Verdict::Same => ("same", Mood::Plain),
        };
        let (a, b) =
            (value(&difference.figure, difference.a), value(&difference.figure, difference.b));
        let interval = match (difference.ratio_low, difference.ratio_high) {
            (Some(low), Some(high)) => format!("{} to {}", percent(low), percent(high)),
            _ => NOTHING.to_owned(),
        };
        grid.row([
            difference.figure.as_str().into(),
            a.into(),
            b.into(),
            cell(change(difference), mood),
            interval.into(),
            cell(verdict, mood),
        ]);
    }
    grid
}

fn change(difference: &Difference) -> String {
    if difference.figure.contains("_share") {
        return format!("{:+.1} points", (difference.b - difference.a) * 100.0);
    }
    difference.ratio.map_or(NOTHING.to_owned(), percent)
}

fn percent(ratio: f64) -> String {
    format!("{:+.1} %", (ratio - 1.0) * 100.0)
}

/// A figure of this name with its unit.
fn value(figure: &str, value: f64) -> String {
    if figure.contains("_share") {
        share(value)
    } else if figure.contains("_per_s") || figure.starts_with("max_rate") {
        format!("{}/s", three(value))
    } else {
        ms(value)
    }
}

/// Means over repeats.
pub(super) fn intervals(report: &Report) -> Grid {
    let mut grid =
        Grid::default().words(["Figure"]).numbers(["mean", "95 % low", "95 % high", "repeats"]);
    for (name, interval) in &report.intervals {
        let [mean, low, high] =
            [interval.mean, interval.low, interval.high].map(|v| value(name, v));
        grid.row([
            name.as_str().into(),
            mean.into(),
            low.into(),
            high.into(),
            interval.repeats.to_string().into(),
        ]);
    }
    grid
}

/// What was asserted.
pub(super) fn assertions(report: &Report) -> Grid {
    let mut grid = Grid::default().words(["Assertion"]).numbers(["measured"]).words(["verdict"]);
    for assertion in &report.assertions {
        let verdict = if assertion.holds { "holds" } else { "FAILS" };
        grid.row([
            assertion.text.as_str().into(),
            assertion.measured.map_or("not measured".to_owned(), three).into(),
            cell(verdict, Mood::good_if(assertion.holds)),
        ]);
    }
    grid
}
