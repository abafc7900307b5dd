//! The `glint` binary: one program, a role per subcommand.
//!
//! Roles live in crates of their own; what is here chooses one, sets logging and draining up, and says in one sentence
//! why it failed. [`up`] is the only place that knows several roles: it is a whole cluster on one machine.

mod chat;
mod demo;
mod huggingface;
mod inspect;
mod source;
mod up;

use std::{io::Write, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use glint_core::{Failure, Kind};
use glint_service::{Drain, logging, logging::LogConfig};

/// Serves the GLM-4 family of language models from a cluster of tensor-parallel workers.
#[derive(Parser)]
#[command(name = "glint", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    role: Role,

    #[command(flatten)]
    log: LogConfig,
}

#[derive(Subcommand)]
enum Role {
    /// Starts a whole cluster on this machine: fleet, router, and worker processes that share a model.
    Up(Box<up::Config>),
    /// Takes OpenAI-style HTTP and gRPC requests and sends each to a group.
    Router(Box<RouterRole>),
    /// Holds one or more tensor-parallel ranks of a group.
    Worker(Box<WorkerRole>),
    /// Looks into a checkpoint.
    #[command(subcommand)]
    Model(inspect::Command),
    /// Talks to a running cluster from the terminal.
    Chat(chat::Config),
    /// Measures any server of a language model, and finds its limit.
    Loadtest(glint_loadtest::LoadtestConfig),
}

#[derive(clap::Args)]
struct RouterRole {
    #[command(flatten)]
    config: glint_router::RouterConfig,
    #[command(flatten)]
    grace: Grace,
}

#[derive(clap::Args)]
struct WorkerRole {
    #[command(flatten)]
    config: glint_worker::WorkerConfig,
    #[command(flatten)]
    grace: Grace,
    /// Drain when standard input ends. `glint up` holds the other end, so that its workers cannot outlive it.
    #[arg(long, hide = true)]
    drain_with_stdin: bool,
}

/// How long a role may take to finish what it has begun.
#[derive(Clone, Debug, clap::Args)]
struct Grace {
    /// Seconds from SIGTERM or Ctrl-C until streams that still run are cut.
    #[arg(long = "grace-s", env = "GLINT_GRACE_S", default_value_t = 30)]
    grace_s: u64,
}

impl Grace {
    fn drain(&self) -> anyhow::Result<Drain> {
        Ok(Drain::on_signal(Duration::from_secs(self.grace_s))?)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let default_filter = match &cli.role {
        // Its terminal belongs to progress bars and to what is odd.
        Role::Up(_) | Role::Chat(_) | Role::Loadtest(_) => "warn",
        Role::Router(_) | Role::Worker(_) | Role::Model(_) => "info",
    };
    let logging = logging::init(&cli.log, default_filter);
    match logging.map_err(Into::into).and_then(|()| run(cli.role, cli.log.log.as_deref())) {
        Ok(code) => code,
        Err(error) => {
            // The whole chain on one line: "what failed: why".
            // Nobody may be reading any more, which is no reason to panic.
            let _written = writeln!(std::io::stderr(), "error: {error:#}");
            exit_code(&error)
        }
    }
}

/// Exit code of a worker that may be of use when it is started again; 1 says that it is not (`EX_TEMPFAIL` of sysexits).
const TRY_AGAIN: u8 = 75;

fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<glint_worker::WorkerError>() {
        Some(error) if error.kind() == Kind::Unavailable => ExitCode::from(TRY_AGAIN),
        _ => ExitCode::FAILURE,
    }
}

/// Exit code of a load test whose assertions do not hold; 1 is a failure to test, 2 a wrong flag.
const GATE_FAILED: u8 = 3;

fn run(role: Role, log: Option<&str>) -> anyhow::Result<ExitCode> {
    // Looking into files needs no runtime, and a load test makes its own.
    let role = match role {
        Role::Model(command) => return inspect::run(&command).map(|()| ExitCode::SUCCESS),
        Role::Loadtest(config) => {
            return Ok(match glint_loadtest::run(config)? {
                glint_loadtest::Gate::Passed => ExitCode::SUCCESS,
                glint_loadtest::Gate::Failed => ExitCode::from(GATE_FAILED),
            });
        }
        Role::Up(_) | Role::Router(_) | Role::Worker(_) | Role::Chat(_) => role,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match role {
            Role::Up(config) => up::run(*config, log).await,
            Role::Router(role) => {
                glint_router::run(role.config, role.grace.drain()?).await.map_err(Into::into)
            }
            Role::Worker(role) => {
                let drain = role.grace.drain()?;
                if role.drain_with_stdin {
                    drain_with_stdin(drain.clone(), Duration::from_secs(role.grace.grace_s));
                }
                glint_worker::run(role.config, drain).await.map_err(Into::into)
            }
            Role::Chat(config) => chat::run(config).await,
            Role::Model(_) | Role::Loadtest(_) => unreachable!("handled above"),
        }
    });
    // A blocked read of standard input must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result.map(|()| ExitCode::SUCCESS)
}

/// Begins to drain when whoever started this process closes its standard input or is gone, and stops after `grace`.
fn drain_with_stdin(drain: Drain, grace: Duration) {
    let end_of_input = move || {
        // Whatever ends it, an end or an error, the other side has nothing more to say.
        let _bytes = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drain.begin();
        std::thread::sleep(grace);
        drain.stop();
    };
    std::thread::spawn(end_of_input);
}
