//! A registry in etcd.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, Error, EventType, GetOptions, PutOptions, WatchOptions, WatchResponse,
};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::sync::OnceCell;
use tonic::Code;

use crate::follow::{Look, Lookable, follow};
use crate::{Bytes, Change, Fleet, FleetError, LeaseId, is_http};

/// For one answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// A silent connection is asked this often whether it lives, so that a watch notices when etcd is gone.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A registry in etcd, by any of its endpoints. Clones share their connections.
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
    /// Returns a client that connects when it is first used; nothing if there is no endpoint, or one is no `http` URL.
    pub fn new<'a>(endpoints: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let endpoints: Vec<String> = endpoints.into_iter().map(str::to_owned).collect();
        let is_usable = !endpoints.is_empty() && endpoints.iter().all(|endpoint| is_http(endpoint));
        is_usable.then(|| Self { inner: Arc::new(Inner { endpoints, client: OnceCell::new() }) })
    }
}

impl Inner {
    async fn client(&self) -> Result<Client, FleetError> {
        let connect = || async {
            let options = ConnectOptions::new()
                .with_connect_timeout(TIMEOUT)
                .with_keep_alive(PROBE_INTERVAL, TIMEOUT)
                .with_keep_alive_while_idle(true)
                // A member that lost the others says so instead of showing an old view.
                .with_require_leader(true);
            within(Client::connect(&self.endpoints, Some(options))).await
        };
        self.client.get_or_try_init(connect).await.cloned()
    }
}

/// Waits for an answer, for a bounded time.
async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, FleetError> {
    let failed = |error| match error {
        Error::GRpcStatus(status) if status.code() == Code::ResourceExhausted => {
            FleetError::Full { reason: status.message().to_owned() }
        }
        error => FleetError::Away { reason: reason(&error) },
    };
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(answer) => answer.map_err(failed),
        Err(_elapsed) => Err(FleetError::Away { reason: format!("no answer within {TIMEOUT:?}") }),
    }
}

/// Says what failed, and the first cause: a status prints all of its fields, and the causes between are wrappers.
fn reason(error: &Error) -> String {
    let (failed, mut causes) = match error {
        Error::GRpcStatus(status) => (status.message().to_owned(), status.source()),
        error => (error.to_string(), error.source()),
    };
    let mut first = None;
    while let Some(cause) = causes {
        first = Some(cause);
        causes = cause.source();
    }
    match first {
        Some(first) => format!("{failed}: {first}"),
        None => failed,
    }
}

/// Of a call that names a lease: returns nothing if etcd says that there is none.
async fn unless_ended<T>(call: impl Future<Output = Result<T, Error>>) -> Result<Option<T>, Error> {
    match call.await {
        Ok(answer) => Ok(Some(answer)),
        Err(Error::GRpcStatus(status)) if status.code() == Code::NotFound => Ok(None),
        // What the client makes of an answer without time to live.
        Err(Error::LeaseKeepAliveError(_)) => Ok(None),
        Err(error) => Err(error),
    }
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
                .map_err(|error| FleetError::Away { reason: reason(&error) })
                .try_take_while(move |response| {
                    futures::future::ready(Ok(goes_on(response, revision)))
                })
                .map_ok(|response| futures::stream::iter(changes(&response)).map(Ok))
                .try_flatten();
            Ok(futures::stream::iter(present).chain(later).boxed())
        }
        .boxed()
    }
}

/// Returns whether a watch that began after `revision` still tells everything.
fn goes_on(response: &WatchResponse, revision: i64) -> bool {
    let now = response.header().map_or(i64::MAX, etcd_client::ResponseHeader::revision);
    // Cancelled: what it would have told next is compacted. Older than we know: this etcd is another than the one that
    // was listed (its data are gone, or a member is behind), and would be silent until it has caught up.
    !response.canceled() && now >= revision
}

/// Keys are text; one that is none is nobody's of ours.
fn put(key: &[u8], value: &[u8]) -> Option<Change> {
    let key = std::str::from_utf8(key).ok()?.to_owned();
    Some(Change::Put { key, value: Bytes::copy_from_slice(value) })
}

fn changes(response: &WatchResponse) -> Vec<Change> {
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
    response.events().iter().filter_map(change).collect()
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
            let kept = client.lease_keep_alive(lease.0.cast_signed());
            Ok(within(unless_ended(kept)).await?.is_some())
        }
        .boxed()
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), FleetError>> {
        async move {
            let mut client = self.inner.client().await?;
            let revoked = client.lease_revoke(lease.0.cast_signed());
            within(unless_ended(revoked)).await.map(|_| ())
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
            let stored = client.put(key, value, options);
            Ok(within(unless_ended(stored)).await?.is_some())
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
            let entry = |kv: &etcd_client::KeyValue| {
                let key = std::str::from_utf8(kv.key()).ok()?.to_owned();
                Some((key, Bytes::copy_from_slice(kv.value())))
            };
            Ok(found.kvs().iter().filter_map(entry).collect())
        }
        .boxed()
    }

    fn watch(&self, prefix: String) -> BoxStream<'static, Change> {
        follow(Arc::clone(&self.inner), prefix).boxed()
    }
}
