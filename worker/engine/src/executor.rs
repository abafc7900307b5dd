//! Who carries out a plan?

use glint_core::{Failure, Kind, StepOutcome, StepPlan};

/// Carries out plans, in order. The ranks of a group, or [`Sim`](crate::sim::Sim).
pub trait Executor: Send {
    /// Takes a plan and returns before it is carried out; at most [`depth`](Self::depth) are in flight.
    ///
    /// # Errors
    ///
    /// The plan cannot be sent or makes no sense; the engine is of no use afterwards.
    fn submit(&mut self, plan: StepPlan) -> Result<(), ExecutorError>;

    /// Waits for the oldest plan in flight and returns what it yielded.
    ///
    /// # Errors
    ///
    /// The plan's outcome will never come; the engine is of no use afterwards.
    fn settle(&mut self) -> Result<StepOutcome, ExecutorError>;

    /// Returns how many plans may be in flight; at least 1.
    fn depth(&self) -> usize {
        2
    }
}

/// A plan that was not carried out. There is no way on: the group fails as one, and a new engine begins empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecutorError {
    /// A rank died, stalled or cannot be reached.
    #[error("step {step} was lost: {message}")]
    Lost {
        /// The plan's number.
        step: u64,
        /// Which rank, and why.
        message: String,
    },
    /// The plan contradicts what came before it: a bug of the engine.
    #[error("step {step} cannot be carried out: {message}")]
    BadPlan {
        /// The plan's number.
        step: u64,
        /// What is wrong with it.
        message: String,
    },
    /// The outcome does not answer the plan: a bug of the executor.
    #[error("step {step} has an outcome that does not fit: {message}")]
    BadOutcome {
        /// The plan's number.
        step: u64,
        /// What is wrong with it.
        message: String,
    },
}

impl Failure for ExecutorError {
    fn kind(&self) -> Kind {
        match self {
            Self::Lost { .. } => Kind::Unavailable,
            Self::BadPlan { .. } | Self::BadOutcome { .. } => Kind::Internal,
        }
    }
}
