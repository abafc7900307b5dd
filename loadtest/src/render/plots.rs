//! Which plots does a report have?

use super::{
    plot::{Axis, GREY, Line, Plot, RED, Stroke, Unit},
    tables,
    words::three,
};
use crate::report::{Distribution, Kind, Report, Run, Second, ServerSeries, Summary};

/// More points than this say nothing more on a plot of this width.
const POINTS: usize = 400;
/// Lines on one plot, so that their colours can be told apart.
const LINES: usize = 7;
/// The plots of the PNG: those over all runs, then those of the run that matters.
pub(super) fn of_sheet(report: &Report) -> Vec<Plot> {
    let mut plots = of_report(report);
    let of_principal = principal(report).into_iter().flat_map(|run| {
        let name = tables::name(report, run);
        of_run(run).into_iter().map(move |plot| (name.clone(), plot))
    });
    plots.extend(of_principal.map(|(name, plot)| match report.runs.len() {
        1 => plot,
        _ => Plot { title: format!("{} ({name})", plot.title), ..plot },
    }));
    plots
}

/// The run whose figures stand for the report: that of the rate found; of a sweep the one with the most good answers; else the
/// last.
pub(super) fn principal(report: &Report) -> Option<&Run> {
    let found = report.find_max.as_ref().and_then(|found| found.rate);
    let at_found = |run: &&Run| found.is_some() && run.rate == found;
    let served = |run: &Run| run.summary.goodput_per_s.unwrap_or(run.summary.done_per_s);
    match report.kind {
        Kind::Sweep => report.runs.iter().max_by(|a, b| served(a).total_cmp(&served(b))),
        Kind::FindMax => report.runs.iter().rev().find(at_found).or(report.runs.last()),
        Kind::Run | Kind::Compare => report.runs.last(),
    }
}

/// Plots over all runs, where there are several.
pub(super) fn of_report(report: &Report) -> Vec<Plot> {
    if report.runs.len() < 2 {
        return Vec::new();
    }
    let rates = report.runs.iter().all(|run| run.rate.is_some_and(|rate| rate > 0.0));
    if matches!(report.kind, Kind::Sweep | Kind::FindMax) && rates {
        by_rate(report)
    } else {
        let first_tokens = distributions(report, "TTFT", |summary| &summary.ttft);
        vec![first_tokens, distributions(report, "E2E", |summary| &summary.e2e)]
    }
}

fn by_rate(report: &Report) -> Vec<Plot> {
    let mut runs: Vec<&Run> = report.runs.iter().collect();
    runs.sort_by(|a, b| a.rate.partial_cmp(&b.rate).unwrap_or(std::cmp::Ordering::Equal));
    let line = |name: &str, colour, stroke, of: &dyn Fn(&Run) -> f64| Line {
        name: name.to_owned(),
        colour,
        stroke,
        points: runs.iter().map(|run| (run.rate.unwrap_or(0.0), of(run))).collect(),
    };
    let x = Axis::from_zero(runs.iter().filter_map(|run| run.rate), Unit::PerS);
    let plot = |title: &str, lines: Vec<Line>, unit| Plot {
        title: title.to_owned(),
        x: x.clone(),
        y: Axis::fitting(values(&lines), unit),
        lines,
        window: None,
    };
    let with_objectives = runs.iter().any(|run| run.summary.goodput_per_s.is_some());
    let mut served = vec![line("offered", GREY, Stroke::Thin, &|run| run.rate.unwrap_or(0.0))];
    served.push(line("answered", 0, Stroke::Dots, &|run| run.summary.done_per_s));
    if with_objectives {
        let good = |run: &Run| run.summary.goodput_per_s.unwrap_or(f64::NAN);
        served.push(line("good (goodput)", 2, Stroke::Dots, &good));
    }
    let of = |of: fn(&Summary) -> &Distribution, value: fn(&Distribution) -> f64| {
        move |run: &Run| {
            let distribution = of(&run.summary);
            if distribution.count > 0 { value(distribution) } else { f64::NAN }
        }
    };
    let percentiles = |which: fn(&Summary) -> &Distribution| {
        vec![
            line("p50", 0, Stroke::Dots, &of(which, |d| d.p50)),
            line("p95", 1, Stroke::Dots, &of(which, |d| d.p95)),
            line("p99", RED, Stroke::Dots, &of(which, |d| d.p99)),
        ]
    };
    let tokens = line("output tokens/s", 3, Stroke::Dots, &|run| run.summary.output_tokens_per_s);
    let goodput = Plot {
        y: Axis::from_zero(values(&served), Unit::Count),
        ..plot("Answers per second by offered rate", served, Unit::Count)
    };
    vec![
        goodput,
        plot("TTFT by offered rate, from the schedule", percentiles(|s| &s.ttft), Unit::Ms),
        plot("ITL by offered rate", percentiles(|s| &s.itl), Unit::Ms),
        plot("Output tokens per second by offered rate", vec![tokens], Unit::Count),
    ]
}

/// The distributions of one latency over runs: one line per run, its colour by target where there are two.
fn distributions(report: &Report, name: &str, of: fn(&Summary) -> &Distribution) -> Plot {
    let lines: Vec<Line> = report
        .runs
        .iter()
        .take(LINES)
        .enumerate()
        .map(|(i, run)| Line {
            name: tables::name(report, run),
            colour: if report.targets.len() > 1 { run.target } else { i },
            stroke: Stroke::Line,
            points: cumulative(of(&run.summary)),
        })
        .collect();
    cumulative_plot(format!("{name} of every run: share of values below"), lines)
}

/// Plots of one run.
pub(super) fn of_run(run: &Run) -> Vec<Plot> {
    let mut plots = vec![latencies(run)];
    if !run.series.is_empty() {
        plots.extend([rates(run), first_tokens(run), running(run), tokens(run)]);
    }
    plots.extend(servers(run));
    plots
}

fn values(lines: &[Line]) -> impl Iterator<Item = f64> + Clone {
    lines.iter().flat_map(|line| line.points.iter().map(|(_, y)| *y))
}

/// As a line that begins at its smallest value with a share of 0.
fn cumulative(distribution: &Distribution) -> Vec<(f64, f64)> {
    let first = distribution.cdf.first().map(|(_, ms)| (*ms, 0.0));
    first.into_iter().chain(distribution.cdf.iter().map(|&(share, ms)| (ms, share))).collect()
}

fn cumulative_plot(title: String, lines: Vec<Line>) -> Plot {
    let lines: Vec<Line> = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
    let ms = lines.iter().flat_map(|line| line.points.iter().map(|(ms, _)| *ms));
    Plot {
        title,
        x: Axis::logarithmic(ms, Unit::Ms),
        y: Axis::range(0.0, 1.0, Unit::Share),
        lines,
        window: None,
    }
}

fn latencies(run: &Run) -> Plot {
    let line = |name: &str, colour, stroke, distribution| Line {
        name: name.to_owned(),
        colour,
        stroke,
        points: cumulative(distribution),
    };
    let summary = &run.summary;
    let lines = vec![
        line("TTFT from the sending", GREY, Stroke::Thin, &summary.ttft_from_sent),
        line("TTFT from the schedule", 0, Stroke::Line, &summary.ttft),
        line("ITL", 1, Stroke::Line, &summary.itl),
        line("E2E", 2, Stroke::Line, &summary.e2e),
    ];
    cumulative_plot("Latency: share of values below".to_owned(), lines)
}

/// How several seconds become one point.
#[derive(Clone, Copy)]
enum Together {
    Mean,
    Largest,
}

/// A line over the seconds of a run, thinned where there are more than a plot can show.
fn over_time(
    series: &[Second],
    together: Together,
    of: impl Fn(&Second) -> f64,
) -> Vec<(f64, f64)> {
    let points: Vec<(f64, f64)> =
        series.iter().map(|second| (second.t_s as f64, of(second))).collect();
    thin(&points, together)
}

fn thin(points: &[(f64, f64)], together: Together) -> Vec<(f64, f64)> {
    points
        .chunks(points.len().div_ceil(POINTS).max(1))
        .map(|chunk| {
            let known = chunk.iter().map(|(_, y)| *y).filter(|y| !y.is_nan());
            let y = match together {
                Together::Largest => known.fold(f64::NAN, f64::max),
                Together::Mean => {
                    let (sum, count) = known.fold((0.0, 0.0), |(sum, n), y| (sum + y, n + 1.0));
                    sum / count
                }
            };
            (chunk[0].0, y)
        })
        .collect()
}

/// A plot over the time of a run.
fn timed(run: &Run, title: impl Into<String>, lines: Vec<Line>, y: Axis) -> Plot {
    Plot {
        title: title.into(),
        x: Axis::range(0.0, run.elapsed_s.max(run.measured_to_s), Unit::S),
        y,
        lines,
        window: Some((run.measured_from_s, run.measured_to_s)),
    }
}

fn rates(run: &Run) -> Plot {
    let line = |name: &str, colour, stroke, of: fn(&Second) -> u64| Line {
        name: name.to_owned(),
        colour,
        stroke,
        points: over_time(&run.series, Together::Mean, |second| of(second) as f64),
    };
    let mut lines = vec![
        line("intended", GREY, Stroke::Area, |second| second.intended),
        line("sent", 0, Stroke::Line, |second| second.sent),
        line("answered", 2, Stroke::Line, |second| second.done),
    ];
    if run.series.iter().any(|second| second.failed > 0) {
        lines.push(line("failed", RED, Stroke::Line, |second| second.failed));
    }
    let y = Axis::from_zero(values(&lines), Unit::Count);
    timed(run, "Requests per second", lines, y)
}

fn first_tokens(run: &Run) -> Plot {
    let line = |name: &str, colour, of: fn(&Second) -> f64| {
        let known = |second: &Second| if of(second) > 0.0 { of(second) } else { f64::NAN };
        let points = over_time(&run.series, Together::Largest, known);
        Line { name: name.to_owned(), colour, stroke: Stroke::Line, points }
    };
    let lines =
        vec![line("p95", 1, |second| second.ttft_p95), line("p50", 0, |second| second.ttft_p50)];
    let y = Axis::fitting(values(&lines), Unit::Ms);
    timed(run, "TTFT of the requests intended in each second", lines, y)
}

fn running(run: &Run) -> Plot {
    let points = over_time(&run.series, Together::Largest, |second| second.running as f64);
    let lines = vec![Line { name: "streams".to_owned(), colour: 3, stroke: Stroke::Area, points }];
    let y = Axis::from_zero(values(&lines), Unit::Count);
    let title = format!("Streams running (at most {})", run.generator.streams_peak);
    timed(run, title, lines, y)
}

fn tokens(run: &Run) -> Plot {
    let points = over_time(&run.series, Together::Mean, |second| second.output_tokens as f64);
    let lines = vec![Line { name: "tokens".to_owned(), colour: 5, stroke: Stroke::Area, points }];
    let y = Axis::from_zero(values(&lines), Unit::Count);
    let mean = three(run.summary.output_tokens_per_s);
    timed(
        run,
        format!("Output tokens per second, of answers that ended ({mean} on average)"),
        lines,
        y,
    )
}

/// What the servers said of themselves: queues together, replicas together, the rest by metric.
fn servers(run: &Run) -> Vec<Plot> {
    let mut plots: Vec<(String, Vec<&ServerSeries>)> = Vec::new();
    for series in run.server.iter().filter(|series| !series.points.is_empty()) {
        let title = title_of(&series.metric);
        match plots.iter_mut().find(|(other, _)| *other == title) {
            Some((_, group)) => group.push(series),
            None => plots.push((title, vec![series])),
        }
    }
    let several = run.server.iter().any(|series| series.url != run.server[0].url);
    let plot = |(title, group): (String, Vec<&ServerSeries>)| {
        let lines: Vec<Line> = group
            .iter()
            .take(LINES)
            .enumerate()
            .map(|(colour, series)| Line {
                name: if several {
                    format!("{} {}", series.metric, host(&series.url))
                } else {
                    series.metric.clone()
                },
                colour,
                stroke: Stroke::Line,
                points: thin(&series.points, Together::Mean),
            })
            .collect();
        let y = Axis::from_zero(values(&lines), Unit::Count);
        timed(run, title, lines, y)
    };
    plots.into_iter().map(plot).collect()
}

fn title_of(metric: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|word| metric.contains(word));
    if has(&["waiting", "running", "queue"]) {
        "In the servers: requests running and waiting".to_owned()
    } else if has(&["replicas", "groups", "ready"]) {
        "In the servers: replicas".to_owned()
    } else {
        format!("In the servers: {metric}")
    }
}

/// `host:port` of an address.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}
