//! How does one process's registry serve others?

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use glint_proto::status;
use glint_proto::v1::fleet_server::{Fleet as FleetService, FleetServer};
use glint_proto::v1::{
    DeleteRequest, DeleteResponse, GrantRequest, GrantResponse, KeepAliveRequest,
    KeepAliveResponse, KeyValue, ListRequest, ListResponse, PutRequest, PutResponse, RevokeRequest,
    RevokeResponse, WatchPrefixRequest, WatchPrefixResponse,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::{Change, Fleet, FleetError, LeaseId};

/// The longest lease; a longer one is shortened to it.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// A client that says nothing is asked this often whether it lives.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// For clients that do not take the end of their streams.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves a registry (a [`crate::Memory`], or anything in an `Arc`) to the processes of this machine until `end`.
///
/// # Errors
///
/// The listener fails.
pub async fn serve(
    fleet: impl Fleet,
    listener: TcpListener,
    end: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let connections = TcpIncoming::from(listener).with_nodelay(Some(true));
    let (running, stopped) = watch::channel(());
    let mut hard_end = stopped.clone();
    // Watches never end by themselves: they are cut first, else a graceful end would wait for them for ever.
    let soft_end = async move {
        end.await;
        drop(running);
    };
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(PROBE_INTERVAL))
        .http2_keepalive_timeout(Some(PROBE_INTERVAL))
        .add_service(FleetServer::new(Served { fleet: Arc::new(fleet), stopped }))
        .serve_with_incoming_shutdown(connections, soft_end);
    tokio::select! {
        served = serving => served,
        () = async {
            until_dropped(&mut hard_end).await;
            tokio::time::sleep(END_TIMEOUT).await;
        } => Ok(()),
    }
}

async fn until_dropped(running: &mut watch::Receiver<()>) {
    // Nothing is ever sent, so the only news is that the sender is gone.
    while running.changed().await.is_ok() {}
}

struct Served {
    fleet: Arc<dyn Fleet>,
    stopped: watch::Receiver<()>,
}

fn refused(error: FleetError) -> Status {
    status(&error)
}

#[tonic::async_trait]
impl FleetService for Served {
    async fn grant(
        &self,
        request: Request<GrantRequest>,
    ) -> Result<Response<GrantResponse>, Status> {
        let ttl = Duration::from_millis(request.into_inner().ttl_ms).min(TTL_MAX);
        let lease = self.fleet.grant(ttl).await.map_err(refused)?.0;
        Ok(Response::new(GrantResponse { lease }))
    }

    async fn keep_alive(
        &self,
        request: Request<KeepAliveRequest>,
    ) -> Result<Response<KeepAliveResponse>, Status> {
        let lease = LeaseId(request.into_inner().lease);
        let alive = self.fleet.keep_alive(lease).await.map_err(refused)?;
        Ok(Response::new(KeepAliveResponse { alive }))
    }

    async fn revoke(
        &self,
        request: Request<RevokeRequest>,
    ) -> Result<Response<RevokeResponse>, Status> {
        self.fleet.revoke(LeaseId(request.into_inner().lease)).await.map_err(refused)?;
        Ok(Response::new(RevokeResponse {}))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let PutRequest { key, value, lease } = request.into_inner();
        let lease = lease.map(LeaseId);
        let stored = self.fleet.put(key, value.into(), lease).await.map_err(refused)?;
        Ok(Response::new(PutResponse { stored }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        self.fleet.delete(request.into_inner().key).await.map_err(refused)?;
        Ok(Response::new(DeleteResponse {}))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let entries = self.fleet.list(request.into_inner().prefix).await.map_err(refused)?;
        let entries =
            entries.into_iter().map(|(key, value)| KeyValue { key, value: value.into() }).collect();
        Ok(Response::new(ListResponse { entries }))
    }

    type WatchPrefixStream = BoxStream<'static, Result<WatchPrefixResponse, Status>>;

    async fn watch_prefix(
        &self,
        request: Request<WatchPrefixRequest>,
    ) -> Result<Response<Self::WatchPrefixStream>, Status> {
        let changes = self.fleet.watch(request.into_inner().prefix);
        let mut stopped = self.stopped.clone();
        let cut = async move { until_dropped(&mut stopped).await };
        Ok(Response::new(responses(changes).take_until(cut).boxed()))
    }
}

fn responses(
    changes: BoxStream<'static, Change>,
) -> impl Stream<Item = Result<WatchPrefixResponse, Status>> + Send + 'static {
    changes.map(|change| match change {
        Change::Put { key, value } => {
            let put = vec![KeyValue { key, value: value.into() }];
            Ok(WatchPrefixResponse { put, ..WatchPrefixResponse::default() })
        }
        Change::Deleted { key } => {
            Ok(WatchPrefixResponse { deleted: vec![key], ..WatchPrefixResponse::default() })
        }
        Change::Synced => {
            Ok(WatchPrefixResponse { synced: true, ..WatchPrefixResponse::default() })
        }
        Change::Away { reason } => Err(refused(FleetError::Away { reason })),
    })
}
