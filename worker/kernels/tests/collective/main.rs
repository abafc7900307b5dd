//! One contract, every transport: threads, shared memory and TCP, in threads here and in processes of their own
//! where dying is the point.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod forming;
mod processes;
mod results;
mod support;
