//! What does a worker's `/metrics` say?

use std::sync::atomic::{AtomicU64, Ordering};

use glint_core::LoadSnapshot;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A worker's metrics, all epochs together. Those of the engine are rank 0's; other ranks leave them at 0.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) requests: Counter,
    pub(crate) refused: Counter,
    pub(crate) aborted: Counter,
    pub(crate) prompt_tokens: Counter,
    pub(crate) cached_tokens: Counter,
    pub(crate) output_tokens: Counter,
    pub(crate) epochs: Counter,
    pub(crate) faults: Counter,
    pub(crate) step: Histogram,
    pub(crate) queued: Histogram,
    pub(crate) epoch: Gauge,
    steps: Counter,
    preemptions: Counter,
    running: Gauge,
    waiting: Gauge,
    queued_prefill_tokens: Gauge,
    kv_blocks: Gauge,
    kv_blocks_used: Gauge,
    /// What the counters above have of the present epoch.
    counted_steps: AtomicU64,
    counted_preemptions: AtomicU64,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            requests: Counter::default(),
            refused: Counter::default(),
            aborted: Counter::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            output_tokens: Counter::default(),
            epochs: Counter::default(),
            faults: Counter::default(),
            step: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            queued: Histogram::new(exponential_buckets(0.001, 4.0, 9)),
            epoch: Gauge::default(),
            steps: Counter::default(),
            preemptions: Counter::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            queued_prefill_tokens: Gauge::default(),
            kv_blocks: Gauge::default(),
            kv_blocks_used: Gauge::default(),
            counted_steps: AtomicU64::new(0),
            counted_preemptions: AtomicU64::new(0),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let worker = registry.sub_registry_with_prefix("glint_worker");
        let counters = [
            ("requests", "Sequences taken", &self.requests),
            ("requests_refused", "Sequences refused", &self.refused),
            ("requests_aborted", "Sequences whose caller went away", &self.aborted),
            ("prompt_tokens", "Prompt tokens of finished sequences", &self.prompt_tokens),
            ("cached_tokens", "Tokens found in the prefix cache", &self.cached_tokens),
            ("output_tokens", "Tokens drawn", &self.output_tokens),
            ("epochs", "Epochs in which the group formed", &self.epochs),
            ("faults", "Epochs that ended by a fault", &self.faults),
            ("steps", "Steps executed", &self.steps),
            ("preemptions", "Sequences preempted", &self.preemptions),
        ];
        for (name, help, counter) in counters {
            worker.register(name, help, counter.clone());
        }
        let gauges = [
            ("epoch", "The present epoch, 0 while the group forms", &self.epoch),
            ("running_sequences", "Sequences in prefill or decode", &self.running),
            ("waiting_sequences", "Sequences that wait to be admitted", &self.waiting),
            (
                "queued_prefill_tokens",
                "Prompt tokens still to be computed",
                &self.queued_prefill_tokens,
            ),
            ("kv_blocks", "KV blocks of 16 tokens", &self.kv_blocks),
            ("kv_blocks_used", "KV blocks that a sequence owns", &self.kv_blocks_used),
        ];
        for (name, help, gauge) in gauges {
            worker.register(name, help, gauge.clone());
        }
        let step_help = "Wait for the outcome of a step, with planning";
        worker.register("step_seconds", step_help, self.step.clone());
        worker.register("queue_seconds", "Wait of sequences for admission", self.queued.clone());
    }

    /// Takes over what the engine says of itself.
    pub(crate) fn observe(&self, load: &LoadSnapshot) {
        let large = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let more = |now: u64, counted: &AtomicU64| {
            now.saturating_sub(counted.swap(now, Ordering::Relaxed))
        };
        self.steps.inc_by(more(load.steps, &self.counted_steps));
        self.preemptions.inc_by(more(load.preemptions, &self.counted_preemptions));
        self.running.set(load.running_sequences.into());
        self.waiting.set(load.waiting_sequences.into());
        self.queued_prefill_tokens.set(large(load.queued_prefill_tokens));
        self.kv_blocks.set(load.kv_blocks_total.into());
        self.kv_blocks_used.set(load.kv_blocks_used.into());
    }

    /// The engine is gone; the next one counts from 0.
    pub(crate) fn idle(&self) {
        self.observe(&LoadSnapshot::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_over_epochs() {
        let metrics = Metrics::new();
        let load = |steps| LoadSnapshot { steps, ..LoadSnapshot::default() };
        metrics.observe(&load(5));
        metrics.observe(&load(8));
        metrics.idle();
        metrics.observe(&load(2));
        assert_eq!(metrics.steps.get(), 10);
    }
}
