//! What can a caller do about a failure?

/// What a caller can do about a failure. A kind exists only because some caller acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The caller's fault; the same request fails everywhere, so it is never retried.
    Invalid,
    /// The thing asked for does not exist.
    NotFound,
    /// No room here now; another group may have some.
    Exhausted,
    /// Broken or gone; retry now, elsewhere.
    Unavailable,
    /// The caller's time is up.
    Deadline,
    /// The caller went away or took its request back.
    Cancelled,
    /// A bug or a broken device. The log has the story, the client does not need it.
    Internal,
}

impl Kind {
    /// Every kind, so that a mapping can be tested for being total.
    pub const ALL: [Self; 7] = [
        Self::Invalid,
        Self::NotFound,
        Self::Exhausted,
        Self::Unavailable,
        Self::Deadline,
        Self::Cancelled,
        Self::Internal,
    ];
}

/// An error that knows what its caller can do about it.
pub trait Failure: std::error::Error {
    /// Returns what a caller can do.
    fn kind(&self) -> Kind;
}
