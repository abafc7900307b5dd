//! What do many requests come to?
//!
//! [`Measures`] is told when a request is sent and what became of it, and keeps only sums and histograms: a run of hours takes a
//! few megabytes. Latencies go to histograms of three significant digits (HdrHistogram), in microseconds from the *intended* start.

mod stats;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use stats::Stats;
pub use stats::distribution;

use crate::{
    record::{Outcome, Record},
    report::{Generator, Part, Run, Second},
    slo::Condition,
};

/// A request sent later than this after its intended start was not sent on time.
const LATE: Duration = Duration::from_millis(10);
/// Share of requests that must be on time for the schedule to count as kept.
const ON_TIME_SHARE: f64 = 0.99;
/// More tenants or revisions than that are added up under one name.
const PARTS_MAX: usize = 256;
/// Seconds that are told apart; a week.
const SECONDS_MAX: usize = 7 * 24 * 3600;
/// Seconds that a live view shows.
const GLANCE_SECONDS: usize = 120;

/// The part of a run that counts: requests whose intended start lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// End of the warm-up, after the run's begin.
    pub from: Duration,
    /// Begin of the cool-down; `None` is the end of the schedule.
    pub to: Option<Duration>,
}

/// What a live view shows. Pairs are p50 and p95 in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Glance {
    /// Requests over, in the window.
    pub requests: u64,
    /// Whole answers.
    pub done: u64,
    /// Failures.
    pub failed: u64,
    /// Tokens.
    pub output_tokens: u64,
    /// Streams that run now.
    pub running: u64,
    /// Time to first token, from the intended start.
    pub ttft: (f64, f64),
    /// Gaps between tokens.
    pub itl: (f64, f64),
    /// End to end, from the intended start.
    pub e2e: (f64, f64),
    /// How late requests were sent.
    pub lateness: (f64, f64),
    /// Of the last two minutes.
    pub done_per_s: Vec<u64>,
    /// Of the last two minutes.
    pub running_per_s: Vec<u64>,
    /// Of the last two minutes.
    pub ttft_p95_ms: Vec<u64>,
}

/// Sums and histograms of a run.
pub struct Measures {
    window: Window,
    slo: Arc<[Condition]>,
    total: Stats,
    parts: BTreeMap<(&'static str, Arc<str>), Stats>,
    seconds: Vec<SecondSums>,
    lateness: Histogram<u64>,
    late: u64,
    running: u64,
    streams_peak: u64,
    connections: u64,
    last_intended: Duration,
    last_end: Duration,
}

#[derive(Default)]
struct SecondSums {
    counts: Second,
    ended: u64,
    /// Microseconds, two digits: 20 KB at most.
    ttft: Option<Histogram<u32>>,
}

impl Measures {
    /// Nothing yet.
    #[must_use]
    pub fn new(window: Window, slo: Arc<[Condition]>) -> Self {
        Self {
            window,
            slo,
            total: Stats::default(),
            parts: BTreeMap::new(),
            seconds: Vec::new(),
            lateness: stats::histogram(),
            late: 0,
            running: 0,
            streams_peak: 0,
            connections: 0,
            last_intended: Duration::ZERO,
            last_end: Duration::ZERO,
        }
    }

    /// A request is sent, so long after the run's begin.
    pub fn sent(&mut self, at: Duration) {
        self.running += 1;
        self.streams_peak = self.streams_peak.max(self.running);
        if let Some(second) = self.second(at) {
            second.counts.sent += 1;
        }
    }

    /// What became of a request that was sent.
    pub fn ended(&mut self, record: &Record) {
        self.running -= 1;
        self.last_end = self.last_end.max(record.end);
        self.last_intended = self.last_intended.max(record.intended);
        if let Some(second) = self.second(record.end) {
            second.ended += 1;
            match &record.outcome {
                Outcome::Done => second.counts.done += 1,
                Outcome::Failed(..) => second.counts.failed += 1,
                Outcome::Left | Outcome::Unfinished => {}
            }
            second.counts.output_tokens += u64::from(record.output_tokens);
        }
        if let Some(second) = self.second(record.intended) {
            second.counts.intended += 1;
            if let Some(ttft) = record.ttft() {
                let ttfts = second.ttft.get_or_insert_with(|| {
                    let mut histogram = Histogram::new(2).expect("two digits are allowed");
                    histogram.auto(true);
                    histogram
                });
                stats::note(ttfts, stats::micros(ttft));
            }
        }
        let to = self.window.to.unwrap_or(Duration::MAX);
        if record.intended < self.window.from || record.intended >= to {
            return;
        }
        stats::note(&mut self.lateness, stats::micros(record.lateness()));
        self.late += u64::from(record.lateness() > LATE);
        self.total.add(record, &self.slo);
        let labels = [
            ("tenant", record.labels.tenant.as_ref()),
            ("class", record.labels.class.as_ref()),
            ("revision", record.revision.as_ref()),
        ];
        for (by, name) in labels {
            let Some(name) = name else { continue };
            let mut key = (by, name.clone());
            if !self.parts.contains_key(&key) && self.parts.len() >= PARTS_MAX {
                key.1 = Arc::from("(others)");
            }
            self.parts.entry(key).or_default().add(record, &self.slo);
        }
    }

    /// Connections that a client opened.
    pub fn connected(&mut self, connections: u64) {
        self.connections += connections;
    }

    /// Latest intended start so far.
    #[must_use]
    pub fn last_intended(&self) -> Duration {
        self.last_intended
    }

    /// Latest end so far.
    #[must_use]
    pub fn last_end(&self) -> Duration {
        self.last_end
    }

    /// Streams that run now.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.running
    }

    /// Requests, and failures among them, in the window so far.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.total.summary.requests, self.total.summary.failed)
    }

    fn second(&mut self, at: Duration) -> Option<&mut SecondSums> {
        let index = usize::try_from(at.as_secs()).ok().filter(|&index| index < SECONDS_MAX)?;
        while self.seconds.len() <= index {
            let t_s = self.seconds.len() as u64;
            self.seconds.push(SecondSums {
                counts: Second { t_s, ..Second::default() },
                ..SecondSums::default()
            });
        }
        self.seconds.get_mut(index)
    }

    /// What is measured so far. `schedule_end`: when the schedule ended or was ended, after the run's begin.
    #[must_use]
    pub fn run(&self, load: &str, rate: Option<f64>, schedule_end: Duration) -> Run {
        let to = self.window.to.unwrap_or(schedule_end).min(schedule_end);
        let measured = to.saturating_sub(self.window.from);
        let requests = self.total.summary.requests;
        let on_time = 1.0 - self.late as f64 / requests.max(1) as f64;
        Run {
            target: 0,
            load: load.to_owned(),
            rate,
            started_at: None,
            measured_from_s: self.window.from.as_secs_f64(),
            measured_to_s: to.as_secs_f64(),
            elapsed_s: self.last_end.max(schedule_end).as_secs_f64(),
            summary: self.total.summary(measured, !self.slo.is_empty()),
            parts: self.parts(measured),
            generator: Generator {
                lateness: distribution(&self.lateness),
                kept_schedule: on_time >= ON_TIME_SHARE,
                streams_peak: self.streams_peak,
                connections: self.connections,
                ..Generator::default()
            },
            series: self.series(),
            server_queue_ms: None,
            server: Vec::new(),
        }
    }

    /// Where there is but one tenant, class or revision, its figures are the total's.
    fn parts(&self, measured: Duration) -> Vec<Part> {
        let of = |by: &str| self.parts.keys().filter(move |(known, _)| *known == by).count();
        let several = self.parts.iter().filter(|((by, _), _)| of(by) > 1);
        several
            .map(|((by, name), stats)| Part {
                by: (*by).to_owned(),
                name: name.to_string(),
                summary: stats.summary(measured, !self.slo.is_empty()),
            })
            .collect()
    }

    /// The few figures of a live view; cheap, for the generator waits meanwhile.
    #[must_use]
    pub fn glance(&self) -> Glance {
        // The second that runs is not whole yet.
        let whole = self.seconds.len().saturating_sub(1);
        let from = whole.saturating_sub(GLANCE_SECONDS);
        let seconds = &self.seconds[from..whole];
        let sum = |of: fn(&SecondSums) -> u64| self.seconds[..from].iter().map(of).sum::<u64>();
        let mut running = sum(|s| s.counts.sent) - sum(|s| s.ended);
        let mut running_per_s = Vec::new();
        for second in seconds {
            running = running + second.counts.sent - second.ended;
            running_per_s.push(running);
        }
        let p95 =
            |s: &SecondSums| s.ttft.as_ref().map_or(0, |ttft| ttft.value_at_quantile(0.95) / 1000);
        let [ttft, itl, e2e] = self.total.quantiles_ms();
        Glance {
            requests: self.total.summary.requests,
            done: self.total.summary.done,
            failed: self.total.summary.failed,
            output_tokens: self.total.summary.output_tokens,
            running: self.running,
            ttft,
            itl,
            e2e,
            lateness: stats::p50_p95_ms(&self.lateness),
            done_per_s: seconds.iter().map(|s| s.counts.done).collect(),
            running_per_s,
            ttft_p95_ms: seconds.iter().map(p95).collect(),
        }
    }

    /// Second by second so far.
    #[must_use]
    pub fn series(&self) -> Vec<Second> {
        let mut running = 0;
        let one = |second: &SecondSums| {
            running = running + second.counts.sent - second.ended;
            let quantile =
                |q| second.ttft.as_ref().map_or(0.0, |ttft| ttft.value_at_quantile(q) as f64 / 1e3);
            Second {
                running,
                ttft_p50: quantile(0.5),
                ttft_p95: quantile(0.95),
                ..second.counts.clone()
            }
        };
        self.seconds.iter().map(one).collect()
    }
}
