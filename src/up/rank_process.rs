//! How is one rank kept running?

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use glint_core::Pause;
use glint_service::Drain;
use glint_worker::ComputeKind;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::Instant,
};

use super::display::Display;

/// First pause before a rank is started again; doubles up to [`RESTART_PAUSE_MAX`].
const RESTART_PAUSE: Duration = Duration::from_millis(500);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A rank that lived this long is started again with the first pause.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Longest log line read from a rank; the rest of a longer one counts as the next line.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// What one rank is started with.
#[derive(Clone, Debug)]
pub(crate) struct RankCommand {
    pub(crate) group: String,
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    pub(crate) model: PathBuf,
    pub(crate) model_name: String,
    /// Where hashes of weight files are kept, so that a second start reads each file once.
    pub(crate) digest_cache: PathBuf,
    pub(crate) fleet_url: String,
    pub(crate) threads: usize,
    pub(crate) compute: Option<ComputeKind>,
    pub(crate) log: String,
    pub(crate) grace_s: u64,
    pub(crate) more: Vec<String>,
}

impl RankCommand {
    /// Returns the rank's name in logs.
    pub(crate) fn label(&self) -> String {
        format!("{} rank {}", self.group, self.rank)
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let program = std::env::current_exe().context("cannot find the glint binary")?;
        let mut command = Command::new(program);
        command
            .args(["worker", "--drain-with-stdin", "--log-format=json", "--host=127.0.0.1"])
            .args(["--port=0", "--admin-port=0"])
            .arg(format!("--log={}", self.log))
            .arg(format!("--grace-s={}", self.grace_s))
            .arg(format!("--model={}", self.model.display()))
            .arg(format!("--model-name={}", self.model_name))
            .arg(format!("--digest-cache={}", self.digest_cache.display()))
            .arg(format!("--group={}", self.group))
            .arg(format!("--ranks={}", self.rank))
            .arg(format!("--world-size={}", self.world_size))
            .arg(format!("--fleet={}", self.fleet_url))
            .arg(format!("--threads={}", self.threads))
            .args(self.compute.map(compute_flag))
            .args(&self.more)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C in the terminal is for `glint up`, which drains the router before the workers.
            .process_group(0)
            .kill_on_drop(true);
        command.spawn().with_context(|| format!("cannot start {}", self.label()))
    }
}

fn compute_flag(compute: ComputeKind) -> String {
    let value = compute.to_possible_value().expect("no kind is hidden");
    format!("--compute={}", value.get_name())
}

/// One rank's process, started again when it dies.
pub(crate) struct RankProcess {
    command: RankCommand,
    display: Display,
}

enum End {
    Exited(ExitStatus),
    Drained,
}

impl RankProcess {
    /// Returns a process that is not yet started.
    pub(crate) fn new(command: RankCommand, display: Display) -> Self {
        Self { command, display }
    }

    /// Keeps the rank running until `drain` begins, then closes its standard input, at which it drains, and waits.
    ///
    /// # Errors
    ///
    /// Starting it again is of no use: the rank exits with status 1, after one sentence on why, or refuses its flags.
    pub(crate) async fn supervise(self, drain: Drain) -> anyhow::Result<()> {
        let mut pause = Pause::new(RESTART_PAUSE, RESTART_PAUSE_MAX);
        loop {
            let started = Instant::now();
            let (end, last_words) = self.run_once(&drain).await?;
            let status = match end {
                End::Drained => return Ok(()),
                End::Exited(status) => status,
            };
            if drain.is_draining() {
                return Ok(());
            }
            // 1: it says so itself; 2: its flags are wrong.
            if matches!(status.code(), Some(1 | 2)) {
                bail!("{}: {}", self.command.label(), last_words.trim_start_matches("error: "));
            }
            if started.elapsed() >= STABLE_AFTER {
                pause.reset();
            }
            let (label, wait) = (self.command.label(), pause.take());
            self.display.note(&format!("{label} ended ({status}), starts again in {wait:?}"));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = drain.draining() => return Ok(()),
            }
        }
    }

    /// Runs the process once; returns how it ended and the error that it printed, if it did.
    async fn run_once(&self, drain: &Drain) -> anyhow::Result<(End, String)> {
        let mut child = self.command.spawn()?;
        let stdin = child.stdin.take();
        let stderr = child.stderr.take().context("the rank has no standard error")?;
        let mut stderr = BufReader::new(stderr);
        let mut last_words = String::new();
        let label = self.command.label();
        let reading = async {
            let mut line = Vec::new();
            loop {
                line.clear();
                let read = (&mut stderr).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
                if !matches!(read, Ok(1..)) {
                    return;
                }
                let text = String::from_utf8_lossy(&line);
                let is_record = self.display.rank_line(&label, text.trim_end());
                if !is_record && (last_words.is_empty() || text.starts_with("error: ")) {
                    last_words = text.trim_end().to_owned();
                }
            }
        };
        let waiting = async {
            tokio::select! {
                status = child.wait() => status.map(End::Exited),
                () = drain.draining() => {
                    drop(stdin);
                    child.wait().await.map(|_status| End::Drained)
                }
            }
        };
        let (end, ()) = tokio::join!(waiting, reading);
        Ok((end?, last_words))
    }
}
