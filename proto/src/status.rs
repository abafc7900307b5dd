//! How does a failure travel?
//!
//! [`status()`] is the only road from an error to a gRPC status, [`KindOf`] the only road back.

use glint_core::{Failure, Kind};
use tonic::{Code, Status};

/// Returns the status that tells a peer what it can do. What is internal keeps its text to itself.
#[must_use]
pub fn status(failure: &dyn Failure) -> Status {
    let message = failure.to_string();
    match failure.kind() {
        Kind::Invalid => Status::invalid_argument(message),
        Kind::NotFound => Status::not_found(message),
        Kind::Exhausted => Status::resource_exhausted(message),
        Kind::Unavailable => Status::unavailable(message),
        Kind::Deadline => Status::deadline_exceeded(message),
        Kind::Cancelled => Status::cancelled(message),
        Kind::Internal => Status::internal("internal error; the server's log has the cause"),
    }
}

/// What the receiver of a status can do about it.
pub trait KindOf {
    /// Returns the kind; a status that no part of Glint sends is [`Kind::Internal`], a broken connection
    /// [`Kind::Unavailable`].
    fn kind_of(&self) -> Kind;
}

impl KindOf for Status {
    fn kind_of(&self) -> Kind {
        match self.code() {
            Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => Kind::Invalid,
            Code::NotFound => Kind::NotFound,
            Code::ResourceExhausted => Kind::Exhausted,
            Code::Unavailable | Code::Unknown | Code::Aborted => Kind::Unavailable,
            Code::DeadlineExceeded => Kind::Deadline,
            Code::Cancelled => Kind::Cancelled,
            Code::Ok
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => Kind::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("secret {0:?}")]
    struct Example(Kind);

    impl Failure for Example {
        fn kind(&self) -> Kind {
            self.0
        }
    }

    #[test]
    fn every_kind_comes_back_as_it_was_sent() {
        for kind in Kind::ALL {
            assert_eq!(status(&Example(kind)).kind_of(), kind);
        }
    }

    #[test]
    fn what_is_internal_keeps_its_text() {
        assert!(!status(&Example(Kind::Internal)).message().contains("secret"));
        assert!(status(&Example(Kind::Invalid)).message().contains("secret"));
    }
}
