//! Does the whole cluster do what its README says?
//!
//! Each test starts the real binary with `glint up` on free ports, and talks to it as a user would. [`support`] has the cluster;
//! each module has one question.

#![cfg(test)]

mod checkpoints;
mod client_library;
mod demo;
mod faults;
mod grpc;
mod hostile;
mod loadtest;
mod support;
