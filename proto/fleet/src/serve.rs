//! How does one process's registry serve others?

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use glint_proto::status;
use glint_proto::v1::fleet_server::{Fleet as FleetService, FleetServer};
use glint_proto::v1::{
    DeleteRequest, DeleteResponse, GrantRequest, GrantResponse, KeepAliveRequest,
    KeepAliveResponse, KeyValue, ListRequest, ListResponse, PutRequest, PutResponse, RevokeRequest,
    RevokeResponse, WatchPrefixRequest, WatchPrefixResponse,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use crate::{Change, Fleet, FleetError, LeaseId, Memory};

/// The longest lease; a longer one is shortened to it.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// Serves a registry to the processes of this machine until `end`.
///
/// # Errors
///
/// The listener fails.
pub async fn serve(
    memory: Memory,
    listener: TcpListener,
    end: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let connections =
        tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    // Watches never end by themselves, so a graceful end would wait forever: dropping the server cuts them.
    let serving = tonic::transport::Server::builder()
        .add_service(FleetServer::new(Served { memory }))
        .serve_with_incoming(connections);
    tokio::select! {
        served = serving => served,
        () = end => Ok(()),
    }
}

struct Served {
    memory: Memory,
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
        let lease = self.memory.grant(ttl).await.map_err(refused)?.0;
        Ok(Response::new(GrantResponse { lease }))
    }

    async fn keep_alive(
        &self,
        request: Request<KeepAliveRequest>,
    ) -> Result<Response<KeepAliveResponse>, Status> {
        let lease = LeaseId(request.into_inner().lease);
        let alive = self.memory.keep_alive(lease).await.map_err(refused)?;
        Ok(Response::new(KeepAliveResponse { alive }))
    }

    async fn revoke(
        &self,
        request: Request<RevokeRequest>,
    ) -> Result<Response<RevokeResponse>, Status> {
        self.memory.revoke(LeaseId(request.into_inner().lease)).await.map_err(refused)?;
        Ok(Response::new(RevokeResponse {}))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let PutRequest { key, value, lease } = request.into_inner();
        let lease = lease.map(LeaseId);
        let stored = self.memory.put(key, value.into(), lease).await.map_err(refused)?;
        Ok(Response::new(PutResponse { stored }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        self.memory.delete(request.into_inner().key).await.map_err(refused)?;
        Ok(Response::new(DeleteResponse {}))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let entries = self.memory.list(request.into_inner().prefix).await.map_err(refused)?;
        let entries =
            entries.into_iter().map(|(key, value)| KeyValue { key, value: value.into() }).collect();
        Ok(Response::new(ListResponse { entries }))
    }

    type WatchPrefixStream = BoxStream<'static, Result<WatchPrefixResponse, Status>>;

    async fn watch_prefix(
        &self,
        request: Request<WatchPrefixRequest>,
    ) -> Result<Response<Self::WatchPrefixStream>, Status> {
        let look = self.memory.look(request.into_inner().prefix).await.map_err(refused)?;
        Ok(Response::new(responses(look).boxed()))
    }
}

fn responses(
    look: impl Stream<Item = Result<Change, FleetError>> + Send + 'static,
) -> impl Stream<Item = Result<WatchPrefixResponse, Status>> + Send + 'static {
    let response = |change| match change {
        Change::Put { key, value } => {
            let put = vec![KeyValue { key, value: value.into() }];
            WatchPrefixResponse { put, ..WatchPrefixResponse::default() }
        }
        Change::Deleted { key } => {
            WatchPrefixResponse { deleted: vec![key], ..WatchPrefixResponse::default() }
        }
        Change::Synced => WatchPrefixResponse { synced: true, ..WatchPrefixResponse::default() },
        Change::Away { .. } => WatchPrefixResponse::default(),
    };
    look.map_ok(response).map_err(refused)
}
