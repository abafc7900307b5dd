//! The model against its references: logits and tokens, whatever the batch, the chunk, the cache and the number of ranks.

#![expect(clippy::unwrap_used, reason = "a test may end where something is missing")]
#![expect(clippy::print_stdout, reason = "what is skipped is said")]

mod checkpoints;
mod demo;
mod digest;
mod engine;
mod fixtures;
mod invariance;
mod parity;
mod plans;
mod random;
mod ranks;
mod world_sizes;
