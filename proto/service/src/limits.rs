//! How much may a process take of the system?

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Raises the limit of open files to what the system allows: each connection is a file, and many systems allow 1024 until a
/// process asks for what it may have.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(error = %error, "cannot raise the limit of open files");
    }
}
