//! Why does a worker not start, or not go on?

use glint_core::{Failure, Kind};

/// A failure that only a person can cure, but for those of [`Kind::Unavailable`]: a process that is started again later may
/// find that they have passed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Flags that contradict each other or the model.
    #[error("{0}")]
    Config(String),
    /// The checkpoint cannot be used.
    #[error("{0}")]
    Model(String),
    /// The registry's URL is none, or names an etcd that does not answer.
    #[error(transparent)]
    Fleet(#[from] glint_fleet::FleetError),
    /// A port cannot be had, or a thread not be started.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// A server ended before the worker did, so that nobody reached it any more, or saw how it was.
    #[error("the {server} server ended early: {reason}")]
    ServerEnded {
        /// Which one.
        server: &'static str,
        /// What it said last.
        reason: String,
    },
    /// A part of this process ended that never should: a bug. The log has the story.
    #[error("{0} ended unexpectedly")]
    Lost(&'static str),
}

impl Failure for WorkerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Config(_) | Self::Model(_) => Kind::Invalid,
            Self::Fleet(error) => error.kind(),
            Self::ServerEnded { .. } => Kind::Unavailable,
            Self::System(_) | Self::Lost(_) => Kind::Internal,
        }
    }
}
