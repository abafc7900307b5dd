//! A registry in etcd.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, EventType, GetOptions, PutOptions, WatchOptions, WatchResponse,
};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::OnceCell;
use tonic::Code;

use crate::follow::{Look, Lookable, follow};
use crate::{Bytes, Change, Fleet, FleetError, LeaseId};

/// For one answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// A silent connection is asked this often whether it lives, so that a watch notices when etcd is gone.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A registry in etcd, by any of its endpoints.
#[derive(Clone)]
pub struct Etcd {
    inner: Arc<Inner>,
}

struct Inner {
    endpoints: Vec<String>,
    client: OnceCell<Client>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("endpoints", &self.inner.endpoints).finish()
    }
}

impl Etcd {
    /// Returns a client that connects when it is first used.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self { inner: Arc::new(Inner { endpoints, client: OnceCell::new() }) }
    }
}

impl Inner {
    async fn client(&self) -> Result<Client, FleetError> {
        let connect = || async {
            let options = ConnectOptions::new()
                .with_connect_timeout(TIMEOUT)
                .with_keep_alive(PROBE_INTERVAL, TIMEOUT)
                .with_keep_alive_while_idle(true);
            within(Client::connect(&self.endpoints, Some(options))).await
        };
        self.client.get_or_try_init(connect).await.cloned()
    }
}

async fn within<T>(
    call: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, FleetError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(FleetError::away(&error)),
        Err(elapsed) => Err(FleetError::away(&elapsed)),
    }
}

/// Returns whether etcd says that there is no such lease.
fn is_lease_not_found(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.code() == Code::NotFound)
}

impl Lookable for Inner {
    fn look(self: Arc<Self>, prefix: String) -> BoxFuture<'static, Result<Look, FleetError>> {
        async move {
            let mut client = self.client().await?;
            let options = GetOptions::new().with_prefix();
            let present = within(client.get(prefix.as_str(), Some(options))).await?;
            let revision = present.header().map_or(0, etcd_client::ResponseHeader::revision);
            let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
            let watch = within(client.watch(prefix.as_str(), Some(options))).await?;
            let present: Vec<Result<Change, FleetError>> = present
                .kvs()
                .iter()
                .filter_map(|kv| put(kv.key(), kv.value()))
                .chain([Change::Synced])
                .map(Ok)
                .collect();
            let later = watch
                .map_err(|error| FleetError::away(&error))
                .and_then(|response| futures::future::ready(changes(&response)))
                .map_ok(|changes| futures::stream::iter(changes).map(Ok))
                .try_flatten();
            Ok(futures::stream::iter(present).chain(later).boxed())
        }
        .boxed()
    }
}

/// Keys are text; one that is none is nobody's of ours.
fn put(key: &[u8], value: &[u8]) -> Option<Change> {
    let key = std::str::from_utf8(key).ok()?.to_owned();
    Some(Change::Put { key, value: Bytes::copy_from_slice(value) })
}

fn changes(response: &WatchResponse) -> Result<Vec<Change>, FleetError> {
    if response.canceled() {
        // Compacted below the revision that we wanted, for example: look anew.
        let reason = format!("the watch was cancelled: {}", response.cancel_reason());
        return Err(FleetError::Away { reason });
    }
    let change = |event: &etcd_client::Event| {
        let kv = event.kv()?;
        match event.event_type() {
            EventType::Put => put(kv.key(), kv.value()),
            EventType::Delete => {
                let key = std::str::from_utf8(kv.key()).ok()?.to_owned();
                Some(Change::Deleted { key })
            }
        }
    };
    Ok(response.events().iter().filter_map(change).collect())
}

impl Fleet for Etcd {
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, FleetError>> {
        async move {
            let mut client = self.inner.client().await?;
            // etcd counts whole seconds.
            let ttl_s = ttl.as_millis().div_ceil(1000).max(1);
            let ttl_s = i64::try_from(ttl_s).unwrap_or(i64::MAX);
            let response = within(client.lease_grant(ttl_s, None)).await?;
            Ok(LeaseId(response.id().cast_unsigned()))
        }
        .boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<bool, FleetError>> {
        async move {
            let mut client = self.inner.client().await?;
            let (mut keeper, mut answers) =
                match tokio::time::timeout(TIMEOUT, client.lease_keep_alive(lease.0.cast_signed()))
                    .await
                {
                    Ok(Ok(both)) => both,
                    Ok(Err(error)) if is_lease_not_found(&error) => return Ok(false),
                    Ok(Err(error)) => return Err(FleetError::away(&error)),
                    Err(elapsed) => return Err(FleetError::away(&elapsed)),
                };
            within(keeper.keep_alive()).await?;
            let answer = within(answers.message()).await?;
            Ok(answer.is_some_and(|answer| answer.ttl() > 0))
        }
        .boxed()
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), FleetError>> {
        async move {
            let mut client = self.inner.client().await?;
            let revoke = client.lease_revoke(lease.0.cast_signed());
            match tokio::time::timeout(TIMEOUT, revoke).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) if is_lease_not_found(&error) => Ok(()),
                Ok(Err(error)) => Err(FleetError::away(&error)),
                Err(elapsed) => Err(FleetError::away(&elapsed)),
            }
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
            let mut client = self.inner.client().await?;
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0.cast_signed()));
            match tokio::time::timeout(TIMEOUT, client.put(key, value.to_vec(), options)).await {
                Ok(Ok(_)) => Ok(true),
                Ok(Err(error)) if is_lease_not_found(&error) => Ok(false),
                Ok(Err(etcd_client::Error::GRpcStatus(status)))
                    if status.code() == Code::ResourceExhausted =>
                {
                    Err(FleetError::Full { reason: status.message().to_owned() })
                }
                Ok(Err(error)) => Err(FleetError::away(&error)),
                Err(elapsed) => Err(FleetError::away(&elapsed)),
            }
        }
        .boxed()
    }

    fn delete(&self, key: String) -> BoxFuture<'_, Result<(), FleetError>> {
        async move {
            let mut client = self.inner.client().await?;
            within(client.delete(key, None)).await.map(|_| ())
        }
        .boxed()
    }

    fn list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, FleetError>> {
        async move {
            let mut client = self.inner.client().await?;
            let options = GetOptions::new().with_prefix();
            let found = within(client.get(prefix, Some(options))).await?;
            let entry = |kv: &etcd_client::KeyValue| match put(kv.key(), kv.value())? {
                Change::Put { key, value } => Some((key, value)),
                Change::Deleted { .. } | Change::Synced | Change::Away { .. } => None,
            };
            Ok(found.kvs().iter().filter_map(entry).collect())
        }
        .boxed()
    }

    fn watch(&self, prefix: String) -> BoxStream<'static, Change> {
        follow(Arc::clone(&self.inner), prefix).boxed()
    }
}
