//! What is written down of a load test?
//!
//! A [`Report`] is the published JSON document: every other form (table, HTML page, PNG, llm-d's Benchmark Report) is made
//! from it and from nothing else, so that a page can be drawn again from a file. It holds one [`Run`] per measured load:
//! `run` makes one (or one per repeat), `sweep` one per rate, `find-max` one per probe, `compare` one per turn of each target.
//!
//! Times of a run are in seconds from its begin, latencies in milliseconds from the *intended* start.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::ErrorKind;

/// Version of the document's form. It changes when a reader of the old form would misread the new one.
pub const SCHEMA: &str = "glint-loadtest/1";

/// The result of one command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was done.
    pub kind: Kind,
    /// Version of the program.
    pub glint_version: String,
    /// UTC, RFC 3339.
    pub started_at: String,
    /// The command line, without keys.
    pub command: Vec<String>,
    /// What was loaded: one, or two that are compared.
    pub targets: Vec<Target>,
    /// What was sent, in words.
    pub workload: String,
    /// The objectives that make a request good, as written.
    pub slo: Vec<String>,
    /// What was measured, in order.
    pub runs: Vec<Run>,
    /// Over repeats of one load: each headline figure's mean and its 95 % confidence interval, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub intervals: BTreeMap<String, Interval>,
    /// Of `find-max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub find_max: Option<FindMax>,
    /// Of two targets or two files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// What `--assert` asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assertions: Vec<Assertion>,
    /// What the reader has to know before believing the figures; also why the test ended early, if it did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One load, perhaps repeated.
    Run,
    /// A list of rates.
    Sweep,
    /// The highest rate that meets the objectives.
    FindMax,
    /// Two targets in turn.
    Compare,
}

/// A server under load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// Without credentials.
    pub url: String,
    /// `chat`, `completions` or `grpc`.
    pub endpoint: String,
    /// The model asked.
    pub model: String,
}

/// One measured load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// Index in [`Report::targets`].
    pub target: usize,
    /// The load, in words: `constant 10 requests/s`, `16 sessions at a time`.
    pub load: String,
    /// Intended request rate of an open loop, requests/s.
    pub rate: Option<f64>,
    /// The run's begin, UTC, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// Seconds since the run's begin that were measured: from the end of the warm-up to the begin of the cool-down.
    pub measured_from_s: f64,
    /// See `measured_from_s`.
    pub measured_to_s: f64,
    /// Whole length, until the last answer.
    pub elapsed_s: f64,
    /// Of requests whose intended start lies in the measured window.
    pub summary: Summary,
    /// The same, by tenant, class and revision, where there is more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// What the generator says of itself.
    pub generator: Generator,
    /// One per second since the run's begin, warm-up and cool-down included.
    pub series: Vec<Second>,
    /// Mean time in the servers' own queues, ms, by their histograms `…queue_time_seconds`; absent where they have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_queue_ms: Option<f64>,
    /// What the servers said of themselves meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server: Vec<ServerSeries>,
}

/// A part of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// `tenant`, `class` or `revision`.
    pub by: String,
    /// Which.
    pub name: String,
    /// Its figures.
    pub summary: Summary,
}

/// Figures of a set of requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// Requests sent.
    pub requests: u64,
    /// Whole answers.
    pub done: u64,
    /// Streams that the client left, as asked.
    pub left: u64,
    /// Requests still running when the test ended.
    pub unfinished: u64,
    /// Failures.
    pub failed: u64,
    /// Failures by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<ErrorKind, u64>,
    /// The first failure of each kind, in its server's words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub error_examples: BTreeMap<ErrorKind, String>,
    /// Requests sent per second of the window.
    pub requests_per_s: f64,
    /// Whole answers per second of the window.
    pub done_per_s: f64,
    /// Output tokens of answers begun in the window, per second of it.
    pub output_tokens_per_s: f64,
    /// As the servers counted.
    pub prompt_tokens: u64,
    /// Prompt tokens found in a prefix cache.
    pub cached_tokens: u64,
    /// Whether the server says how many prompt tokens were cached.
    pub cached_tokens_known: bool,
    /// As the servers counted.
    pub output_tokens: u64,
    /// Share of requests that met every objective, 0 to 1; of those that left, were unfinished or failed none did. Absent
    /// without objectives.
    pub good_share: Option<f64>,
    /// Good requests per second of the window.
    pub goodput_per_s: Option<f64>,
    /// Time to first token, from the intended start, ms.
    pub ttft: Distribution,
    /// Gaps between tokens, ms.
    pub itl: Distribution,
    /// Time per output token after the first, one value per answer, ms.
    pub tpot: Distribution,
    /// From the intended start to the answer's end, ms.
    pub e2e: Distribution,
    /// Time to first token from when it was *sent*: what a tool that forgets the schedule would show, ms.
    pub ttft_from_sent: Distribution,
}

/// A distribution of latencies in milliseconds, three digits exact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Distribution {
    /// Values; all else is 0 where there is none.
    pub count: u64,
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub stddev: f64,
    /// Smallest.
    pub min: f64,
    /// Quantile 0.5.
    pub p50: f64,
    /// Quantile 0.9.
    pub p90: f64,
    /// Quantile 0.95.
    pub p95: f64,
    /// Quantile 0.99.
    pub p99: f64,
    /// Quantile 0.999.
    pub p999: f64,
    /// Largest.
    pub max: f64,
    /// The cumulative distribution as `(share, ms)`, both ascending, for plots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdf: Vec<(f64, f64)>,
}

/// What the generator says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Generator {
    /// How late requests were sent, ms.
    pub lateness: Distribution,
    /// Whether it kept its schedule: 99 % of the requests sent within 10 ms of their intended start, and none left out.
    pub kept_schedule: bool,
    /// User and system time of the whole process over the run, seconds.
    pub cpu_s: f64,
    /// Most streams at one time.
    pub streams_peak: u64,
    /// Connections opened.
    pub connections: u64,
    /// Largest resident memory so far, bytes.
    pub rss_bytes: u64,
}

/// One second of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Second {
    /// Its begin, seconds since the run's.
    pub t_s: u64,
    /// Requests whose intended start lies in it.
    pub intended: u64,
    /// Requests sent in it.
    pub sent: u64,
    /// Answers that ended in it.
    pub done: u64,
    /// Failures in it.
    pub failed: u64,
    /// Tokens of answers that ended in it.
    pub output_tokens: u64,
    /// Streams running at its end.
    pub running: u64,
    /// Of requests intended in it, ms; 0 without any.
    pub ttft_p50: f64,
    /// See `ttft_p50`.
    pub ttft_p95: f64,
}

/// One metric of a server over a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerSeries {
    /// Where it was read.
    pub url: String,
    /// Its name; series that differ only in labels are added up.
    pub metric: String,
    /// `(seconds since the run's begin, value)`.
    pub points: Vec<(f64, f64)>,
}

/// A mean and its 95 % confidence interval (Student's t over the repeats).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Interval {
    /// Mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Repeats.
    pub repeats: usize,
}

/// The highest rate that meets the objectives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FindMax {
    /// Highest rate that held, requests/s; absent where even the lowest tried did not.
    pub rate: Option<f64>,
    /// Lowest rate that did not hold; absent where all that were tried held.
    pub above: Option<f64>,
    /// One per run.
    pub probes: Vec<Probe>,
}

/// One rate tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// Requests/s.
    pub rate: f64,
    /// Whether it held.
    pub held: bool,
    /// Why, in words.
    pub reason: String,
}

/// Two targets or two files, figure by figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// Name of the first.
    pub a: String,
    /// Name of the second.
    pub b: String,
    /// Figure by figure.
    pub figures: Vec<Difference>,
    /// In one sentence.
    pub verdict: String,
}

/// One figure of two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// Its name, as `--assert` knows it.
    pub figure: String,
    /// Of the first.
    pub a: f64,
    /// Of the second.
    pub b: f64,
    /// `b / a`, with its 95 % confidence interval where there are repeats; absent where `a` is 0.
    pub ratio: Option<f64>,
    /// See `ratio`.
    pub ratio_low: Option<f64>,
    /// See `ratio`.
    pub ratio_high: Option<f64>,
    /// What can be said.
    pub verdict: Verdict,
}

/// What can be said of two figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The second is better.
    Better,
    /// The second is worse.
    Worse,
    /// They differ by less than the tolerance, or than their own spread.
    Same,
}

/// What `--assert` asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Assertion {
    /// As written.
    pub text: String,
    /// What was measured, in the unit written; absent where nothing was, and then it does not hold.
    pub measured: Option<f64>,
    /// Whether it holds.
    pub holds: bool,
}
