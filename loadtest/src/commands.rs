//! What does each subcommand do?

mod bench;
mod check;
mod interrupt;
mod measure;
mod models;
mod output;
mod show;

use std::io::Write;

use crate::{
    config::{Command, LoadtestConfig},
    render,
};

/// How a command that did its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Everything that was asked for holds.
    Passed,
    /// An assertion does not hold, an answer differs, or the second file is worse. The exit code is 3.
    Failed,
}

/// Runs a command. It blocks and makes its own threads.
///
/// # Errors
///
/// One sentence that says what to do.
pub fn run(config: LoadtestConfig) -> anyhow::Result<Gate> {
    match config.command {
        Command::Run(config) => measure::run(&config),
        Command::Sweep(config) => measure::sweep(&config),
        Command::FindMax(config) => measure::find_max(&config),
        Command::Compare(config) => measure::compare(&config),
        Command::Record(config) => check::record(&config),
        Command::Verify(config) => check::verify(&config),
        Command::Diff(config) => show::diff(&config),
        Command::Report(config) => show::report(&config),
        Command::Trace(config) => show::trace(&config.workload, &config.token_ids),
        Command::Schema => {
            print(render::schema().trim_end())?;
            Ok(Gate::Passed)
        }
    }
}

/// Standard output; a reader that has gone is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
