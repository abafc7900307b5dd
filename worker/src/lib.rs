//! How do ranks become one group that answers, fails and forms again as one?
//!
//! A process holds one or more ranks of a replica group, each on a thread with its shard of the weights. Rank 0 leads:
//! it begins an *epoch*, publishes where it takes `Join` calls, and waits for the other ranks. When all have come
//! it runs the engine on a thread of its own, streams the engine's plans to all ranks, and takes requests from routers.
//! The others follow: they join, carry out plans, and say every 100 ms that they live.
//!
//! **Invariant.** A rank is never healthy alone. Whatever goes wrong on one ends the epoch on all, once and with one
//! reason that names the rank (`bond.rs`), and nothing of it survives but the weights. Then the leader begins the next.
//!
//! **Invariant.** Nothing blocks a runtime's thread: devices and the engine have threads of their own, and every
//! channel between them and the runtime has a bound with a name.
//!
//! How soon is a fault noticed? A rank that was killed, within milliseconds, by its broken connection. One that
//! stands still (SIGSTOP, a frozen machine, a cut cable), within `--stall-timeout-ms` (5 s) and two heartbeats of 100 ms. A
//! device that hangs while its process lives, within `--step-timeout-ms` (60 s). A leader's record in the registry
//! outlives a killed leader by at most `--lease-ttl-ms` (5 s).
//!
//! Left out: what a plan computes (`worker/model`), which plan comes next (`worker/engine`), text (the router).
//!
//! Start with [`Worker`], then `leader.rs` and `follower.rs`.

mod assets;
mod block_log;
mod bond;
mod config;
mod device;
mod engine_thread;
mod error;
mod follower;
mod group;
mod leader;
mod load;
mod metrics;
mod model;
mod outbox;
mod rank;
mod service;
mod watch;
mod worker;

pub use config::{
    CollectiveKind, ComputeKind, DeviceKind, RankRange, SimCosts, Switch, WorkerConfig,
};
pub use error::WorkerError;
pub use worker::{Worker, run};
