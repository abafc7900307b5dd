//! How busy is a group?

use std::time::Duration;

/// Interval of load reports while sequences run (`FORMATS.md` section 4).
pub const REPORT_BUSY: Duration = Duration::from_millis(200);
/// Interval of load reports while none do.
pub const REPORT_IDLE: Duration = Duration::from_secs(1);

/// A group's load, as its leader reports it. What is not yet measured is `None`, never zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadSnapshot {
    /// Steps executed since the epoch began; stands still when the group hangs.
    pub steps: u64,
    /// Sequences that wait to be admitted.
    pub waiting_sequences: u32,
    /// Sequences in prefill or decode.
    pub running_sequences: u32,
    /// Prompt tokens, beyond those in the cache, that are still to be computed.
    pub queued_prefill_tokens: u64,
    /// KV blocks in all.
    pub kv_blocks_total: u32,
    /// KV blocks that a sequence owns. Cached blocks count as free: they are evicted on demand.
    pub kv_blocks_used: u32,
    /// Prompt tokens computed per second while prefilling, an average that forgets.
    pub prefill_tokens_per_s: Option<f32>,
    /// Time of a step that only decodes, at the present batch.
    pub decode_step: Option<Duration>,
    /// Sequences preempted since the epoch began.
    pub preemptions: u64,
    /// No new sequences are taken.
    pub draining: bool,
}

/// What a router may send to a group before the next report: it replaces what was granted before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credits {
    /// Dispatches of this router's connection that the group has seen.
    pub dispatches_seen: u64,
    /// Sequences beyond those seen.
    pub sequences: u32,
    /// Uncached prompt tokens beyond those seen.
    pub tokens: u64,
}
