//! How does a whole cluster start on one machine, and stop?
//!
//! The fleet's registry lives in this process's memory and is served on loopback (or is an etcd), the router runs in
//! this process, and each rank is a process of its own, started from the same binary: what runs here is what runs on a
//! cluster, over the same wire. A rank that dies is started again; its group re-forms without a word from us.

mod display;
mod rank_process;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use clap::Parser;
use glint_model::Checkpoint;
use glint_router::{Router, RouterConfig};
use glint_service::Drain;
use glint_worker::ComputeKind;
use tokio::{net::TcpListener, task::JoinSet};

use crate::source::{self, ModelSource};
pub(crate) use display::Display;
use rank_process::{RankCommand, RankProcess};

/// The wait for a group to answer. Reading a large checkpoint from a slow disk takes minutes.
const READY_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Beyond their grace, workers get so long to end.
const WORKERS_END_TIMEOUT: Duration = Duration::from_secs(3);
const READY_POLL: Duration = Duration::from_millis(100);

/// Flags of `glint up`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Config {
    /// What to serve: demo (SmolLM2-135M-Instruct in GLM-4's architecture, fetched once), tiny (random weights, no
    /// download), a checkpoint folder, or hf:ORG/NAME.
    #[arg(long, env = "GLINT_UP_MODEL", default_value = "demo")]
    model: ModelSource,

    /// Name that clients ask for [default: from the model].
    #[arg(long)]
    model_name: Option<String>,

    /// Replica groups.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    groups: u32,

    /// Ranks of each group [default: the smallest above 1 that the model takes].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    world_size: Option<u32>,

    /// Address on which clients are served.
    #[arg(long, default_value = "127.0.0.1")]
    host: std::net::IpAddr,

    /// Port for HTTP; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,

    /// Port for gRPC; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    grpc_port: u16,

    /// Arithmetic of the ranks [default: bf16 where the CPU has it].
    #[arg(long, value_enum)]
    compute: Option<ComputeKind>,

    /// Keep the registry in this etcd instead of in memory, for example `http://127.0.0.1:2379`.
    #[arg(long)]
    etcd: Option<String>,

    /// Seconds from Ctrl-C until streams that still run are cut.
    #[arg(long, default_value_t = 30)]
    grace_s: u64,

    /// More flags for each `glint worker`, for example `--worker-args='--kv-blocks 512'`.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    worker_args: String,

    /// More flags for `glint router`.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    router_args: String,
}

/// Runs the cluster until a signal comes, then drains it.
///
/// # Errors
///
/// One sentence about what could not be started; nothing is left running.
pub(crate) async fn run(config: Config, log: Option<&str>) -> anyhow::Result<()> {
    let drain = Drain::on_signal(Duration::from_secs(config.grace_s))?;
    let display = Display::new(log.is_some());
    let result = start_and_serve(&config, log, &drain, &display).await;
    display.clear();
    result
}

async fn start_and_serve(
    config: &Config,
    log: Option<&str>,
    drain: &Drain,
    display: &Display,
) -> anyhow::Result<()> {
    let cache = source::cache_folder()?;
    let folder = {
        let (source, display, cache) = (config.model.clone(), display.clone(), cache.clone());
        let fetched = tokio::task::spawn_blocking(move || source.folder(&cache, &display));
        tokio::select! {
            fetched = fetched => fetched??,
            // The thread ends with the process; what it leaves half done, the next start sweeps away.
            () = drain.draining() => return Ok(()),
        }
    };
    let checkpoint = Checkpoint::open(&folder)?;
    let world_size = match config.world_size {
        Some(world_size) => {
            checkpoint.config().check_world_size(world_size)?;
            world_size
        }
        None => checkpoint.config().smallest_world_size_above_one(),
    };
    let name = config.model_name.clone().unwrap_or_else(|| config.model.default_name());

    let mut tasks = JoinSet::new();
    // The fleet outlives router and workers, so it has a drain of its own.
    let fleet_drain = Drain::new();
    let fleet_url = match &config.etcd {
        Some(url) => format!("etcd:{url}"),
        None => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let ends = fleet_drain.clone();
            let memory = glint_fleet::Memory::new();
            tasks.spawn(async move {
                glint_fleet::serve(memory, listener, async move { ends.draining().await })
                    .await
                    .context("the registry ended")
            });
            format!("remote:http://{address}")
        }
    };

    let router = Router::bind(router_config(config, &fleet_url)?).await?;
    let http = router.http_address();
    let router_drain = Drain::new();
    let mut router_task = tokio::spawn(router.serve(router_drain.clone()));

    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let ranks = config.groups as usize * world_size as usize;
    let workers_drain = Drain::new();
    let mut processes = JoinSet::new();
    for group in 0..config.groups {
        for rank in 0..world_size {
            let command = RankCommand {
                group: format!("group-{group}"),
                rank,
                world_size,
                model: folder.clone(),
                model_name: name.clone(),
                digest_cache: cache.join("digests"),
                fleet_url: fleet_url.clone(),
                threads: (threads / ranks).max(1),
                compute: config.compute,
                log: log.unwrap_or("info").to_owned(),
                grace_s: config.grace_s,
                more: words(&config.worker_args),
            };
            processes
                .spawn(RankProcess::new(command, display.clone()).supervise(workers_drain.clone()));
        }
    }

    let ready = tokio::select! {
        ready = wait_until_ready(http) => ready,
        Some(ended) = processes.join_next() => {
            ended?.and_then(|()| bail!("a worker ended before its group was ready"))
        }
        () = drain.draining() => Ok(()),
    };
    let mut router_ended = None;
    let served = if ready.is_ok() && !drain.is_draining() {
        display.ready(&ReadyLine { name: &name, http, groups: config.groups, world_size });
        let served = tokio::select! {
            () = drain.draining() => Ok(()),
            ended = &mut router_task => {
                router_ended = Some(ended);
                Ok(())
            }
            Some(ended) = tasks.join_next() => ended?.and_then(|()| bail!("the registry ended")),
            Some(ended) = processes.join_next() => ended?.and_then(|()| bail!("a worker ended")),
        };
        display.note("draining");
        served
    } else {
        ready
    };
    // Clients first: the router takes nothing new and lets streams end while the workers still compute.
    router_drain.begin();
    let forward = drain.clone();
    let stop_router = router_drain.clone();
    tasks.spawn(async move {
        forward.stopped().await;
        stop_router.stop();
        Ok(())
    });
    let routed = match router_ended {
        Some(ended) => ended?,
        None => router_task.await?,
    };
    workers_drain.begin();
    let ended = async {
        while let Some(ended) = processes.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::debug!(error = %error, "a worker failed while the cluster ended");
            }
        }
    };
    // Workers have the same grace of their own; dropped afterwards, they are killed.
    let grace = Duration::from_secs(config.grace_s) + WORKERS_END_TIMEOUT;
    let _killed = tokio::time::timeout(grace, ended).await;
    fleet_drain.begin();
    tasks.abort_all();
    served?;
    routed?;
    Ok(())
}

/// What the ready line says.
pub(crate) struct ReadyLine<'a> {
    pub(crate) name: &'a str,
    http: SocketAddr,
    groups: u32,
    world_size: u32,
}

fn router_config(config: &Config, fleet_url: &str) -> anyhow::Result<RouterConfig> {
    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        config: RouterConfig,
    }
    let mut flags = vec![
        "glint router".to_owned(),
        format!("--fleet={fleet_url}"),
        format!("--host={}", config.host),
        format!("--port={}", config.port),
        format!("--grpc-port={}", config.grpc_port),
        "--admin-port=0".to_owned(),
    ];
    flags.extend(words(&config.router_args));
    Ok(Flags::try_parse_from(flags).context("--router-args")?.config)
}

fn words(flags: &str) -> Vec<String> {
    flags.split_whitespace().map(str::to_owned).collect()
}

/// Asks the router's front door, as a client would.
async fn wait_until_ready(http: SocketAddr) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let url = format!("http://{http}/health");
    let answered = async {
        loop {
            if let Ok(response) = client.get(&url).send().await
                && response.status().is_success()
            {
                return;
            }
            tokio::time::sleep(READY_POLL).await;
        }
    };
    tokio::time::timeout(READY_TIMEOUT, answered).await.with_context(|| {
        format!("no group became ready within {} minutes", READY_TIMEOUT.as_secs() / 60)
    })
}
