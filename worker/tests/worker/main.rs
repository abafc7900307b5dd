//! The worker through its front door: real gRPC on free ports, a registry in memory, simulated devices or the tiny model.

#![expect(clippy::unwrap_used, reason = "these are tests, helpers included")]

mod drain;
mod faults;
mod generate;
mod ranks;
mod support;
mod texts;
mod watch;
