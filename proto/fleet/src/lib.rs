//! Who is there?
//!
//! Groups, routers and the operator meet in a small registry of keys, most of them under a *lease*: a key vanishes when
//! its writer no longer keeps the lease alive. The registry is etcd, or the memory of one process ([`Memory`]), which
//! [`serve`] gives to others over loopback. All three mean the same; one contract test says so.
//!
//! **Invariant.** The registry is not the truth about life. A watch never ends; when the registry is away, it says so
//! ([`Change::Away`]) and goes on by itself, and whoever watches decides what a deleted key means.
//!
//! Start with [`Fleet`]; [`Keys`] knows the layout of keys, [`Registration`] keeps a writer's keys there.

mod backoff;
mod etcd;
mod follow;
mod keys;
mod memory;
mod registration;
mod remote;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use glint_core::{Failure, Kind};

pub use etcd::Etcd;
pub use keys::Keys;
pub use memory::Memory;
pub use prost::bytes::Bytes;
pub use registration::{Registration, Settled};
pub use remote::Remote;
pub use serve::serve;

use backoff::Backoff;

/// For the first answer of an etcd; one that starts at the same moment gets so long.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Names a lease within one registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// Something that happened below a watched prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key has this value.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Bytes,
    },
    /// A key is gone: deleted, or its lease ended.
    Deleted {
        /// The key.
        key: String,
    },
    /// Everything that was there has been told. Comes first after the present keys, and after each time away.
    Synced,
    /// The registry cannot be reached; what is known may be old.
    Away {
        /// For the log.
        reason: String,
    },
}

/// A registry. Every wait is bounded; operations that change something may be repeated.
pub trait Fleet: Send + Sync + std::fmt::Debug + 'static {
    /// Returns a new lease that ends when it is not kept alive for `ttl` (at least a second or two in etcd).
    ///
    /// # Errors
    ///
    /// The registry cannot be reached.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, FleetError>>;

    /// Keeps a lease alive; returns false if it has ended.
    ///
    /// # Errors
    ///
    /// The registry cannot be reached.
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<bool, FleetError>>;

    /// Ends a lease and deletes its keys; nothing if it has ended.
    ///
    /// # Errors
    ///
    /// The registry cannot be reached.
    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), FleetError>>;

    /// Sets a key; without a lease it stays. Returns false if the lease has ended.
    ///
    /// # Errors
    ///
    /// The registry cannot be reached, or takes no more.
    fn put(
        &self,
        key: String,
        value: Bytes,
        lease: Option<LeaseId>,
    ) -> BoxFuture<'_, Result<bool, FleetError>>;

    /// Deletes a key; nothing if there is none.
    ///
    /// # Errors
    ///
    /// The registry cannot be reached.
    fn delete(&self, key: String) -> BoxFuture<'_, Result<(), FleetError>>;

    /// Returns keys and values below a prefix, in the order of keys.
    ///
    /// # Errors
    ///
    /// The registry cannot be reached.
    fn list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, FleetError>>;

    /// Tells what is below a prefix, then each change in order. Never ends.
    fn watch(&self, prefix: String) -> BoxStream<'static, Change>;
}

impl<F: Fleet + ?Sized> Fleet for Arc<F> {
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, FleetError>> {
        (**self).grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<bool, FleetError>> {
        (**self).keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), FleetError>> {
        (**self).revoke(lease)
    }

    fn put(
        &self,
        key: String,
        value: Bytes,
        lease: Option<LeaseId>,
    ) -> BoxFuture<'_, Result<bool, FleetError>> {
        (**self).put(key, value, lease)
    }

    fn delete(&self, key: String) -> BoxFuture<'_, Result<(), FleetError>> {
        (**self).delete(key)
    }

    fn list(&self, prefix: String) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, FleetError>> {
        (**self).list(prefix)
    }

    fn watch(&self, prefix: String) -> BoxStream<'static, Change> {
        (**self).watch(prefix)
    }
}

/// Returns the registry that a `--fleet` flag names: `remote:http://HOST:PORT`, `etcd:http://HOST:PORT[,…]`, or
/// `memory:`, an empty one that only this process knows.
///
/// Nothing is reached yet: a registry that is away is waited for; see [`connect`]. Must be called within a tokio runtime.
///
/// # Errors
///
/// The URL is none of these.
pub fn open(url: &str) -> Result<Arc<dyn Fleet>, FleetError> {
    let bad = || FleetError::BadUrl { url: url.to_owned() };
    match url.split_once(':').ok_or_else(bad)? {
        ("memory", "") => Ok(Arc::new(Memory::new())),
        ("remote", address) => Ok(Arc::new(Remote::new(address).ok_or_else(bad)?)),
        ("etcd", addresses) => Ok(Arc::new(Etcd::new(addresses.split(',')).ok_or_else(bad)?)),
        _ => Err(bad()),
    }
}

/// Like [`open`], for a process that starts: an etcd must answer within five seconds, so that a wrong address is one
/// sentence now and not a warning for ever. Away later, it is waited for.
///
/// A `remote:` registry is not asked: it is a part of the cluster, and starts with it.
///
/// # Errors
///
/// The URL names no registry, or an etcd that does not answer.
pub async fn connect(url: &str) -> Result<Arc<dyn Fleet>, FleetError> {
    let fleet = open(url)?;
    if let Some(addresses) = url.strip_prefix("etcd:") {
        answers(&*fleet).await.map_err(|reason| FleetError::NoEtcd {
            url: addresses.to_owned(),
            within: START_TIMEOUT,
            reason,
        })?;
    }
    Ok(fleet)
}

/// Waits until a registry answers; returns what it said last if it does not.
async fn answers(fleet: &dyn Fleet) -> Result<(), String> {
    let mut last = "no answer".to_owned();
    let tries = async {
        let mut backoff = Backoff::new();
        // No key of ours: a read that a majority agrees to, and nothing to send.
        while let Err(error) = fleet.list("/glint-start".to_owned()).await {
            last = match error {
                FleetError::Away { reason } => reason,
                error => error.to_string(),
            };
            backoff.pause().await;
        }
    };
    let answered = tokio::time::timeout(START_TIMEOUT, tries).await;
    answered.map_err(|_late| last)
}

/// What went wrong with the registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// It cannot be reached, or did not answer in time.
    #[error("the registry cannot be reached: {reason}")]
    Away {
        /// What the transport says.
        reason: String,
    },
    /// It takes no more.
    #[error("the registry is full: {reason}")]
    Full {
        /// Which bound.
        reason: String,
    },
    /// There is none where a process that starts was told to find it.
    #[error(
        "cannot reach etcd at {url} within {within:?}: {reason}; start it, or give another address \
         (--etcd of glint up, --fleet=etcd:URL of others)"
    )]
    NoEtcd {
        /// Its addresses.
        url: String,
        /// How long was tried.
        within: Duration,
        /// What the transport said last.
        reason: String,
    },
    /// A `--fleet` flag that names no registry.
    #[error(
        "{url:?} is no registry, use etcd:http://HOST:PORT, remote:http://HOST:PORT or memory:"
    )]
    BadUrl {
        /// What was given.
        url: String,
    },
}

impl Failure for FleetError {
    fn kind(&self) -> Kind {
        match self {
            Self::Away { .. } | Self::NoEtcd { .. } => Kind::Unavailable,
            Self::Full { .. } => Kind::Exhausted,
            Self::BadUrl { .. } => Kind::Invalid,
        }
    }
}

/// Returns whether this is the URL of a server that can be talked to without TLS.
fn is_http(url: &str) -> bool {
    let uri = tonic::transport::Endpoint::from_shared(url.to_owned()).map(|at| at.uri().clone());
    uri.is_ok_and(|uri| {
        uri.scheme_str() == Some("http") && uri.host().is_some_and(|h| !h.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_registry_is_named_by_a_url_and_anything_else_is_refused() {
        for good in [
            "memory:",
            "remote:http://127.0.0.1:1234",
            "etcd:http://etcd:2379",
            "etcd:http://a:2379,http://b:2379",
        ] {
            assert!(open(good).is_ok(), "{good} was refused");
        }
        for bad in [
            "",
            "memory",
            "memory:x",
            "http://127.0.0.1:1234",
            "remote:",
            "remote:127.0.0.1",
            "remote:https://127.0.0.1:1234",
            "etcd:",
            "etcd:http://",
            "etcd:https://a:2379",
            "etcd:http://a:2379,",
        ] {
            let error = open(bad).unwrap_err();
            assert_eq!(error, FleetError::BadUrl { url: bad.to_owned() });
        }
    }
}
