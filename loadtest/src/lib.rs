//! How much load does a server of a language model bear, and what do its users feel meanwhile?
//!
//! A [`plan::Schedule`] says what is to be sent and when; a client sends it, open loop, whatever the server does; every answer
//! becomes a [`record::Record`], whose latency counts from the *intended* start: a server that stands still for two seconds is
//! seen by all who would have asked meanwhile, not only by those who had. Measures add records up, a [`report::Report`] is what
//! is written down.
//!
//! Start with [`plan`], then [`drive`], [`record`] and [`report`]. [`run`] is the command line.

pub mod arrivals;
mod commands;
pub mod compare;
mod config;
pub mod drive;
pub mod findmax;
mod live;
pub mod measure;
pub mod plan;
pub mod record;
pub mod render;
pub mod report;
pub mod scrape;
pub mod slo;
pub mod target;
pub mod tokens;
pub mod trace;
pub mod verify;
pub mod workload;

pub use commands::{Gate, run};
pub use config::LoadtestConfig;
