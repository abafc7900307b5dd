//! How do a writer's keys stay in the registry?
//!
//! One task keeps one lease alive and compares what should be there with what is: a lease that ended (the registry was
//! away for longer, or came back empty) is granted anew, and keys that are gone are put again.

use std::collections::{BTreeMap, BTreeSet};
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::{Bytes, Fleet, FleetError, LeaseId};

/// For the last words: a registry that is away must not hold up the end of a process.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long [`Settled`] is waited for.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Keys under one lease, for as long as this lives. Dropped without [`Registration::close`], they end with the lease.
#[derive(Debug)]
pub struct Registration {
    shared: Arc<Shared>,
    /// The version of [`Wanted`] that the registry held last.
    settled: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    fleet: Arc<dyn Fleet>,
    ttl: Duration,
    wanted: Mutex<Wanted>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Wanted {
    /// Counts the calls that changed anything.
    version: u64,
    entries: BTreeMap<String, Entry>,
    /// Keys that are to go.
    dropped: BTreeSet<String>,
    lease: Option<LeaseId>,
}

#[derive(Clone, Debug)]
struct Entry {
    value: Bytes,
    /// Under which it was put; nothing when it is not there, as far as we know.
    lease: Option<LeaseId>,
}

/// A change that has been said. Need not be awaited: the registration sees to it anyhow.
///
/// Awaited, it returns true once the registry holds the change, or false after some seconds, when the registry is away.
#[derive(Debug)]
pub struct Settled {
    version: u64,
    settled: watch::Receiver<u64>,
}

impl IntoFuture for Settled {
    type Output = bool;
    type IntoFuture = BoxFuture<'static, bool>;

    fn into_future(mut self) -> BoxFuture<'static, bool> {
        async move {
            let settled = self.settled.wait_for(|settled| *settled >= self.version);
            matches!(tokio::time::timeout(SETTLE_TIMEOUT, settled).await, Ok(Ok(_)))
        }
        .boxed()
    }
}

impl Registration {
    /// Starts to keep a lease that ends `ttl` after this process does. Must be called within a tokio runtime.
    #[must_use]
    pub fn start(fleet: Arc<dyn Fleet>, ttl: Duration) -> Self {
        let shared =
            Arc::new(Shared { fleet, ttl, wanted: Mutex::default(), changed: Notify::new() });
        let (settle, settled) = watch::channel(0);
        let task = tokio::spawn(keep(Arc::clone(&shared), settle));
        Self { shared, settled, task }
    }

    /// Says that a key is to have this value, from now on and again whenever it is lost.
    pub fn put(&self, key: impl Into<String>, value: &impl prost::Message) -> Settled {
        let (key, value) = (key.into(), Bytes::from(value.encode_to_vec()));
        self.change(|wanted| {
            wanted.dropped.remove(&key);
            wanted.entries.insert(key, Entry { value, lease: None });
        })
    }

    /// Says that a key is to go.
    pub fn remove(&self, key: impl Into<String>) -> Settled {
        let key = key.into();
        self.change(|wanted| {
            wanted.entries.remove(&key);
            wanted.dropped.insert(key);
        })
    }

    fn change(&self, change: impl FnOnce(&mut Wanted)) -> Settled {
        let version = {
            let mut wanted = self.shared.wanted.lock();
            change(&mut wanted);
            wanted.version += 1;
            wanted.version
        };
        self.shared.changed.notify_one();
        Settled { version, settled: self.settled.clone() }
    }

    /// Ends the lease and with it all keys. A registry that is away is waited for only briefly; there they end by
    /// themselves.
    pub async fn close(mut self) {
        self.task.abort();
        // Cancelled, as was asked for.
        let _cancelled = (&mut self.task).await;
        let lease = self.shared.wanted.lock().lease.take();
        if let Some(lease) = lease {
            let revoked =
                tokio::time::timeout(CLOSE_TIMEOUT, self.shared.fleet.revoke(lease)).await;
            if !matches!(revoked, Ok(Ok(()))) {
                info!("the registry is away, the lease ends by itself");
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a round left.
enum Round {
    /// The registry holds this version.
    Settled(u64),
    /// The lease ended; the next round has a new one.
    LeaseEnded,
}

/// Rounds without end: a full one every third of the lease, and one for the changes alone when something changed.
async fn keep(shared: Arc<Shared>, settle: watch::Sender<u64>) {
    let mut backoff = Backoff::new();
    let mut is_away = false;
    let mut full_at = Instant::now();
    loop {
        let now = Instant::now();
        let is_full = now >= full_at;
        let round = match is_full {
            true => shared.full_round().await,
            false => shared.put_changes().await,
        };
        match round {
            Ok(Round::Settled(version)) => {
                if std::mem::take(&mut is_away) {
                    info!("the registry is back");
                }
                backoff.reset();
                settle.send_replace(version);
                if is_full {
                    full_at = now + shared.ttl / 3;
                }
                tokio::select! {
                    () = shared.changed.notified() => {}
                    () = tokio::time::sleep_until(full_at) => {}
                }
            }
            Ok(Round::LeaseEnded) => {
                warn!("the lease ended, registering anew");
                full_at = now;
                backoff.pause().await;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_away, true) {
                    warn!(error = %error, "cannot register, goes on trying");
                }
                // Whatever happened meanwhile, the whole is looked at.
                full_at = now;
                backoff.pause().await;
            }
        }
    }
}

impl Shared {
    /// Keeps the lease alive, looks whether all is there, and puts what is not.
    async fn full_round(&self) -> Result<Round, FleetError> {
        let held = self.wanted.lock().lease;
        match held {
            Some(lease) => {
                if !self.fleet.keep_alive(lease).await? {
                    return Ok(self.lease_ended());
                }
            }
            None => {
                let lease = self.fleet.grant(self.ttl).await?;
                self.wanted.lock().lease = Some(lease);
            }
        }
        let entries = self.wanted.lock().entries.clone();
        for (key, entry) in entries.into_iter().filter(|(_, entry)| entry.lease.is_some()) {
            let found = self.fleet.list(key.clone()).await?;
            if !found.iter().any(|(at, value)| *at == key && *value == entry.value) {
                info!(key, "a key of ours was gone, it is put again");
                self.mark(&key, &entry.value, None);
            }
        }
        self.put_changes().await
    }

    /// Makes the registry hold what is not there yet.
    async fn put_changes(&self) -> Result<Round, FleetError> {
        let (version, lease, entries, dropped) = {
            let wanted = self.wanted.lock();
            let missing = wanted.entries.iter().filter(|(_, entry)| entry.lease.is_none());
            let missing: Vec<_> =
                missing.map(|(key, entry)| (key.clone(), entry.value.clone())).collect();
            (wanted.version, wanted.lease, missing, wanted.dropped.clone())
        };
        let Some(lease) = lease else { return Ok(Round::LeaseEnded) };
        for key in dropped {
            self.fleet.delete(key.clone()).await?;
            self.wanted.lock().dropped.remove(&key);
        }
        for (key, value) in entries {
            if !self.fleet.put(key.clone(), value.clone(), Some(lease)).await? {
                return Ok(self.lease_ended());
            }
            self.mark(&key, &value, Some(lease));
        }
        Ok(Round::Settled(version))
    }

    /// Notes under which lease a value was put, unless another is wanted by now.
    fn mark(&self, key: &str, value: &Bytes, lease: Option<LeaseId>) {
        if let Some(entry) = self.wanted.lock().entries.get_mut(key)
            && entry.value == *value
        {
            entry.lease = lease;
        }
    }

    fn lease_ended(&self) -> Round {
        let mut wanted = self.wanted.lock();
        wanted.lease = None;
        wanted.entries.values_mut().for_each(|entry| entry.lease = None);
        Round::LeaseEnded
    }
}
