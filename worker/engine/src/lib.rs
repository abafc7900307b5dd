//! Which tokens are computed in the next step, and where do their keys and values live?
//!
//! The engine is one synchronous loop without a clock, a tensor or a socket. It takes requests, plans steps under a
//! token budget (decodes first, then chunks of prompts), hands each [`StepPlan`](glint_core::StepPlan) to an
//! [`Executor`] and turns the outcomes into [`Event`]s. Two plans may be in flight: a decode is planned before the
//! token it continues from is known, because the ranks append drawn tokens themselves. The price is that a stop is
//! seen one step late; the surplus token is thrown away.
//!
//! Keys and values live in blocks of 16 tokens (`Pool`), counted, shared between equal prefixes and evicted oldest
//! leaf first. When they run out, the youngest sequence gives its blocks back and is computed again later;
//! its tokens stay, so nobody notices but the clock.
//!
//! Left out: how logits come about (`worker/model`), who talks to whom (`worker`), text (the router).
//!
//! ```text
//! Engine::new(EngineConfig, E: Executor) -> Result<Engine<E>, ConfigError>
//! engine.add(EngineRequest, now: Instant) -> Result<SequenceId, AdmitError>
//! engine.abort(SequenceId) -> Option<Usage>             // None: unknown or over; no event follows
//! engine.step(&dyn Fn() -> Instant) -> Result<Vec<Event>, ExecutorError>
//! engine.take_delta() -> BlockDelta { removed: Vec<WireHash>, stored: Vec<BlockRun { parent, hashes }> }
//! engine.snapshot() -> Vec<BlockRun>                    // take the delta first
//! engine.load() -> LoadSnapshot; engine.load_by_tag() -> HashMap<u64, TagLoad>
//! engine.is_idle() -> bool; engine.set_intake(Intake); engine.executor_mut() -> &mut E
//! ```

mod config;
mod executor;
mod request;

pub use config::{ConfigError, EngineConfig, Intake, PrefixCache};
pub use executor::{Executor, ExecutorError};
pub use request::{AdmitError, EngineRequest, Event, SequenceId};
