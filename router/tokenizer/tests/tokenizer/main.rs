//! The crate through its front door, in one binary.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, and everything here is one"
)]

mod forgery;
mod garbage;
mod goldens;
mod shared;
mod small;
mod streaming;
mod templates;
