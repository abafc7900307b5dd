//! The load test from its front door, against a server that does what each test wants of it.

#![expect(clippy::unwrap_used, reason = "what tests share may fail them")]

mod cli;
mod drive;
mod faults;
mod find_max;
mod kit;
mod mock;
mod readers;
mod scrape;
mod sessions;
mod verify;
