//! How fast is the group, lately?

use std::time::{Duration, Instant};

/// Keeps this part of what was known, each time something is learned: about ten steps are remembered.
const MEMORY: f64 = 0.9;

/// Averages that forget.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    prefill_tokens: f64,
    prefill_s: f64,
    decode_step_s: Option<f64>,
    settled_at: Option<Instant>,
}

impl Rates {
    /// Learns from a step that was submitted and settled at these times. With another one before it in flight, it
    /// began when that one was settled.
    ///
    /// A step with any prefill counts as prefill, decodes and all: that is the pace at which prompts get on.
    pub(crate) fn record(&mut self, submitted_at: Instant, now: Instant, prefill_tokens: u32) {
        let began_at = self.settled_at.map_or(submitted_at, |settled| settled.max(submitted_at));
        self.settled_at = Some(now);
        let took_s = now.saturating_duration_since(began_at).as_secs_f64();
        if prefill_tokens > 0 {
            // Weighted by time, or the short last chunk of a prompt would count as much as a full one.
            self.prefill_tokens = self.prefill_tokens * MEMORY + f64::from(prefill_tokens);
            self.prefill_s = self.prefill_s * MEMORY + took_s;
        } else {
            let known = self.decode_step_s.unwrap_or(took_s);
            self.decode_step_s = Some(known * MEMORY + took_s * (1.0 - MEMORY));
        }
    }

    /// Returns tokens per second in steps with prefill; nothing before the first, or if no time passed.
    pub(crate) fn prefill_tokens_per_s(&self) -> Option<f32> {
        (self.prefill_s > 0.0).then(|| (self.prefill_tokens / self.prefill_s) as f32)
    }

    /// Returns the time of a step that only decodes.
    pub(crate) fn decode_step(&self) -> Option<Duration> {
        self.decode_step_s.map(Duration::from_secs_f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_steps_are_not_counted_twice() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rates = Rates::default();
        assert_eq!((rates.prefill_tokens_per_s(), rates.decode_step()), (None, None));
        rates.record(at(0), at(100), 50);
        rates.record(at(10), at(200), 50);
        assert!((rates.prefill_tokens_per_s().unwrap() - 500.0).abs() < 1.0);
        rates.record(at(110), at(220), 0);
        assert_eq!(rates.decode_step(), Some(Duration::from_millis(20)));
        // Nothing ran in between: the step began when it was submitted.
        rates.record(at(1_000), at(1_020), 0);
        assert_eq!(rates.decode_step(), Some(Duration::from_millis(20)));
    }

    #[test]
    fn old_rates_are_forgotten() {
        let start = Instant::now();
        let mut rates = Rates::default();
        let mut now = start;
        for took_ms in std::iter::repeat_n(100, 50).chain(std::iter::repeat_n(10, 100)) {
            let submitted = now;
            now += Duration::from_millis(took_ms);
            rates.record(submitted, now, 100);
            rates.record(now, now + Duration::from_millis(took_ms), 0);
            now += Duration::from_millis(took_ms);
        }
        assert!((rates.prefill_tokens_per_s().unwrap() / 10_000.0 - 1.0).abs() < 0.01);
        assert!(rates.decode_step().unwrap() < Duration::from_micros(10_100));
    }
}
