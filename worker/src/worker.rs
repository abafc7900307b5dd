//! What does a worker process consist of?

mod served;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use glint_fleet::{Fleet, Keys};
use glint_proto::v1::rank_server::RankServer;
use glint_proto::v1::worker_server::WorkerServer;
use glint_service::{Admin, Drain, admin};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{info, warn};

use crate::config::WorkerConfig;
use crate::error::WorkerError;
use crate::follower::{Follower, watch_rendezvous};
use crate::group::Identity;
use crate::leader::{Front, Leader, RankService};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::rank::Rank;
use crate::service::WorkerService;
use served::Served;

/// The largest request: a million prompt tokens of up to five bytes, and then some.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// For answers that are still on their way when the process ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// For sequences that run when a server has ended early: no owner has begun that drain, so none would end it.
const LOST_SERVER_GRACE: Duration = Duration::from_secs(10);
/// A router whose machine vanished is found gone after these two, and its sequences end.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// One process of a group, listening and not yet at work.
#[derive(Debug)]
pub struct Worker {
    flags: Arc<WorkerConfig>,
    model: Arc<Model>,
    fleet: Arc<dyn Fleet>,
    listener: TcpListener,
    admin_listener: TcpListener,
}

/// Runs a worker until the drain.
///
/// # Errors
///
/// [`WorkerError`]: why it does not start, or not go on.
pub async fn run(config: WorkerConfig, drain: Drain) -> Result<(), WorkerError> {
    Worker::bind(config).await?.serve(drain).await
}

impl Worker {
    /// Finds the registry, checks flags and checkpoint, and takes the ports. Weights are loaded by [`Worker::serve`].
    ///
    /// # Errors
    ///
    /// One sentence about what is wrong.
    pub async fn bind(config: WorkerConfig) -> Result<Self, WorkerError> {
        let fleet = glint_fleet::connect(&config.fleet).await?;
        Self::bind_in(config, fleet).await
    }

    /// Like [`Worker::bind`], in a registry that this process already knows.
    ///
    /// # Errors
    ///
    /// One sentence about what is wrong.
    pub async fn bind_in(config: WorkerConfig, fleet: Arc<dyn Fleet>) -> Result<Self, WorkerError> {
        check(&config)?;
        let flags = Arc::new(config);
        let model = {
            let flags = Arc::clone(&flags);
            let opened = tokio::task::spawn_blocking(move || Model::open(&flags)).await;
            Arc::new(opened.map_err(|_| WorkerError::Lost("reading the checkpoint"))??)
        };
        let listener = admin::bind((flags.host, flags.port).into(), "gRPC").await?;
        let admin_listener = admin::bind((flags.host, flags.admin_port).into(), "admin").await?;
        Ok(Self { flags, model, fleet, listener, admin_listener })
    }

    /// Returns where gRPC is served.
    ///
    /// # Errors
    ///
    /// The system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Returns where `/livez`, `/readyz` and `/metrics` are served.
    ///
    /// # Errors
    ///
    /// The system does not say.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin_listener.local_addr()
    }

    /// Loads the weights and takes part in the group until the drain.
    ///
    /// # Errors
    ///
    /// [`WorkerError`]: why it does not start, or not go on.
    pub async fn serve(self, drain: Drain) -> Result<(), WorkerError> {
        let Self { flags, model, fleet, listener, admin_listener } = self;
        let address = advertised(&flags, listener.local_addr()?);
        let identity = Identity {
            keys: Keys::new(&flags.cluster),
            model: model.id.clone(),
            group: flags.group.clone(),
            world_size: flags.world_size,
        };
        let admin = Admin::new();
        let metrics = Arc::new(Metrics::new());
        admin.register(|registry| metrics.register(registry));
        admin.readiness.not_ready("weights", "they are being loaded");
        admin.readiness.not_ready("group", "it has not formed");
        // It outlives the drain: an owner sees to the end how that gets on.
        let admin_drain = Drain::new();
        let admin_served =
            Served::start("admin", admin.clone().serve(admin_listener, admin_drain.clone()));

        let leads = flags.ranks.first == 0;
        let front = Arc::new(Front::new(identity.group.clone()));
        let joins = RankService::default();
        let numerics = Arc::new(OnceLock::new());
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_not_serving::<WorkerServer<WorkerService>>().await;
        let service = WorkerService {
            front: Arc::clone(&front),
            model: Arc::clone(&model),
            numerics: Arc::clone(&numerics),
            world_size: flags.world_size,
            tasks: joins.tasks.clone(),
        };
        let end = CancellationToken::new();
        let serving = {
            let workers = WorkerServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX);
            let ranks = RankServer::new(joins.clone());
            let server = Server::builder()
                .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
                .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
                .add_service(health_service)
                .add_optional_service(leads.then_some(workers))
                .add_optional_service(leads.then_some(ranks));
            let connections = TcpIncoming::from(listener).with_nodelay(Some(true));
            let end = end.clone();
            let serving = server.serve_with_incoming_shutdown(connections, end.cancelled_owned());
            Served::start("gRPC", serving)
        };
        let lost = lost_early([serving.clone(), admin_served.clone()]);
        let mut lost = std::pin::pin!(lost);

        let mut roles: JoinSet<Result<(), WorkerError>> = JoinSet::new();
        let load = load_ranks(Arc::clone(&flags), Arc::clone(&model));
        let loaded = tokio::select! {
            loaded = load => loaded.map(Some),
            () = drain.draining() => Ok(None),
            lost = &mut lost => Err(lost),
        };
        let started = loaded.map(|ranks| {
            let Some(ranks) = ranks else { return };
            admin.readiness.ready("weights");
            let (tell, rendezvous) = watch::channel(None);
            let watched = watch_rendezvous(Arc::clone(&fleet), identity.clone(), tell);
            joins.tasks.spawn(watched);
            for rank in ranks {
                let is_first = rank.rank == flags.ranks.first;
                if rank.rank == 0 {
                    let _first = numerics.set(rank.numerics.clone());
                    let leader = Leader {
                        flags: Arc::clone(&flags),
                        model: Arc::clone(&model),
                        identity: identity.clone(),
                        rank,
                        fleet: Arc::clone(&fleet),
                        address: address.clone(),
                        front: Arc::clone(&front),
                        joins: joins.clone(),
                        readiness: admin.readiness.clone(),
                        health: health.clone(),
                        metrics: Arc::clone(&metrics),
                    };
                    roles.spawn(leader.lead(drain.clone()));
                } else {
                    let follower = Follower {
                        flags: Arc::clone(&flags),
                        identity: identity.clone(),
                        digest: model.digest,
                        rank,
                        rendezvous: rendezvous.clone(),
                        readiness: is_first.then(|| admin.readiness.clone()),
                    };
                    let drain = drain.clone();
                    roles.spawn(async move {
                        follower.follow(drain).await;
                        Ok(())
                    });
                }
            }
        });
        let ended = match started {
            Ok(()) => all_ended(roles, lost, &drain).await,
            Err(error) => Err(error),
        };
        let shut_down = shut_down(&end, &serving, &joins.tasks).await;
        admin_drain.stop();
        let admin_ended = admin_served.ended().await;
        info!(group = %identity.group, "the worker has ended");
        // What ended it counts, then what failed meanwhile.
        ended.and(shut_down).and(admin_ended)
    }
}

/// Finds combinations of flags that cannot work.
fn check(config: &WorkerConfig) -> Result<(), WorkerError> {
    let WorkerConfig { ranks, world_size, host, .. } = config;
    if ranks.last >= *world_size {
        return Err(WorkerError::Config(format!(
            "--ranks says rank {}, --world-size {world_size}: ranks are below the world size",
            ranks.last
        )));
    }
    if host.is_unspecified() && config.advertise.is_none() {
        return Err(WorkerError::Config(format!(
            "nobody can connect to --host {host}: say with --advertise by which name or IP this process is reached"
        )));
    }
    Ok(())
}

/// Returns where others reach this process.
fn advertised(flags: &WorkerConfig, bound: SocketAddr) -> String {
    match &flags.advertise {
        Some(host) => format!("{host}:{}", bound.port()),
        None => SocketAddr::new(flags.host, bound.port()).to_string(),
    }
}

async fn load_ranks(flags: Arc<WorkerConfig>, model: Arc<Model>) -> Result<Vec<Rank>, WorkerError> {
    let load = |rank| Rank::load(Arc::clone(&flags), Arc::clone(&model), rank);
    futures::future::try_join_all(flags.ranks.iter().map(load)).await
}

/// Waits for the first server that ends although the worker goes on.
async fn lost_early([grpc, admin]: [Served; 2]) -> WorkerError {
    tokio::select! {
        lost = grpc.lost_early() => lost,
        lost = admin.lost_early() => lost,
    }
}

/// Waits for all roles of the process; the first failure ends the others. When a server is lost they drain: nobody would
/// reach them, or see how they are.
async fn all_ended(
    roles: JoinSet<Result<(), WorkerError>>,
    lost: impl Future<Output = WorkerError>,
    drain: &Drain,
) -> Result<(), WorkerError> {
    let mut roles = std::pin::pin!(roles_ended(roles));
    let lost = tokio::select! {
        ended = &mut roles => return ended,
        lost = lost => lost,
    };
    warn!(error = %lost, "a server is lost, the worker drains");
    drain.begin();
    let drained = tokio::time::timeout(LOST_SERVER_GRACE, &mut roles).await;
    let drained = match drained {
        Ok(drained) => drained,
        Err(_late) => {
            drain.stop();
            roles.await
        }
    };
    if let Err(error) = drained {
        warn!(error = %error, "a rank failed while the worker drained");
    }
    Err(lost)
}

async fn roles_ended(mut roles: JoinSet<Result<(), WorkerError>>) -> Result<(), WorkerError> {
    while let Some(ended) = roles.join_next().await {
        ended.map_err(|_| WorkerError::Lost("a rank"))??;
    }
    Ok(())
}

/// Lets answers that are on their way arrive, and no more.
async fn shut_down(
    end: &CancellationToken,
    serving: &Served,
    tasks: &TaskTracker,
) -> Result<(), WorkerError> {
    end.cancel();
    tasks.close();
    let all = async {
        let served = serving.ended().await;
        tasks.wait().await;
        served
    };
    tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await.unwrap_or_else(|_late| {
        warn!("some peers do not close their connections, they are cut");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    /// Waits for a role whose process loses its gRPC server.
    async fn all_ended_with(
        role: impl Future<Output = ()> + Send + 'static,
        drain: &Drain,
    ) -> Result<(), WorkerError> {
        let mut roles = JoinSet::new();
        roles.spawn(async {
            role.await;
            Ok(())
        });
        let broken = Served::start("gRPC", ready(Err("its port is gone")));
        let well = Served::start("admin", pending::<Result<(), String>>());
        all_ended(roles, lost_early([broken, well]), drain).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_ends_early_drains_the_worker_and_is_named() {
        let drain = Drain::new();
        let drains = drain.clone();
        let role = async move { drains.draining().await };
        let ended = all_ended_with(role, &drain);
        let ended = tokio::time::timeout(LOST_SERVER_GRACE / 2, ended).await;
        let error = ended.expect("nothing runs that the drain waits for").unwrap_err();
        assert_eq!(error.to_string(), "the gRPC server ended early: its port is gone");
        assert!(drain.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_when_a_server_is_lost_is_cut_after_a_grace() {
        let drain = Drain::new();
        let stops = drain.clone();
        let ended = all_ended_with(async move { stops.stopped().await }, &drain);
        let ended = tokio::time::timeout(2 * LOST_SERVER_GRACE, ended).await;
        let error = ended.expect("the grace has an end").unwrap_err();
        assert!(matches!(error, WorkerError::ServerEnded { server: "gRPC", .. }), "{error}");
    }

    #[tokio::test]
    async fn roles_that_end_while_the_servers_serve_end_the_worker_without_an_error() {
        let drain = Drain::new();
        assert!(all_ended(JoinSet::new(), pending(), &drain).await.is_ok());
        assert!(!drain.is_draining());
    }
}
