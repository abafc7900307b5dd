//! What a report looks like, from the front door: every form is made of an example that a small simulation yields.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what tests share may fail them, and says what it skips"
)]

mod browser;
mod example;
mod forms;
mod python;
