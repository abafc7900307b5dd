//! Which tokens are computed in the next step, and where do their keys and values live?
//!
//! The engine is one synchronous loop without a clock, a tensor or a socket. It takes requests, plans steps under a
//! token budget (decodes first, then chunks of prompts), hands each [`StepPlan`](glint_core::StepPlan) to an
//! [`Executor`] and turns the outcomes into [`Event`]s. Two plans may be in flight: a decode is planned before the
//! token it continues from is known, because the ranks append drawn tokens themselves. The price is that a stop is
//! seen one step late; the surplus token is thrown away.
//!
//! Keys and values live in blocks of 16 tokens ([`Pool`]), counted, shared between equal prefixes and evicted oldest
//! leaf first. When they run out, the youngest sequence gives its blocks back and is computed again later;
//! its tokens stay, so nobody notices but the clock.
//!
//! Left out: how logits come about (`worker/model`), who talks to whom (`worker`), text (the router).
//!
//! Start with [`Engine`]; [`sim`] is an executor that needs no model and checks every plan it gets.

mod config;
mod engine;
mod executor;
mod pool;
mod rates;
mod request;
mod scheduler;
mod sequence;
pub mod sim;

pub use config::{ConfigError, EngineConfig, Intake, PrefixCache};
pub use engine::{Engine, TagLoad};
pub use executor::{Executor, ExecutorError};
pub use pool::{BlockDelta, BlockRun, Contents, Hit, NameBlock, NodeRef, Parent, Pool};
pub use request::{AdmitError, EngineRequest, Event, SequenceId};
