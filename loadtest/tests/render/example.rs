//! Reports as real commands make them: a simulated service of some slots, with a queue before them, that stands still for two
//! seconds, gets a replica while it runs, and fails a few requests.

use std::{collections::BTreeMap, sync::LazyLock};

use glint_loadtest::{compare, record::ErrorKind, report::*};

/// What breaks a page, a terminal or an attribute if it is not escaped.
const HOSTILE: &str =
    "<script>alert(1)</script><img src=http://evil.example/x onerror='alert(2)'>\u{1b}[31m\"]]>";

/// Seeded numbers (SplitMix64), so that an example is the same everywhere.
struct Dice(u64);

impl Dice {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Around 1, the logarithm's deviation `sigma`.
    fn lognormal(&mut self, sigma: f64) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        (sigma * radius * (std::f64::consts::TAU * self.unit()).cos()).exp()
    }
}

/// One answered or failed request; times in seconds.
struct Answer {
    intended: f64,
    sent: f64,
    first: f64,
    end: f64,
    tokens: u64,
    gaps_ms: Vec<f64>,
    failure: Option<ErrorKind>,
    tenant: usize,
}

const WARM_UP_S: f64 = 5.0;
const MEASURED_S: f64 = 60.0;
const COOL_DOWN_S: f64 = 3.0;
const REPLICA_AT_S: f64 = 42.0;
const TENANTS: [&str; 3] = ["assistant", "batch", "shop"];
const TTFT_LIMIT_MS: f64 = 500.0;

fn simulate(rate: f64, slowness: f64, dice: &mut Dice) -> Vec<Answer> {
    let mut free: Vec<f64> = (0..144).map(|i| if i < 96 { 0.0 } else { REPLICA_AT_S }).collect();
    let mut answers = Vec::new();
    let mut at = 0.0;
    loop {
        at += dice.exponential(1.0 / rate);
        if at > WARM_UP_S + MEASURED_S + COOL_DOWN_S {
            return answers;
        }
        // From here on the generator itself is too slow.
        let late = if rate < 60.0 { 0.000_08 } else { 0.015 };
        let sent = at + dice.exponential(late);
        let slot = (0..free.len()).min_by(|a, b| free[*a].total_cmp(&free[*b])).unwrap();
        let mut begin = free[slot].max(sent);
        if (22.0..24.0).contains(&begin) {
            begin = 24.0;
        }
        let tenant = (dice.unit() * 3.0) as usize;
        let first = begin + 0.052 * slowness * dice.lognormal(0.35);
        let tokens = (20.0 + 70.0 * dice.lognormal(0.5)) as u64;
        let gap = 15.0 * slowness * (1.0 + rate / 60.0);
        let gaps_ms: Vec<f64> = (1..tokens).map(|_| gap * dice.lognormal(0.25)).collect();
        let end = first + gaps_ms.iter().sum::<f64>() / 1000.0;
        free[slot] = end;
        let failure = match dice.unit() {
            x if x < 0.002 => Some(ErrorKind::ServerError),
            x if x < 0.003 => Some(ErrorKind::Cut),
            _ if begin - sent > 10.0 => Some(ErrorKind::Timeout),
            _ => None,
        };
        answers.push(Answer { intended: at, sent, first, end, tokens, gaps_ms, failure, tenant });
    }
}

/// What a server says of a failure.
fn words(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ServerError => "HTTP 503: no group of this model is ready",
        ErrorKind::Cut => "the stream ended after 17 tokens without [DONE]",
        _ => "no token within 10 s",
    }
}

fn distribution(mut values: Vec<f64>) -> Distribution {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return Distribution::default() };
    let at = |share: f64| values[(share * last as f64).round() as usize];
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
    Distribution {
        count: values.len() as u64,
        mean,
        stddev: variance.sqrt(),
        min: at(0.0),
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        max: at(1.0),
        cdf: (1..=200).map(|i| f64::from(i) / 200.0).map(|share| (share, at(share))).collect(),
    }
}

fn summary<'a>(answers: impl Iterator<Item = &'a Answer> + Clone) -> Summary {
    let all = answers.clone().count() as u64;
    let done = || answers.clone().filter(|answer| answer.failure.is_none());
    let of = |ms: fn(&Answer) -> f64| distribution(done().map(ms).collect());
    let ttft = |answer: &Answer| (answer.first - answer.intended) * 1000.0;
    let good = done().filter(|answer| ttft(answer) < TTFT_LIMIT_MS).count() as f64;
    let mut errors = BTreeMap::new();
    for kind in answers.clone().filter_map(|answer| answer.failure) {
        *errors.entry(kind).or_default() += 1;
    }
    let output_tokens: u64 = done().map(|answer| answer.tokens).sum();
    let done_count = done().count() as u64;
    Summary {
        requests: all,
        done: done_count,
        left: 0,
        unfinished: 0,
        failed: all - done_count,
        error_examples: errors.keys().map(|kind| (*kind, words(*kind).to_owned())).collect(),
        errors,
        requests_per_s: all as f64 / MEASURED_S,
        done_per_s: done_count as f64 / MEASURED_S,
        output_tokens_per_s: output_tokens as f64 / MEASURED_S,
        prompt_tokens: done_count * 1024,
        cached_tokens: done_count * 400,
        cached_tokens_known: true,
        output_tokens,
        good_share: Some(good / (all as f64).max(1.0)),
        goodput_per_s: Some(good / MEASURED_S),
        ttft: of(|answer| (answer.first - answer.intended) * 1000.0),
        itl: distribution(done().flat_map(|answer| answer.gaps_ms.iter().copied()).collect()),
        tpot: of(|a| (a.end - a.first) * 1000.0 / (a.tokens - 1).max(1) as f64),
        e2e: of(|answer| (answer.end - answer.intended) * 1000.0),
        ttft_from_sent: of(|answer| (answer.first - answer.sent) * 1000.0),
    }
}

fn series(answers: &[Answer], seconds: u64) -> Vec<Second> {
    let count = |of: &dyn Fn(&Answer) -> bool| answers.iter().filter(|a| of(a)).count() as u64;
    (0..seconds)
        .map(|t_s| {
            let within = |time: f64| time as u64 == t_s;
            let end = (t_s + 1) as f64;
            let intended = answers.iter().filter(|a| within(a.intended) && a.failure.is_none());
            let ttft = distribution(intended.map(|a| (a.first - a.intended) * 1000.0).collect());
            let done = answers.iter().filter(|a| within(a.end) && a.failure.is_none());
            Second {
                t_s,
                intended: count(&|a| within(a.intended)),
                sent: count(&|a| within(a.sent)),
                done: done.clone().count() as u64,
                failed: count(&|a| within(a.end) && a.failure.is_some()),
                output_tokens: done.map(|a| a.tokens).sum(),
                running: count(&|a| a.sent < end && a.end >= end),
                ttft_p50: ttft.p50,
                ttft_p95: ttft.p95,
            }
        })
        .collect()
}

fn servers(answers: &[Answer], elapsed_s: f64) -> Vec<ServerSeries> {
    let metric = |metric: &str, of: &dyn Fn(f64) -> f64| ServerSeries {
        url: "http://router.example:9090/metrics".to_owned(),
        metric: metric.to_owned(),
        points: (0..elapsed_s as u32).map(|s| (f64::from(s), of(f64::from(s)))).collect(),
    };
    let count = |of: &dyn Fn(&Answer) -> bool| answers.iter().filter(|a| of(a)).count() as f64;
    vec![
        metric("vllm:num_requests_running", &|t| count(&|a| a.first < t && a.end >= t)),
        metric("vllm:num_requests_waiting", &|t| count(&|a| a.sent < t && a.first >= t)),
        metric("glint_fleet_replicas", &|t| if t < REPLICA_AT_S { 2.0 } else { 3.0 }),
    ]
}

/// One run at `rate` requests/s against a service `slowness` times as slow as it was built to be.
fn run(target: usize, rate: f64, slowness: f64, seed: u64) -> Run {
    let answers = simulate(rate, slowness, &mut Dice(seed));
    let elapsed_s = answers.iter().map(|answer| answer.end).fold(0.0, f64::max);
    let measured = WARM_UP_S..WARM_UP_S + MEASURED_S;
    let window = || answers.iter().filter(|answer| measured.contains(&answer.intended));
    let parts = TENANTS.iter().enumerate().map(|(i, name)| Part {
        by: "tenant".to_owned(),
        name: (*name).to_owned(),
        summary: summary(window().filter(|answer| answer.tenant == i)),
    });
    let series = series(&answers, elapsed_s.ceil() as u64);
    let streams_peak = series.iter().map(|second| second.running).max().unwrap_or(0);
    Run {
        target,
        load: format!("Poisson {rate} requests/s for 60 s"),
        rate: Some(rate),
        started_at: Some(format!("2026-11-25T12:{:02}:00Z", seed % 60)),
        server_queue_ms: Some(1.5),
        measured_from_s: WARM_UP_S,
        measured_to_s: WARM_UP_S + MEASURED_S,
        elapsed_s,
        summary: summary(window()),
        parts: parts.collect(),
        generator: Generator {
            lateness: distribution(window().map(|a| (a.sent - a.intended) * 1000.0).collect()),
            kept_schedule: rate < 60.0,
            cpu_s: answers.len() as f64 * 0.0011,
            streams_peak,
            connections: streams_peak,
            rss_bytes: 38_000_000,
        },
        series,
        server: servers(&answers, elapsed_s),
    }
}

fn report(kind: Kind, runs: Vec<Run>) -> Report {
    Report {
        schema: SCHEMA.to_owned(),
        kind,
        glint_version: "0.1.0".to_owned(),
        started_at: "2026-11-25T12:00:00Z".to_owned(),
        command: [
            "glint",
            "loadtest",
            "run",
            "--url",
            "http://router.example:8080",
            "--rate",
            "24",
        ]
        .map(str::to_owned)
        .to_vec(),
        targets: vec![Target {
            url: "http://router.example:8080".to_owned(),
            endpoint: "chat".to_owned(),
            model: "glm-4-9b-chat".to_owned(),
        }],
        workload:
            "1,024 prompt tokens of which 400 are shared, 20 to 600 output tokens, three tenants"
                .to_owned(),
        slo: vec!["ttft<500ms".to_owned()],
        runs,
        intervals: BTreeMap::new(),
        find_max: None,
        comparison: None,
        assertions: Vec::new(),
        warnings: Vec::new(),
    }
}

/// One load.
fn single() -> Report {
    let mut report = report(Kind::Run, vec![run(0, 28.0, 1.0, 1)]);
    let p95 = report.runs[0].summary.ttft.p95;
    let of = |text: &str, holds| Assertion { text: text.to_owned(), measured: Some(p95), holds };
    report.assertions = vec![of("ttft_p95<5s", true), of("ttft_p95<250ms", false)];
    report.warnings = vec![
        "1 of 2 metrics endpoints did not answer: http://worker-1.example:9090/metrics".to_owned(),
    ];
    report
}

/// One load of a service that says the worst wherever it can.
fn hostile() -> Report {
    let mut report = single();
    report.warnings = vec![HOSTILE.to_owned()];
    let run = &mut report.runs[0];
    run.summary.error_examples.values_mut().for_each(|words| *words = HOSTILE.to_owned());
    run.parts[2].name = format!("<b>shop</b> & co{HOSTILE}");
    run.server[0].metric = format!("num_requests_running{HOSTILE}");
    run.load = HOSTILE.to_owned();
    report
}

/// A list of rates.
fn sweep() -> Report {
    let rates = [8.0, 16.0, 24.0, 32.0, 40.0, 64.0];
    let run = |(i, rate): (usize, f64)| run(0, rate, 1.0, i as u64 + 1);
    report(Kind::Sweep, rates.into_iter().enumerate().map(run).collect())
}

/// A search for the highest rate.
fn find_max() -> Report {
    let rates = [8.0, 16.0, 32.0, 64.0, 48.0, 40.0];
    let runs: Vec<Run> =
        rates.into_iter().enumerate().map(|(i, rate)| run(0, rate, 1.0, i as u64 + 1)).collect();
    let probes = runs.iter().map(|run| {
        let good = run.summary.good_share.unwrap();
        let held = good >= 0.9;
        let word = if held { "at least" } else { "below" };
        let reason = format!("{:.1} % were good, {word} the 90 % that are asked for", good * 100.0);
        Probe { rate: run.rate.unwrap(), held, reason }
    });
    let probes: Vec<Probe> = probes.collect();
    let rates = |held| {
        let of = probes.iter().filter(move |probe| probe.held == held);
        of.map(|probe| probe.rate).collect::<Vec<f64>>()
    };
    let found = FindMax {
        rate: rates(true).into_iter().max_by(f64::total_cmp),
        above: rates(false).into_iter().min_by(f64::total_cmp),
        probes: probes.clone(),
    };
    Report { find_max: Some(found), ..report(Kind::FindMax, runs) }
}

/// Two targets in turn, the second 20 % slower.
fn comparison() -> Report {
    let runs: Vec<Run> =
        (0..4).map(|i| run(i % 2, 12.0, 1.0 + 0.2 * (i % 2) as f64, i as u64 + 11)).collect();
    let of = |target| runs.iter().filter(|run| run.target == target).collect::<Vec<_>>();
    let comparison = compare::runs(["stable", "canary"], &of(0), &of(1), 0.05);
    let mut report = Report { comparison: Some(comparison), ..report(Kind::Compare, runs.clone()) };
    let canary =
        Target { url: "http://canary.example:8080".to_owned(), ..report.targets[0].clone() };
    report.targets.push(canary);
    report
}

/// One load, three times.
fn repeats() -> Report {
    let runs = (0..3).map(|i| run(0, 16.0, 1.0, i + 21)).collect();
    let mut report = report(Kind::Run, runs);
    let interval = Interval { mean: 71.2, low: 66.0, high: 76.4, repeats: 3 };
    report.intervals = BTreeMap::from([("ttft_p50".to_owned(), interval)]);
    report
}

/// What is left where nothing came to be: no run, or one in which nothing was measured.
pub(crate) fn empty() -> [Report; 2] {
    let mut nothing = run(0, 1.0, 1.0, 3);
    nothing.summary = Summary::default();
    nothing.generator = Generator::default();
    (nothing.series, nothing.server, nothing.parts) = (Vec::new(), Vec::new(), Vec::new());
    (nothing.rate, nothing.elapsed_s, nothing.measured_to_s) = (None, 0.0, 0.0);
    [report(Kind::FindMax, Vec::new()), report(Kind::Sweep, vec![nothing.clone(), nothing])]
}

/// One of each, made once.
pub(crate) fn all() -> &'static [Report] {
    static ALL: LazyLock<Vec<Report>> = LazyLock::new(|| {
        let [nothing, nothing_measured] = empty();
        vec![
            single(),
            sweep(),
            find_max(),
            comparison(),
            hostile(),
            repeats(),
            nothing,
            nothing_measured,
        ]
    });
    &ALL
}
