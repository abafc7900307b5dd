//! How is one load put on one server, watched and measured?

use std::sync::Arc;

use anyhow::Context;
use http::Uri;

use super::{interrupt::Interrupt, models};
use crate::{
    arrivals::Rates,
    config::{BenchConfig, OutputConfig, TargetConfig},
    drive::{self, DriveError, Load, Pace, Watch},
    live::Live,
    report::{Kind, Report, Run, SCHEMA},
    scrape::{self, Scraper},
    target::Target,
    workload::{Distribution, Starts, WorkloadConfig},
};

/// What measurements share.
pub(super) struct Bench<'a> {
    pub(super) targets: Vec<Arc<Target>>,
    workload: &'a WorkloadConfig,
    pub(super) config: &'a BenchConfig,
    pub(super) interrupt: Interrupt,
    pub(super) warnings: Vec<String>,
    /// Why the last load ended early.
    broken: Option<DriveError>,
    started_at: String,
}

/// The target of some flags; `url` and `model` may be another server's.
pub(super) fn target(
    config: &TargetConfig,
    url: &Uri,
    model: Option<&str>,
    keep_text: bool,
) -> anyhow::Result<Arc<Target>> {
    let ca = match &config.ca_file {
        None => None,
        Some(path) => {
            let pem =
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            Some(Arc::from(pem))
        }
    };
    let place = models::Place {
        url,
        endpoint: config.endpoint(),
        api_key: config.api_key.as_deref().or(config.tenant_key.first().map(|(_, key)| &**key)),
        ca: ca.as_deref(),
    };
    let model = models::choose(&place, model)?;
    Ok(Arc::new(Target {
        url: url.clone(),
        endpoint: config.endpoint(),
        model: Arc::from(model),
        api_key: config.api_key.as_deref().map(Arc::from),
        tenant_keys: config.tenant_keys(),
        class_header: config.class_header.clone(),
        request_timeout: config.request_timeout,
        form: config.prompt_form,
        vocabulary: config.token_ids,
        ignore_eos: config.ignore_eos,
        stream: !config.no_stream,
        keep_text,
        extra: config.extra_body.clone(),
        ca,
    }))
}

impl<'a> Bench<'a> {
    pub(super) fn new(config: &'a BenchConfig) -> anyhow::Result<Self> {
        glint_service::limits::raise_open_files();
        let keep_text = has_conversations(&config.workload);
        let of = &config.target;
        Ok(Self {
            targets: vec![target(of, &of.url, of.model.as_deref(), keep_text)?],
            workload: &config.workload,
            config,
            interrupt: Interrupt::listen()?,
            warnings: Vec::new(),
            broken: None,
            started_at: now(),
        })
    }

    /// Adds a second server that is asked like the first.
    pub(super) fn add(&mut self, url: &Uri, model: Option<&str>) -> anyhow::Result<()> {
        let keep_text = has_conversations(&self.config.workload);
        self.targets.push(target(&self.config.target, url, model, keep_text)?);
        Ok(())
    }

    /// Measures one load. `round` draws other prompts and times than other rounds; equal rounds draw equal ones. `over` is asked now
    /// and then whether going on is of use.
    pub(super) fn measure(
        &mut self,
        target: usize,
        (load, rates): (&Load, Option<&Rates>),
        round: u64,
        over: impl Fn(&Watch) -> bool + Send + 'static,
    ) -> anyhow::Result<Run> {
        // Other rounds ask with other tokens, so that no cache is warm from the round before.
        let seed = self.workload.seed.wrapping_add(round);
        let workload = WorkloadConfig { seed, ..self.workload.clone() };
        let arrivals = rates.map(|rates| workload.arrivals(rates.clone()));
        let schedule = workload.schedule(match (load.pace, &arrivals) {
            (Pace::Closed { .. }, _) => Starts::Now,
            (Pace::Open, Some(arrivals)) => Starts::At(arrivals),
            (Pace::Open, None) => Starts::Recorded,
        })?;
        let output: &OutputConfig = &self.config.output;
        let started_at = now();
        let watch = Watch::new(load);
        self.interrupt.ends(&watch);
        let scraper = match &output.metrics_url[..] {
            [] => None,
            pages => Some(Scraper::start(pages.to_vec(), output.metric.clone(), watch.clone())?),
        };
        let live = Live::start(&watch, load, output.quiet, over)?;
        let driven = drive::run(&self.targets[target], schedule, load, &watch, None);
        live.end();
        let scraped = scraper.map(Scraper::end).unwrap_or_default();
        let driven = driven?;
        self.warnings.extend(scraped.warnings);
        if let Some(error) = driven.broken {
            self.warnings.push(format!("the test ended early: {error}"));
            self.broken = Some(error);
        }
        Ok(Run {
            target,
            started_at: Some(started_at),
            server_queue_ms: scrape::queue_ms(&scraped.series),
            server: scraped.series,
            ..driven.run
        })
    }

    /// Whether nothing more is to be measured.
    pub(super) fn ended(&self) -> bool {
        self.interrupt.happened() || self.broken.is_some()
    }

    /// The document, without what only some kinds have, and what broke the test. The document is kept in any case.
    pub(super) fn report(self, kind: Kind, runs: Vec<Run>) -> (Report, Option<DriveError>) {
        let mut warnings = self.warnings;
        if self.interrupt.happened() {
            warnings.push("interrupted by the user: the figures are those until then".to_owned());
        }
        warnings.extend(doubts(&runs, self.config));
        let targets = self.targets.iter().map(|target| crate::report::Target {
            url: target.url.to_string(),
            endpoint: target.endpoint.name().to_owned(),
            model: target.model.to_string(),
        });
        let report = Report {
            schema: SCHEMA.to_owned(),
            kind,
            glint_version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            command: command_line(),
            targets: targets.collect(),
            workload: self.workload.describe(),
            slo: self.config.load.slo.iter().map(ToString::to_string).collect(),
            runs,
            intervals: std::collections::BTreeMap::new(),
            find_max: None,
            comparison: None,
            assertions: Vec::new(),
            warnings,
        };
        (report, self.broken)
    }
}

/// What a reader has to know before believing the figures.
fn doubts(runs: &[Run], config: &BenchConfig) -> Vec<String> {
    let mut doubts = Vec::new();
    if runs.iter().all(|run| run.summary.requests == 0) {
        doubts
            .push("no request was intended in the measured window: nothing is measured".to_owned());
    }
    for (number, run) in (1..).zip(runs) {
        let of = &run.summary;
        if !run.generator.kept_schedule && of.requests > 0 {
            doubts.push(format!(
                "run {number}: the generator did not keep its schedule (p99 {:.0} ms late): the latencies contain its own \
                 lateness; give it more --threads or another machine",
                run.generator.lateness.p99
            ));
        }
        let wanted = output_tokens_mean(&config.workload);
        let came = of.output_tokens as f64 / (of.done.max(1)) as f64;
        let short = |wanted: &f64| of.done > 0 && came < wanted * 0.9 && !config.target.ignore_eos;
        if let Some(wanted) = wanted.filter(short) {
            doubts.push(format!(
                "run {number}: answers had {came:.0} tokens on average where {wanted:.0} were allowed; --ignore-eos asks for exact \
                 lengths of servers that know it"
            ));
        }
    }
    doubts
}

/// Whether later prompts stand on what was answered.
fn has_conversations(workload: &WorkloadConfig) -> bool {
    let single =
        workload.turns == Distribution::fixed(1) && workload.tool_calls == Distribution::fixed(0);
    workload.trace.is_some() || !single
}

/// Tokens of an answer that the flags allow on average; a trace and tools have their own.
fn output_tokens_mean(workload: &WorkloadConfig) -> Option<f64> {
    let own = workload.trace.is_none() && workload.tool_calls == Distribution::fixed(0);
    own.then(|| workload.output_tokens.mean())
}

/// As it was typed, without what is secret.
fn command_line() -> Vec<String> {
    let mut hide_next = false;
    std::env::args()
        .map(|argument| {
            let secret = ["--api-key", "--tenant-key", "--extra-body"];
            let hide = std::mem::replace(&mut hide_next, secret.contains(&argument.as_str()));
            match argument.split_once('=') {
                _ if hide => "(hidden)".to_owned(),
                Some((name, _)) if secret.contains(&name) => format!("{name}=(hidden)"),
                _ => argument,
            }
        })
        .collect()
}

/// UTC, RFC 3339.
fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}
