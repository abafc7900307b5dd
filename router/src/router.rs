//! How does a router start, and how does it stop?

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use glint_core::RouterId;
use glint_fleet::{Fleet, FleetError, Keys, Registration};
use glint_proto::v1::RouterRecord;
use glint_service::{Admin, Drain, admin};
use tokio::net::TcpListener;
use tracing::info;

use crate::config::RouterConfig;
use crate::front::Front;
use crate::groups::Groups;
use crate::metrics::Metrics;
use crate::{http, serve};

/// A router that is gone disappears from the registry within this time.
const LEASE_TTL: Duration = Duration::from_secs(10);

/// Why a router cannot start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The registry's URL is none.
    #[error("the registry cannot be used")]
    Fleet(#[from] FleetError),
    /// A port cannot be had, or a listener broke.
    #[error(transparent)]
    Listen(#[from] std::io::Error),
    /// The gRPC server broke.
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
}

/// A router whose ports are bound. It answers once [`Router::serve`] runs.
#[derive(Debug)]
pub struct Router {
    config: RouterConfig,
    id: RouterId,
    fleet: Arc<dyn Fleet>,
    http: TcpListener,
    grpc: TcpListener,
    admin: TcpListener,
    http_address: SocketAddr,
    grpc_address: SocketAddr,
    admin_address: SocketAddr,
}

/// Runs a router until the drain has ended.
///
/// # Errors
///
/// It cannot start, or a listener breaks.
pub async fn run(config: RouterConfig, drain: Drain) -> Result<(), RouterError> {
    Router::bind(config).await?.serve(drain).await
}

impl Router {
    /// Finds the registry and binds the ports.
    ///
    /// # Errors
    ///
    /// A port cannot be had, or `--fleet` names no registry, or an etcd that does not answer.
    pub async fn bind(config: RouterConfig) -> Result<Self, RouterError> {
        let fleet = glint_fleet::connect(&config.fleet).await?;
        glint_service::limits::raise_open_files();
        let at = |port| SocketAddr::new(config.host, port);
        let http = admin::bind(at(config.port), "HTTP").await?;
        let grpc = admin::bind(at(config.grpc_port), "gRPC").await?;
        let admin = admin::bind(at(config.admin_port), "the admin port").await?;
        Ok(Self {
            http_address: http.local_addr()?,
            grpc_address: grpc.local_addr()?,
            admin_address: admin.local_addr()?,
            id: config.router_id.clone().unwrap_or_else(made_up_id),
            config,
            fleet,
            http,
            grpc,
            admin,
        })
    }

    /// Returns where HTTP is served.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Returns where gRPC is served.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Returns where `/livez`, `/readyz` and `/metrics` are served.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Serves until the drain: then it takes no new connections and requests, lets streams end, and cuts what is left at the
    /// drain's stop.
    ///
    /// # Errors
    ///
    /// A listener breaks.
    pub async fn serve(self, drain: Drain) -> Result<(), RouterError> {
        let admin = Admin::new();
        let readiness = admin.readiness.clone();
        let metrics = Metrics::register(&admin);
        let keys = Keys::new(&self.config.cluster);
        let groups = Arc::new(Groups::new(self.id.clone(), metrics.clone(), readiness.clone()));
        let front = Arc::new(Front::new(&self.config, Arc::clone(&groups), metrics));

        let registration = Registration::start(Arc::clone(&self.fleet), LEASE_TTL);
        let record = RouterRecord { address: self.http_address.to_string() };
        registration.put(keys.router(&self.id), &record);
        info!(
            router = %self.id, http = %self.http_address, grpc = %self.grpc_address,
            admin = %self.admin_address, "router serves"
        );

        let following = groups.follow(self.fleet, keys);
        let admin = admin.serve(self.admin, drain.clone());
        let clients = async {
            let http = async {
                http::serve(self.http, Arc::clone(&front), &self.config, drain.clone()).await;
                Ok(())
            };
            let grpc = serve::serve(self.grpc, Arc::clone(&front), &self.config, drain.clone());
            tokio::try_join!(http, grpc)
        };
        let unready = async {
            drain.draining().await;
            readiness.not_ready("router", "draining");
            std::future::pending::<()>().await;
        };
        // In this order: what clients still receive comes before everything else that ends with the drain.
        let ended = tokio::select! {
            biased;
            ended = clients => ended.map(|_| ()).map_err(RouterError::from),
            ended = admin => ended.map_err(RouterError::from),
            () = following => Ok(()),
            () = unready => Ok(()),
        };
        registration.close().await;
        info!(router = %self.id, "router ended");
        ended
    }
}

fn made_up_id() -> RouterId {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("router-{}", &id[..12]).parse().expect("hexadecimal digits make a DNS label")
}
