//! Which flags does `glint loadtest` have?

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use http::{HeaderName, Uri};

use crate::{
    arrivals::Rates,
    drive::{Load, Pace},
    measure::Window,
    slo::Condition,
    target::{Endpoint, PromptForm},
    tokens::Vocabulary,
    workload::WorkloadConfig,
};

/// Measures a server of a language model.
#[derive(Debug, Args)]
pub struct LoadtestConfig {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Puts one load on a server and reports what its users would have felt.
    Run(Box<RunConfig>),
    /// Puts a list of rates on a server, one after another.
    Sweep(Box<SweepConfig>),
    /// Finds the highest rate that meets the objectives of --slo.
    FindMax(Box<FindMaxConfig>),
    /// Puts the same load on two servers in turn (A B A B …) and says which is better.
    Compare(Box<CompareConfig>),
    /// Compares two result files, figure by figure.
    Diff(DiffConfig),
    /// Asks greedily and writes the answers down, for `verify`.
    Record(Box<RecordConfig>),
    /// Asks what was recorded and tells the first differing token.
    Verify(Box<VerifyConfig>),
    /// Tells what a trace holds, and how much of it a prefix cache could spare.
    Trace(Box<TraceConfig>),
    /// Draws a result file again: table, HTML page, PNG, llm-d's Benchmark Report.
    Report(ReportConfig),
    /// Prints the JSON schema of result files.
    Schema,
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct RunConfig {
    #[command(flatten)]
    pub(crate) bench: BenchConfig,
    /// Requests (of sessions: sessions) per second of the open loop: 10, ramp:from=1,to=20,over=60 or steps:0=5,30=20
    /// [default: a trace's own times].
    #[arg(long, conflicts_with = "concurrency")]
    pub(crate) rate: Option<Rates>,
    /// Measure so many times, one after another, and report confidence intervals.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
}

/// Flags of `sweep`.
#[derive(Debug, Args)]
pub struct SweepConfig {
    #[command(flatten)]
    pub(crate) bench: BenchConfig,
    /// Rates in requests per second, such as 1,2,4,8.
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) rates: Vec<f64>,
}

/// Flags of `find-max`.
#[derive(Debug, Args)]
pub struct FindMaxConfig {
    #[command(flatten)]
    pub(crate) bench: BenchConfig,
    /// Rate to begin with, requests per second.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) from: f64,
    /// Lowest rate to try.
    #[arg(long, default_value_t = 0.05)]
    pub(crate) lowest: f64,
    /// Highest rate to try.
    #[arg(long, default_value_t = 100_000.0)]
    pub(crate) highest: f64,
    /// End when the highest rate that held and the lowest that did not differ by less, per cent.
    #[arg(long = "tolerance-percent", default_value_t = 2.0)]
    pub(crate) tolerance_percent: f64,
}

/// Flags of `compare`.
#[derive(Debug, Args)]
pub struct CompareConfig {
    #[command(flatten)]
    pub(crate) bench: BenchConfig,
    /// The second server; all else is as for the first.
    #[arg(long)]
    pub(crate) url_b: Uri,
    /// Its model [default: the first that it lists].
    #[arg(long)]
    pub(crate) model_b: Option<String>,
    /// Requests (of sessions: sessions) per second, as for `run`.
    #[arg(long, conflicts_with = "concurrency")]
    pub(crate) rate: Option<Rates>,
    /// Rounds of A and B; 3 or more give confidence intervals worth reading.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) tolerance: Tolerance,
}

/// Flags of `diff`.
#[derive(Debug, Args)]
pub struct DiffConfig {
    /// The result file to compare with.
    pub(crate) a: PathBuf,
    /// The result file that is judged. The exit code is 3 when it is worse.
    pub(crate) b: PathBuf,
    #[command(flatten)]
    pub(crate) tolerance: Tolerance,
}

/// What counts as the same.
#[derive(Debug, Args)]
pub(crate) struct Tolerance {
    /// Differences below that are none, per cent.
    #[arg(long = "tolerance-percent", default_value_t = 5.0)]
    pub(crate) percent: f64,
}

/// Flags of `record`.
#[derive(Debug, Args)]
pub struct RecordConfig {
    #[command(flatten)]
    pub(crate) target: TargetConfig,
    #[command(flatten)]
    pub(crate) workload: WorkloadConfig,
    /// Requests to record.
    #[arg(long, default_value_t = 32)]
    pub(crate) requests: u64,
    /// Requests at a time.
    #[arg(long, default_value_t = 4)]
    pub(crate) concurrency: usize,
    /// File to write.
    #[arg(long)]
    pub(crate) to: PathBuf,
}

/// Flags of `verify`.
#[derive(Debug, Args)]
pub struct VerifyConfig {
    #[command(flatten)]
    pub(crate) target: TargetConfig,
    /// File that `record` wrote. The exit code is 3 when an answer differs.
    pub(crate) file: PathBuf,
    /// Requests at a time.
    #[arg(long, default_value_t = 4)]
    pub(crate) concurrency: usize,
}

/// Flags of `trace`.
#[derive(Debug, Args)]
pub struct TraceConfig {
    #[command(flatten)]
    pub(crate) workload: WorkloadConfig,
    /// Ids that made-up tokens are drawn from, FIRST-LAST.
    #[arg(long, default_value = "1000-30000", value_parser = vocabulary)]
    pub(crate) token_ids: Vocabulary,
}

/// Flags of `report`.
#[derive(Debug, Args)]
pub struct ReportConfig {
    /// A result file.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputConfig,
}

/// What `run`, `sweep`, `find-max` and `compare` share.
#[derive(Debug, Args)]
pub(crate) struct BenchConfig {
    #[command(flatten)]
    pub(crate) target: TargetConfig,
    #[command(flatten)]
    pub(crate) workload: WorkloadConfig,
    #[command(flatten)]
    pub(crate) load: LoadConfig,
    #[command(flatten)]
    pub(crate) output: OutputConfig,
}

/// Which server, and how it is asked.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target")]
pub(crate) struct TargetConfig {
    /// The server: http://, https://, or grpc:// and grpcs:// for Glint's gRPC.
    #[arg(long, env = "GLINT_URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: Uri,
    /// Which API [default: chat, or grpc where the URL says so].
    #[arg(long)]
    pub(crate) endpoint: Option<Endpoint>,
    /// Model to ask [default: the first that the server lists].
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// API key.
    #[arg(long, env = "GLINT_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// API key of a tenant, NAME=KEY; may be given again.
    #[arg(long, value_parser = name_and_key)]
    pub(crate) tenant_key: Vec<(String, String)>,
    /// Header that carries the class of a request.
    #[arg(long)]
    pub(crate) class_header: Option<HeaderName>,
    /// A request fails when its answer is not whole by then.
    #[arg(long = "request-timeout-s", default_value = "600", value_parser = seconds)]
    pub(crate) request_timeout: Duration,
    /// How made-up prompts are sent: as words, which every server takes, or as token ids (completions and grpc), which have exact
    /// lengths and prefixes.
    #[arg(long, default_value = "text")]
    pub(crate) prompt_form: PromptForm,
    /// Ids that made-up tokens are drawn from, FIRST-LAST; within the model's vocabulary and clear of its special tokens.
    #[arg(long, default_value = "1000-30000", value_parser = vocabulary)]
    pub(crate) token_ids: Vocabulary,
    /// Ask for exactly as many tokens as the workload says (`ignore_eos`: Glint, vLLM, SGLang); else answers end where they end.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Do not stream: only end-to-end latency is measured.
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Further fields of every request's body, a JSON object such as {"temperature":0}.
    #[arg(long, default_value = "{}", value_parser = json_object)]
    pub(crate) extra_body: serde_json::Map<String, serde_json::Value>,
    /// Certificates to trust besides the public ones, PEM.
    #[arg(long)]
    pub(crate) ca_file: Option<PathBuf>,
}

/// How much, and for how long.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadConfig {
    /// Closed loop: keep so many sessions going instead of a rate. Latency under overload is then hidden by the client that waits.
    #[arg(long)]
    pub(crate) concurrency: Option<usize>,
    /// Length of the test, warm-up and cool-down included [default: 60, or the whole trace].
    #[arg(long = "duration-s", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,
    /// No more requests (of sessions: sessions) than that.
    #[arg(long)]
    pub(crate) requests: Option<u64>,
    /// Do not count requests intended before that.
    #[arg(long = "warmup-s", default_value = "0", value_parser = seconds)]
    pub(crate) warmup: Duration,
    /// Do not count requests intended so long before the end.
    #[arg(long = "cooldown-s", default_value = "0", value_parser = seconds, requires = "duration")]
    pub(crate) cooldown: Duration,
    /// How long answers may go on after the end; then they count as unfinished.
    #[arg(long = "drain-s", default_value = "60", value_parser = seconds)]
    pub(crate) drain: Duration,
    /// Threads that send and read; one does for 10,000 streams.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// An objective, such as ttft_p95<500ms or itl_p99<50ms; may be given again. Goodput counts the requests that meet all by themselves.
    #[arg(long)]
    pub(crate) slo: Vec<Condition>,
}

/// What is shown and written.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputConfig {
    /// Fail (exit code 3) unless that holds, such as failed_share<1% or ttft_p95<500ms; may be given again.
    #[arg(long)]
    pub(crate) assert: Vec<Condition>,
    /// Write the result as JSON (docs/loadtest-report.schema.json).
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Write one self-contained HTML page with plots.
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
    /// Write the plots as PNG.
    #[arg(long)]
    pub(crate) png: Option<PathBuf>,
    /// Write llm-d's Benchmark Report v0.2 as JSON.
    #[arg(long)]
    pub(crate) llmd: Option<PathBuf>,
    /// Prometheus page to read once a second meanwhile; may be given again.
    #[arg(long)]
    pub(crate) metrics_url: Vec<Uri>,
    /// Part of the names of metrics to keep [default: what tells of queues, caches and replicas]; may be given again.
    #[arg(long)]
    pub(crate) metric: Vec<String>,
    /// No live view.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl BenchConfig {
    /// The load at these rates, at the flags' concurrency, or at the trace's own times.
    pub(crate) fn load(&self, rates: Option<&Rates>) -> anyhow::Result<Load> {
        let flags = &self.load;
        let (pace, description) = match (flags.concurrency, rates) {
            (Some(0), _) => anyhow::bail!("--concurrency must be above 0"),
            (Some(sessions), _) => {
                (Pace::Closed { sessions }, format!("closed loop, {sessions} at a time"))
            }
            (None, Some(rates)) => (Pace::Open, format!("{} {rates} /s", self.workload.arrivals)),
            (None, None) if self.workload.trace.is_some() => {
                (Pace::Open, "at the trace's own times".to_owned())
            }
            (None, None) => anyhow::bail!(
                "say how much: --rate requests per second, or --concurrency for a closed loop"
            ),
        };
        let ends_by_itself = self.workload.trace.is_some() || flags.requests.is_some();
        let duration =
            flags.duration.or_else(|| (!ends_by_itself).then_some(Duration::from_secs(60)));
        let to = duration.map(|duration| duration.saturating_sub(flags.cooldown));
        if to.is_some_and(|to| to <= flags.warmup) {
            anyhow::bail!(
                "--warmup-s and --cooldown-s leave nothing of the test to measure: make --duration-s longer"
            );
        }
        Ok(Load {
            pace,
            description,
            rate: match rates {
                Some(Rates::Constant(rate)) => Some(*rate),
                Some(Rates::Ramp { .. } | Rates::Steps(_)) | None => None,
            },
            duration,
            sessions_max: flags.requests,
            window: Window { from: flags.warmup, to },
            drain: flags.drain,
            threads: usize::from(flags.threads),
            slo: Arc::from(flags.slo.clone()),
        })
    }
}

impl TargetConfig {
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.unwrap_or(match self.url.scheme_str() {
            Some("grpc" | "grpcs") => Endpoint::Grpc,
            _ => Endpoint::Chat,
        })
    }

    pub(crate) fn tenant_keys(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        let pairs = self.tenant_key.iter();
        pairs.map(|(name, key)| (Arc::from(&**name), Arc::from(&**key))).collect()
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("`{text}` is no number of seconds"))
}

fn vocabulary(text: &str) -> Result<Vocabulary, String> {
    let ids = text
        .split_once('-')
        .and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    Vocabulary::new(ids.ok_or("write it FIRST-LAST, such as 1000-30000")?)
        .map_err(|error| error.to_string())
}

fn name_and_key(text: &str) -> Result<(String, String), String> {
    let (name, key) = text.split_once('=').ok_or("write it NAME=KEY")?;
    Ok((name.to_owned(), key.to_owned()))
}

fn json_object(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))
}
