//! The engine through its front door, on the simulated device.
//!
//! Start with `story`: whatever happens, every token is the one that its sequence would have got alone.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod aborts;
mod admission;
mod cache;
mod failures;
mod group;
mod load;
mod record;
mod same_tokens;
mod spy;
mod stops;
mod story;
