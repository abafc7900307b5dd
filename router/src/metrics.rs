//! What does a router count?

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use glint_core::Usage;
use glint_service::Admin;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// Seconds: from a decode step on a fast GPU to a long prefill on a laptop.
const TTFT_BUCKETS_S: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
const ITL_BUCKETS_S: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The router's metrics. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    requests_in_flight: Gauge,
    sequences_in_flight: Gauge,
    tokens: Family<TokenLabels, Counter>,
    ttft: Histogram,
    itl: Histogram,
    duration: Histogram,
    groups: Family<GroupLabels, Gauge>,
    dispatches: Family<DispatchLabels, Counter>,
    aborted: Counter,
    blocks: Gauge<f64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DispatchLabels {
    outcome: &'static str,
}

/// How an attempt to start a sequence on a group ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dispatched {
    Started,
    Refused,
    Failed,
}

/// Counts something for as long as it lives.
#[derive(Debug)]
pub(crate) struct Held(Gauge);

impl Held {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn register(admin: &Admin) -> Self {
        let metrics = Self {
            requests: Family::default(),
            requests_in_flight: Gauge::default(),
            sequences_in_flight: Gauge::default(),
            tokens: Family::default(),
            ttft: Histogram::new(TTFT_BUCKETS_S),
            itl: Histogram::new(ITL_BUCKETS_S),
            duration: Histogram::new(TTFT_BUCKETS_S),
            groups: Family::default(),
            dispatches: Family::default(),
            aborted: Counter::default(),
            blocks: Gauge::default(),
        };
        let m = metrics.clone();
        admin.register(|registry| {
            let router = registry.sub_registry_with_prefix("glint_router");
            router.register("requests", "Requests by endpoint and status", m.requests);
            router.register(
                "requests_in_flight",
                "Requests not yet answered to the end",
                m.requests_in_flight,
            );
            router.register(
                "sequences_in_flight",
                "Sequences that run on groups for this router",
                m.sequences_in_flight,
            );
            router.register("tokens", "Tokens: prompt, of those cached, and output", m.tokens);
            router.register("ttft_seconds", "From a request's arrival to its first token", m.ttft);
            router.register("itl_seconds", "From one token of a sequence to the next", m.itl);
            router.register(
                "request_seconds",
                "From a request's arrival to its last token",
                m.duration,
            );
            router.register("groups", "Groups by state: ready, draining, lost", m.groups);
            router.register(
                "dispatches",
                "Sequences sent to groups: started, refused, failed",
                m.dispatches,
            );
            router.register(
                "aborted_sequences",
                "Sequences taken back before they had ended",
                m.aborted,
            );
            router.register("index_blocks", "KV blocks of all groups that are known", m.blocks);
        });
        metrics
    }

    pub(crate) fn request(&self, endpoint: &'static str, code: u16) {
        self.requests.get_or_create(&RequestLabels { endpoint, code }).inc();
    }

    pub(crate) fn request_in_flight(&self) -> Held {
        Held::new(&self.requests_in_flight)
    }

    pub(crate) fn sequence_in_flight(&self) -> Held {
        Held::new(&self.sequences_in_flight)
    }

    pub(crate) fn prompt(&self, prompt_tokens: u32, cached_tokens: u32) {
        self.count_tokens("prompt", prompt_tokens);
        self.count_tokens("cached", cached_tokens);
    }

    pub(crate) fn finished(&self, usage: &Usage, since_arrival: Duration) {
        self.count_tokens("output", usage.output_tokens);
        self.duration.observe(since_arrival.as_secs_f64());
    }

    /// A sequence that broke off.
    pub(crate) fn failed(&self, output_tokens: u32) {
        self.count_tokens("output", output_tokens);
    }

    /// A sequence that was taken back: its tokens were computed all the same.
    pub(crate) fn aborted(&self, output_tokens: u32) {
        self.count_tokens("output", output_tokens);
        self.aborted.inc();
    }

    pub(crate) fn first_token(&self, since_arrival: Duration) {
        self.ttft.observe(since_arrival.as_secs_f64());
    }

    /// `tokens` came together after `elapsed`.
    pub(crate) fn next_tokens(&self, elapsed: Duration, tokens: usize) {
        let each = elapsed.as_secs_f64() / tokens.max(1) as f64;
        for _ in 0..tokens {
            self.itl.observe(each);
        }
    }

    pub(crate) fn dispatched(&self, outcome: Dispatched) {
        let outcome = match outcome {
            Dispatched::Started => "started",
            Dispatched::Refused => "refused",
            Dispatched::Failed => "failed",
        };
        self.dispatches.get_or_create(&DispatchLabels { outcome }).inc();
    }

    pub(crate) fn groups(&self, ready: usize, draining: usize, lost: usize) {
        for (state, count) in [("ready", ready), ("draining", draining), ("lost", lost)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.groups.get_or_create(&GroupLabels { state }).set(count);
        }
    }

    /// The number of known blocks of one group changed.
    pub(crate) fn blocks(&self, before: usize, after: usize) {
        self.blocks.inc_by(after as f64 - before as f64);
    }

    fn count_tokens(&self, kind: &'static str, count: u32) {
        self.tokens.get_or_create(&TokenLabels { kind }).inc_by(u64::from(count));
    }
}
