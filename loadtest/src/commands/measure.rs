//! `run`, `sweep`, `find-max` and `compare`.

use std::time::Duration;

use anyhow::bail;

use super::{Gate, bench::Bench, output};
use crate::{
    arrivals::Rates,
    compare,
    config::{BenchConfig, CompareConfig, FindMaxConfig, RunConfig, SweepConfig},
    drive::{DriveError, Watch},
    findmax::{self, Search},
    report::{FindMax, Kind, Report, Run},
};

/// Streams that wait over that many seconds of intended requests: a probe need not go on.
const HOPELESS_S: f64 = 10.0;

/// Requests of a probe, at least: fewer say nothing about a 95th percentile.
const REQUESTS_MIN: f64 = 20.0;
/// A shorter probe does not show whether a queue grows.
const PROBE_MIN: Duration = Duration::from_secs(8);

fn never(_: &Watch) -> bool {
    false
}

pub(super) fn run(config: &RunConfig) -> anyhow::Result<Gate> {
    let bench = &config.bench;
    output::check(&bench.output)?;
    let load = bench.load(config.rate.as_ref())?;
    let mut bench = Bench::new(bench)?;
    let mut runs = Vec::new();
    for round in 0..u64::from(config.repeats) {
        runs.push(bench.measure(0, (&load, config.rate.as_ref()), round, never)?);
        if bench.ended() {
            break;
        }
    }
    let (mut report, broken) = bench.report(Kind::Run, runs);
    report.intervals = compare::intervals(&report.runs);
    finish(report, broken, &config.bench)
}

pub(super) fn sweep(config: &SweepConfig) -> anyhow::Result<Gate> {
    refuse_concurrency(config.bench.load.concurrency)?;
    output::check(&config.bench.output)?;
    let mut bench = Bench::new(&config.bench)?;
    let mut runs = Vec::new();
    for &rate in &config.rates {
        let rates = Rates::constant(rate)?;
        let load = config.bench.load(Some(&rates))?;
        runs.push(bench.measure(0, (&load, Some(&rates)), 0, never)?);
        if bench.ended() {
            break;
        }
    }
    let (report, broken) = bench.report(Kind::Sweep, runs);
    finish(report, broken, &config.bench)
}

pub(super) fn find_max(config: &FindMaxConfig) -> anyhow::Result<Gate> {
    refuse_concurrency(config.bench.load.concurrency)?;
    if !(config.lowest > 0.0 && config.lowest <= config.highest && config.tolerance_percent > 0.0) {
        bail!("--lowest must be above 0 and not above --highest, and --tolerance-percent above 0");
    }
    output::check(&config.bench.output)?;
    let slo = config.bench.load.slo.clone();
    let mut bench = Bench::new(&config.bench)?;
    let mut search =
        Search::new(config.from, config.lowest, config.highest, config.tolerance_percent / 100.0);
    let mut runs: Vec<Run> = Vec::new();
    while let Some(rate) = search.next_rate() {
        let rates = Rates::constant(rate)?;
        let load = config.bench.load(Some(&rates))?;
        let probe_s = load.measured().as_secs_f64();
        if rate * probe_s < REQUESTS_MIN {
            bench.warnings.push(format!(
                "at {rate:.3} requests/s a probe of {probe_s:.0} s sends too few to judge: make --duration-s longer"
            ));
            break;
        }
        let hopeless = move |watch: &Watch| {
            let running = watch.look(crate::measure::Measures::running) as f64;
            watch.elapsed() > Duration::from_secs(2) && running > 64.0 + HOPELESS_S * rate
        };
        let run = bench.measure(0, (&load, Some(&rates)), runs.len() as u64, hopeless)?;
        if bench.ended() {
            break;
        }
        search.tell(rate, findmax::judge(&run, &slo));
        runs.push(run);
    }
    bench.warnings.extend(short_probes(&config.bench)?);
    let (mut report, broken) = bench.report(Kind::FindMax, runs);
    let found = search.answer();
    report.warnings.extend(doubt(&found));
    let none = found.rate.is_none();
    report.find_max = Some(found);
    let gate = finish(report, broken, &config.bench)?;
    Ok(if none { Gate::Failed } else { gate })
}

/// What a search cannot see with these flags.
fn short_probes(config: &BenchConfig) -> anyhow::Result<Vec<String>> {
    let mut warnings = Vec::new();
    let probe = config.load(Some(&Rates::constant(1.0)?))?.measured();
    if probe < PROBE_MIN {
        warnings.push(format!(
            "probes of {:.0} s are too short to see a queue grow, so the rate may be too high: make --duration-s {} or more",
            probe.as_secs_f64(),
            PROBE_MIN.as_secs()
        ));
    }
    if config.load.slo.is_empty() {
        warnings.push("without --slo only failures and a growing queue end the search".to_owned());
    }
    Ok(warnings)
}

fn doubt(found: &FindMax) -> Option<String> {
    match (found.rate, found.above) {
        (None, Some(_)) => Some("not even the lowest rate met the objectives".to_owned()),
        (None, None) => None,
        (Some(rate), None) => Some(format!(
            "{rate} requests/s, the highest rate tried, still met the objectives: the limit lies above"
        )),
        (Some(_), Some(_)) => None,
    }
}

pub(super) fn compare(config: &CompareConfig) -> anyhow::Result<Gate> {
    let bench = &config.bench;
    output::check(&bench.output)?;
    let load = bench.load(config.rate.as_ref())?;
    let mut bench = Bench::new(bench)?;
    bench.add(&config.url_b, config.model_b.as_deref())?;
    let mut runs = Vec::new();
    'rounds: for round in 0..u64::from(config.rounds) {
        for target in [0, 1] {
            runs.push(bench.measure(target, (&load, config.rate.as_ref()), round, never)?);
            if bench.ended() {
                break 'rounds;
            }
        }
    }
    let (mut report, broken) = bench.report(Kind::Compare, runs);
    let of = |target| report.runs.iter().filter(|run| run.target == target).collect::<Vec<_>>();
    let names = [report.targets[0].url.as_str(), report.targets[1].url.as_str()];
    let comparison = compare::runs(names, &of(0), &of(1), config.tolerance.percent / 100.0);
    report.comparison = Some(comparison);
    finish(report, broken, &config.bench)
}

/// A test that broke in the middle is written down like another, and is no success.
fn finish(
    report: Report,
    broken: Option<DriveError>,
    config: &BenchConfig,
) -> anyhow::Result<Gate> {
    let gate = output::finish(report, &config.output)?;
    match broken {
        None => Ok(gate),
        Some(error) => Err(anyhow::Error::from(error).context("the test ended early")),
    }
}

fn refuse_concurrency(concurrency: Option<usize>) -> anyhow::Result<()> {
    if concurrency.is_some() {
        bail!("rates are tried in an open loop: leave --concurrency out");
    }
    Ok(())
}
