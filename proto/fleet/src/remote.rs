//! A registry that another process serves over loopback.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use glint_proto::v1::fleet_client::FleetClient;
use glint_proto::v1::{
    DeleteRequest, GrantRequest, KeepAliveRequest, ListRequest, PutRequest, RevokeRequest,
    WatchPrefixRequest, WatchPrefixResponse,
};
use tonic::transport::{Channel, Endpoint};

use crate::follow::{Look, Lookable, follow};
use crate::{Bytes, Change, Fleet, FleetError, LeaseId, is_http};

/// For one answer. The registry is a process of this machine.
const TIMEOUT: Duration = Duration::from_secs(3);
/// A silent connection is asked this often whether it lives, so that a watch notices when the other process is stopped.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A client of [`crate::serve`].
#[derive(Clone, Debug)]
pub struct Remote {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: FleetClient<Channel>,
}

impl Remote {
    /// Returns a client that connects when it is first used; nothing if the address is none. Must be called within a
    /// tokio runtime.
    #[must_use]
    pub fn new(address: &str) -> Option<Self> {
        if !is_http(address) {
            return None;
        }
        let endpoint = Endpoint::from_shared(address.to_owned()).ok()?;
        let channel = endpoint
            .connect_timeout(TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PROBE_INTERVAL)
            .keep_alive_timeout(TIMEOUT)
            .connect_lazy();
        Some(Self { inner: Arc::new(Inner { client: FleetClient::new(channel) }) })
    }

    fn client(&self) -> FleetClient<Channel> {
        self.inner.client.clone()
    }
}

async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, FleetError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) if status.code() == tonic::Code::ResourceExhausted => {
            Err(FleetError::Full { reason: status.message().to_owned() })
        }
        Ok(Err(status)) => Err(FleetError::Away { reason: status.message().to_owned() }),
        Err(elapsed) => Err(FleetError::Away { reason: elapsed.to_string() }),
    }
}

impl Lookable for Inner {
    fn look(self: Arc<Self>, prefix: String) -> BoxFuture<'static, Result<Look, FleetError>> {
        async move {
            let mut client = self.client.clone();
            let responses = within(client.watch_prefix(WatchPrefixRequest { prefix })).await?;
            let changes = responses
                .map_err(|status| FleetError::Away { reason: status.message().to_owned() })
                .map_ok(|response| futures::stream::iter(changes(response)).map(Ok))
                .try_flatten();
            Ok(changes.boxed())
        }
        .boxed()
    }
}

fn changes(response: WatchPrefixResponse) -> Vec<Change> {
    let WatchPrefixResponse { put, deleted, synced } = response;
    let puts = put.into_iter().map(|kv| Change::Put { key: kv.key, value: kv.value.into() });
    let deleted = deleted.into_iter().map(|key| Change::Deleted { key });
    puts.chain(deleted).chain(synced.then_some(Change::Synced)).collect()
}

impl Fleet for Remote {
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, FleetError>> {
        async move {
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            let response = within(self.client().grant(GrantRequest { ttl_ms })).await?;
            Ok(LeaseId(response.lease))
        }
        .boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<bool, FleetError>> {
        async move {
            let request = KeepAliveRequest { lease: lease.0 };
            Ok(within(self.client().keep_alive(request)).await?.alive)
        }
        .boxed()
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), FleetError>> {
        async move {
            within(self.client().revoke(RevokeRequest { lease: lease.0 })).await.map(|_| ())
        }
        .boxed()
    }

    fn put(
        &self,
        key: String,
        value: Bytes,
        lease: Option<LeaseId>,
    ) -> BoxFuture<'_, Result<bool, FleetError>> {
        async move {
            let lease = lease.map(|lease| lease.0);
            let request = PutRequest { key, value: value.into(), lease };
            Ok(within(self.client().put(request)).await?.stored)
        }
        .boxed()
    }

    fn delete(&self, key: String) -> BoxFuture<'_, Result<(), FleetError>> {
        async move { within(self.client().delete(DeleteRequest { key })).await.map(|_| ()) }.boxed()
    }

    fn list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, FleetError>> {
        async move {
            let response = within(self.client().list(ListRequest { prefix })).await?;
            Ok(response.entries.into_iter().map(|kv| (kv.key, kv.value.into())).collect())
        }
        .boxed()
    }

    fn watch(&self, prefix: String) -> BoxStream<'static, Change> {
        follow(Arc::clone(&self.inner), prefix).boxed()
    }
}
