//! What does every role do alike?
//!
//! It writes logs ([`logging`]), answers on an admin port ([`admin`]: `/livez`, `/readyz`, `/metrics`), and stops in
//! two steps when it is told to ([`drain`]); durations in flags are read by [`flags`]. A role is a library with `run(config, drain)`; whatever it has in
//! common with its siblings is here, so that an owner finds the same switches everywhere.

pub mod admin;
pub mod drain;
pub mod flags;
pub mod limits;
pub mod logging;

pub use admin::{Admin, Readiness};
pub use drain::Drain;
