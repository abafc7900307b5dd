//! Does the router answer as it should, whatever clients and workers do?
//!
//! A real router on ports of its own, a registry in memory behind loopback, and fake workers: they speak the worker's wire,
//! make tokens up, and fail on demand.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

mod chat;
mod completions;
mod drain;
mod errors;
mod groups;
mod grpc;
mod hostile;
mod stream;
mod support;
